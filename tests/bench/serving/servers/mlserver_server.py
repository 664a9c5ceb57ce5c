"""MLServer: ``mlserver_server.py PORT FOLDER WORKERS``, with one worker process as shipped, or none; needs mlserver.

Its uvloop has to be older than 0.22, with which it does not start its workers.
"""

import json
import os
import socket
import sys
import tempfile
from pathlib import Path

from common import end_with_parent, foreign_models
from mlserver.cli import main as command

HERE = Path(__file__).parent


def free_ports(count):
    with_all = [socket.socket() for _ in range(count)]
    for sock in with_all:
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in with_all]
    for sock in with_all:
        sock.close()
    return ports


def write_settings(folder, port, models, workers):
    http, metrics = free_ports(2)
    settings = {"host": "127.0.0.1", "grpc_port": port, "http_port": http, "metrics_port": metrics}
    settings |= {"parallel_workers": workers, "grpc_max_message_length": 64 * 2**20, "debug": False}
    (folder / "settings.json").write_text(json.dumps(settings))
    for name in foreign_models(models):
        (folder / name).mkdir()
        model = {"name": name, "implementation": "mlserver_runtime.Served", "parameters": {"uri": str(models)}}
        (folder / name / "model-settings.json").write_text(json.dumps(model))


if __name__ == "__main__":
    end_with_parent()
    with tempfile.TemporaryDirectory() as made:
        write_settings(Path(made), int(sys.argv[1]), Path(sys.argv[2]).absolute(), int(sys.argv[3]))
        os.environ["PYTHONPATH"] = str(HERE)  # for its workers
        sys.path.insert(0, str(HERE))
        sys.argv = ["mlserver", "start", made]
        command()
