"""The servers of the comparison as processes: started on one core, awake only while they are measured."""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from splitleak.wire.protocol.pb import open_inference_pb2 as pb
from splitleak.wire.protocol.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.bench.serving.environments import environment

_LOGGER = logging.getLogger(__name__)
_SERVERS = Path(__file__).parent / "servers"
_TRITON = Path(__file__).parents[2] / "integration" / "triton_server.py"
_ROOT = Path(__file__).parents[3]
_START_S = 120.0
_POLL_S = 0.05
PEERS = ("kserve", "mlserver", "mlserver-inline", "triton")


def cores() -> tuple[set[int], set[int]]:
    """One core for the servers and one for the clients, where there are two."""
    usable = sorted(os.sched_getaffinity(0))
    return {usable[0]}, {usable[-1]}


@contextlib.contextmanager
def on_cores(chosen: set[int]) -> Iterator[None]:
    """What this thread starts meanwhile runs on ``chosen``."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, chosen)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True)
class Server:
    """A running contestant, in a process group of its own."""

    name: str
    port: int
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Lets it run; afterwards it is stopped, and costs the others nothing."""
        os.killpg(self.process.pid, signal.SIGCONT)
        try:
            yield
        finally:
            os.killpg(self.process.pid, signal.SIGSTOP)

    def cpu_s(self) -> float:
        """Seconds of the processor that the threads and children which it has now have used."""
        return sum(map(cpu_s, _family(self.process.pid)))


@contextlib.contextmanager
def started(name: str, folder: Path) -> Iterator[Server]:
    """Contestant ``name`` on a port of loopback, asleep; ``folder`` holds models, environments and logs.

    Raises:
        RuntimeError: It cannot be installed, or does not come up; the end of its log is in the message.
    """
    port = free_port()
    command, paths = _command(name, port, folder)
    log = folder / f"{name}.log"
    environ = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as output, on_cores(cores()[0]):
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environ, process_group=0
        )
    server = Server(name, port, process)
    try:
        _wait(server, log, socket_only=name == "socket")
        os.killpg(process.pid, signal.SIGSTOP)
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdin.close()


def _command(name: str, port: int, folder: Path) -> tuple[list[str], str]:
    """What is run, and its PYTHONPATH."""
    models = folder / "models"
    if name in ("ours", "socket"):
        script = {"ours": "ours.py", "socket": "socket_server.py"}[name]
        return [sys.executable, str(_SERVERS / script), str(port), str(models)], str(_ROOT)
    if name == "triton":
        triton = str(environment("triton", folder))
        return [sys.executable, str(_TRITON), triton, str(folder / "triton-models"), str(port)], str(_ROOT)
    base, _, inline = name.partition("-")
    python = str(environment(base, folder) / "bin" / "python")
    workers = ["0" if inline else "1"] if base == "mlserver" else []
    return [python, str(_SERVERS / f"{base}_server.py"), str(port), str(models), *workers], str(_SERVERS)


def _wait(server: Server, log: Path, *, socket_only: bool) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and server.process.poll() is None:
        if _answers(server, socket_only):
            return
        time.sleep(_POLL_S)
    raise RuntimeError(f"{server.name} did not come up: {log.read_text(errors='replace').strip()[-500:]}")


def _answers(server: Server, socket_only: bool) -> bool:
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
    except OSError:
        return False
    if socket_only:
        return True
    try:
        with grpc.insecure_channel(server.address) as channel:
            stub = GRPCInferenceServiceStub(channel)
            return all(
                stub.ModelReady(pb.ModelReadyRequest(name=name), timeout=5).ready
                for name in ("null2k", "null64k", "tail")
            )
    except grpc.RpcError:
        return False


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def _family(pid: int) -> list[int]:
    children = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += map(int, (task / "children").read_text().split())
    return [pid, *(each for child in children for each in _family(child))]


def cpu_s(pid: int) -> float:
    """Seconds of the processor that the threads which a process has now have used."""
    spent = 0
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            spent += int((task / "schedstat").read_text().split()[0])
    return spent / 1e9
