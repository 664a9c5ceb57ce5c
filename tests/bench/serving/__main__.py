"""Our server and client beside their peers: ``python -m tests.bench.serving``.

One interleaved run on loopback: a bare socket with the same compute inline (the limit), ours, KServe and MLServer from
PyPI and, where it installs, Triton; each in an environment of its own under ``runs/bench-serving``, made at the first
run. The server that is measured has one core and the client the other; all others are stopped. Every contestant's
logits are first held to the socket's. Medians over rounds; ratios are medians of each round's ratio, by the clock
and beside it by the time of the processor on both sides, which a busy machine disturbs less. A target that the clock
misses is said, and is no error.
"""

import argparse
import contextlib
import gc
import logging
import os
import subprocess
import sys
from pathlib import Path

from splitleak.artifacts import provenance, write_json
from splitleak.wire.server.malloc import keep_big_buffers
from tests.bench.serving import parts
from tests.bench.serving.clients import Tritonclient
from tests.bench.serving.contestants import PEERS, cores, started

_LOGGER = logging.getLogger(__name__)
_SERVERS = Path(__file__).parent / "servers"
_ROOT = Path(__file__).parents[3]


def prepare(folder: Path, *, triton: bool) -> Path:
    """Writes what the servers load; returns its folder."""
    models = folder / "models"
    models.mkdir(parents=True, exist_ok=True)
    commands = [["models.py", models]] + ([["triton_models.py", models, folder / "triton-models"]] if triton else [])
    for script, *arguments in commands:
        command = [sys.executable, str(_SERVERS / str(script)), *map(str, arguments)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(_ROOT)})
    return models


def show(name: str, found: parts.Found) -> None:
    for group, rows in found.figures.items():
        if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
            told = (
                [f"{key} {value:.3f}" for key, value in rows.items()]
                if isinstance(rows, dict)
                else map("{:.3f}".format, rows)
            )
            _LOGGER.info("%-10s %s: %s", name, group, ", ".join(told))
            continue
        _LOGGER.info("%-10s %s: ms a request; of the processor, server and client", name, group)
        for way, row in sorted(rows.items(), key=lambda each: each[1]["ms"]):
            _LOGGER.info("%12s%-32s %9.3f %9.3f %9.3f", "", way, row["ms"], row["server_ms"], row["client_ms"])
    for target in found.targets:
        verdict = {True: "reached", False: "MISSED", None: "not measured"}[target.reached]
        value, processor = ("-" if each is None else f"{each:.3f}" for each in (target.value, target.processor))
        bound = f"at {'least' if target.at_least else 'most'} {target.limit:.2f}"
        _LOGGER.info("%-10s %-52s %8s %8s  %-14s %s", name, target.name, value, processor, bound, verdict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=parts.NAMES, nargs="+", default=parts.NAMES, help="parts to run")
    parser.add_argument("--peers", choices=PEERS, nargs="*", default=PEERS, help="beside ours and the socket")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench-serving"), help="environments, models and logs")
    parser.add_argument("--out", type=Path, help="JSON file for all figures")
    asked = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(message)s")
    logging.getLogger("edge").setLevel("WARNING")
    keep_big_buffers()
    made, found = provenance(), {}
    _LOGGER.info("%s; %d rounds", made["hardware"], asked.rounds)
    models = prepare(asked.folder, triton="triton" in asked.peers)
    served = [name for name in parts.SERVED if name in asked.only]
    absent = {}
    with contextlib.ExitStack() as stack:
        servers = {}
        peers = asked.peers if {"rpc", "tail"} & set(served) else ()
        for name in ("socket", "ours", *peers) if served else ():
            try:
                servers[name] = stack.enter_context(started(name, asked.folder))
            except RuntimeError as error:
                if name not in PEERS:
                    raise
                absent[name] = str(error)
                _LOGGER.warning("without %s: %s", name, error)
        if served:
            os.sched_setaffinity(0, cores()[1])
            bench = parts.Bench(servers, stack.enter_context(Tritonclient()), asked.rounds)
        gc.freeze()
        for name in served:
            found[name] = parts.SERVED[name](bench)
            show(name, found[name])
    if served:
        os.sched_setaffinity(0, set().union(*cores()))
    for name, alone in (
        ("start", lambda: parts.start(models, asked.rounds)),
        ("encoding", lambda: parts.encoding(asked.rounds)),
    ):
        if name in asked.only:
            found[name] = alone()
            show(name, found[name])
    if asked.out:
        results = {
            name: {
                "figures": each.figures,
                "targets": [{**vars(target), "reached": target.reached} for target in each.targets],
            }
            for name, each in found.items()
        }
        write_json(asked.out, {"rounds": asked.rounds, "absent": absent, "parts": results, "provenance": made})


if __name__ == "__main__":
    main()
