"""A child process ends with its parent, however the parent ends: it holds one end of a pipe and watches it."""

import os
import signal
import sys
import threading

_VARIABLE = "SPLITLEAK_LIFELINE"
_PATIENCE_S = 15


def child_environment() -> dict[str, str]:
    """The environment for a child whose standard input is a pipe that we keep open."""
    return {**os.environ, _VARIABLE: "1"}


def hold_lifeline() -> None:
    """In such a child: sends ourselves SIGTERM when standard input ends, which it does when the parent dies.

    A process that has not ended ``_PATIENCE_S`` later is ended by the kernel: gRPC's objects can wait for ever for each
    other while the interpreter shuts down, when no thread of ours runs any more.
    """
    if os.environ.pop(_VARIABLE, None) is not None:
        threading.Thread(target=_watch, name="lifeline", daemon=True).start()


def _watch() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    signal.alarm(_PATIENCE_S)
    os.kill(os.getpid(), signal.SIGTERM)
