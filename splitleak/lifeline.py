"""A child process ends with its parent, however the parent ends: it holds one end of a pipe and watches it."""

import os
import signal
import sys
import threading

_VARIABLE = "SPLITLEAK_LIFELINE"


def child_environment() -> dict[str, str]:
    """The environment for a child whose standard input is a pipe that we keep open."""
    return {**os.environ, _VARIABLE: "1"}


def hold_lifeline() -> None:
    """In such a child: sends ourselves SIGTERM when standard input ends, which it does when the parent dies."""
    if os.environ.pop(_VARIABLE, None) is not None:
        threading.Thread(target=_watch, name="lifeline", daemon=True).start()


def _watch() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
