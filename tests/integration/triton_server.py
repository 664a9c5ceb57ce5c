"""A real Triton Inference Server on loopback: ``triton_server.py ENVIRONMENT REPOSITORY [PORT]``.

ENVIRONMENT is a virtual environment with ``nvidia-pytriton``, whose wheel holds the server and its Python backend, and
with what the models need. It has to be made by a Python of which the system has the shared library, such as Debian's
``/usr/bin/python3``: the backend loads it. Prints the port once all models are loaded, and runs until its standard
input ends.
"""

import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import grpc

START_S = 60
STOP_S = 30


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def backends(server, version, folder):
    """The server's backends with the stub for this Python beside the Python backend, where it is looked for."""
    python = folder / "python"
    python.mkdir()
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    for file in (*(server / "backends" / "python").iterdir(), stub):
        (python / file.name).symlink_to(file)
    return folder


def main(environment, repository, port):
    (packages,) = environment.glob("lib/python3.*/site-packages")
    version = re.search(r"\d+\.\d+", packages.parent.name).group()
    server = packages / "pytriton" / "tritonserver"
    with tempfile.TemporaryDirectory() as folder:
        command = [server / "bin" / "tritonserver", "--model-repository", repository]
        command += ["--backend-directory", backends(server, version, Path(folder))]
        command += ["--allow-http", "false", "--allow-metrics", "false"]
        command += ["--grpc-address", "127.0.0.1", "--grpc-port", str(port)]
        found_first = {**os.environ, "PATH": f"{environment / 'bin'}:{os.environ['PATH']}"}
        with subprocess.Popen(list(map(str, command)), env=found_first, stdout=sys.stderr) as process:
            try:
                with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                    grpc.channel_ready_future(channel).result(START_S)
                sys.stdout.write(f"{port}\n")
                sys.stdout.flush()
                sys.stdin.read()
            finally:
                process.terminate()
                process.wait(STOP_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute(), int((*sys.argv[3:], free_port())[0]))
