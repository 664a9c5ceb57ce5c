"""Child processes of an evaluation: started with nothing but their own options, and gone when their parent is."""

import json
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, BinaryIO

from splitleak.parent_watch import child_environment

_STOP_S = 10.0


class Children:
    """Starts child processes that share an environment, and can end them all at once from another thread."""

    def __init__(self, environment: Mapping[str, str] | None = None, *, inherited: Sequence[int] = ()) -> None:
        """``environment`` is added to ours; ``inherited`` file descriptors stay open in every child."""
        self._environment = {**child_environment(), **(environment or {})}
        self._inherited = tuple(inherited)
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    @contextmanager
    def start(self, arguments: Sequence[str], errors: BinaryIO | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """A ``splitleak`` command that runs at most while the block does; its standard output is a pipe.

        It is in a process group of its own: what a terminal sends on Ctrl-C reaches us alone, and we end it.

        Raises:
            InterruptedError: `stop` was called.
        """
        with self._lock:
            if self._stopped:
                raise InterruptedError(f"expected to start {arguments[0]}, but everything is being stopped")
            process = subprocess.Popen(
                _command([*arguments, "--json"]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=self._environment,
                pass_fds=self._inherited,
                process_group=0,
            )
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
        """Runs a command to its end and returns its JSON result; what it says on standard error goes to ``log``.

        Raises:
            subprocess.CalledProcessError: It failed.
            InterruptedError: `stop` was called.
        """
        with log.open("ab") as errors, self.start(arguments, errors) as process:
            result, code = _outcome(process)
        if self._stopped:  # a service that is stopped ends well, but has not done what it was started for
            raise InterruptedError(f"expected {arguments[0]} to end, but it was stopped")
        if code != 0:
            raise subprocess.CalledProcessError(code, shlex.join(["splitleak", *arguments]))
        return result

    def stop(self) -> None:
        """Asks all that run to end; nothing starts any more. Whoever started them sees them end."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            process.terminate()
        for process in running:
            _end(process)


class Service:
    """A running ``splitleak`` service; what it says on standard output, one JSON object a line, are its events."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name, self.process, self._log = name, process, log
        self._events: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self._events.put(json.loads(line))
        self._events.put(None)

    def wait_for(self, event: str, timeout_s: float) -> dict[str, Any]:
        """The next event of that name.

        Raises:
            RuntimeError: The process ended first; the end of its log is in the message.
            TimeoutError: It did not come in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                found = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                raise TimeoutError(f"expected {self.name} to report {event!r} within {timeout_s:.0f} s") from None
            if found is None:
                tail = "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:])
                raise RuntimeError(f"expected {self.name} to report {event!r}, but it ended:\n{tail}")
            if found.get("event") == event:
                return found


@contextmanager
def service(arguments: Sequence[str], log: Path, children: Children | None = None) -> Iterator[Service]:
    """A service that runs while the block does; its standard error goes to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as errors, (children or Children()).start(arguments, errors) as process:
        yield Service(arguments[0], process, log)


def run(arguments: Sequence[str]) -> dict[str, Any]:
    """Runs a ``splitleak`` command to its end and returns its JSON result; its progress goes to our standard error.

    Raises:
        RuntimeError: It failed; it has said why on standard error.
    """
    with Children().start(arguments) as process:
        result, code = _outcome(process)
    if code != 0:
        raise RuntimeError(f"expected `splitleak {arguments[0]}` to succeed, but it ended with {code}")
    return result


def _outcome(process: subprocess.Popen[bytes]) -> tuple[dict[str, Any], int]:
    """What a command prints last, and how it ends."""
    assert process.stdout is not None
    with process.stdout as output:
        lines = output.read().splitlines()
    code = process.wait()
    return (json.loads(lines[-1]) if code == 0 else {}), code


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks a process to stop, waits, and kills it if it does not."""
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-P", "-m", "splitleak", *arguments]
