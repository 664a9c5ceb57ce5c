"""Child processes of an evaluation: ``splitleak`` commands and services, which end when their parent does."""

import json
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, BinaryIO

from splitleak.parent_watch import child_environment
from splitleak.warm_start import Process, Starter

_STOP_S = 10.0
PRELOADED = (
    "splitleak.cli",
    "splitleak.library",
    "splitleak.eval.campaign.jobs",
    "splitleak.cloud.service",
    "splitleak.edge.service",
    "splitleak.attacker.tap",
    "torchvision.datasets",
    "torch._dynamo",  # by the first step of an optimiser, and in a second
    "rich.progress",
)


class Children:
    """Starts child processes that share an environment, and can stop all of them from another thread."""

    def __init__(self, environment: Mapping[str, str] | None = None, *, inherited: Sequence[int] = ()) -> None:
        """``environment`` is added to that of this process; ``inherited`` file descriptors stay open in every child."""
        self._environment = {**child_environment(), **(environment or {})}
        self._inherited = tuple(inherited)
        self._running: set[Process] = set()
        self._lock = threading.Lock()
        self._stopped = False

    @contextmanager
    def start(self, arguments: Sequence[str], errors: BinaryIO | None = None) -> Iterator[Process]:
        """Runs a ``splitleak`` command, at most while the block does; its stdout is a pipe, ``errors`` gets its stderr.

        It has its own process group: Ctrl-C in a terminal signals this process only, which then stops the child.

        Raises:
            InterruptedError: `stop` was called.
        """
        starter = Starter("splitleak", PRELOADED, self._environment)
        with self._lock:
            if self._stopped:
                raise InterruptedError(f"expected to start {arguments[0]}, but everything is being stopped")
            process = starter.start([*arguments, "--json"], errors, self._inherited)
            self._running.add(process)
        try:
            yield process
        finally:
            _end(process)
            assert process.stdin is not None
            process.stdin.close()
            with self._lock:
                self._running.discard(process)

    def run(self, arguments: Sequence[str], log: Path) -> dict[str, Any]:
        """Runs a command to its end and returns its JSON result; its stderr is appended to ``log``.

        Raises:
            subprocess.CalledProcessError: Its exit status is not 0.
            InterruptedError: `stop` was called.
        """
        with log.open("ab") as errors, self.start(arguments, errors) as process:
            assert process.stdout is not None
            with process.stdout as output:
                lines = output.read().splitlines()
            code = process.wait()
        if self._stopped:  # a stopped command may exit with 0, but has not finished its work
            raise InterruptedError(f"expected {arguments[0]} to end, but it was stopped")
        if code != 0:
            raise subprocess.CalledProcessError(code, shlex.join(["splitleak", *arguments]))
        result: dict[str, Any] = json.loads(lines[-1])
        return result

    def stop(self) -> None:
        """Terminates all running children, and lets no other start."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            process.terminate()
        for process in running:
            _end(process)


class Service:
    """A running ``splitleak`` service; its events are JSON objects on its stdout, one a line."""

    def __init__(self, name: str, process: Process, log: Path, log_start: int = 0) -> None:
        """Of the ``log``, which earlier runs wrote to as well, its own lines are those from byte ``log_start`` on."""
        self.name, self.process, self._log, self._log_start = name, process, log, log_start
        self._events: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self._events.put(json.loads(line))
        self._events.put(None)

    def _why(self) -> str:
        own = self._log.read_bytes()[self._log_start :].decode(errors="replace").strip()
        if own:
            return ":\n" + "\n".join(own.splitlines()[-8:])
        return f" with exit status {self.process.wait(_STOP_S)}, and wrote nothing"  # negative: a signal

    def wait_for(self, event: str, timeout_s: float) -> dict[str, Any]:
        """Waits for the next event of that name.

        Raises:
            RuntimeError: The process ended first; the message contains the end of its log.
            TimeoutError: There was no such event within ``timeout_s`` seconds.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                received = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                raise TimeoutError(f"expected {self.name} to report {event!r} within {timeout_s:.0f} s") from None
            if received is None:
                raise RuntimeError(f"expected {self.name} to report {event!r}, but it ended{self._why()}")
            if received.get("event") == event:
                return received


@contextmanager
def service(arguments: Sequence[str], log: Path, children: Children | None = None) -> Iterator[Service]:
    """Runs a service while the block does; its stderr is appended to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as errors, (children or Children()).start(arguments, errors) as process:
        yield Service(arguments[0], process, log, errors.tell())


def _end(process: Process) -> None:
    """Terminates a process, and kills it after a timeout."""
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
