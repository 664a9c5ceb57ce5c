"""Child processes of an evaluation: started with nothing but their own options, and gone when their parent is."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from splitleak.lifeline import child_environment

_STOP_S = 10.0


class Service:
    """A running ``splitleak`` service; what it says on standard output, one JSON object a line, are its events."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.name, self._log = arguments[0], log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                _command([*arguments, "--json"]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=child_environment(),
            )
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

    def stop(self) -> None:
        """Asks the process to stop, waits, and kills it if it does not."""
        self.process.terminate()
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()


@contextmanager
def service(arguments: Sequence[str], log: Path) -> Iterator[Service]:
    """A service that runs while the block does."""
    running = Service(arguments, log)
    try:
        yield running
    finally:
        running.stop()


def run(arguments: Sequence[str]) -> dict[str, Any]:
    """Runs a ``splitleak`` command to its end and returns its JSON result; its progress goes to our standard error.

    Raises:
        RuntimeError: It failed; it has said why on standard error.
    """
    with subprocess.Popen(
        _command([*arguments, "--json"]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=child_environment(),
    ) as process:
        assert process.stdout is not None
        try:
            output = process.stdout.read()
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait(_STOP_S)
            raise
    if code != 0:
        raise RuntimeError(f"expected `splitleak {arguments[0]}` to succeed, but it ended with {code}")
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "splitleak.cli", *arguments]
