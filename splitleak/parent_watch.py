"""Parent-death watch: a child process ends when its parent does, however that ends, by watching a pipe."""

import os
import signal
import sys
import threading

_VARIABLE = "SPLITLEAK_LIFELINE"
_GRACE_S = 15


def child_environment() -> dict[str, str]:
    """The environment for a child whose standard input is a pipe held open by this process."""
    return {**os.environ, _VARIABLE: "1"}


def exit_with_parent() -> None:
    """In such a child: sends this process SIGTERM when standard input is closed, as it is when the parent dies.

    If it is still running ``_GRACE_S`` seconds later, SIGALRM kills it: gRPC's objects can deadlock while the
    interpreter shuts down, when no Python thread runs any more. Windows has neither signal: there it ends at once.
    """
    if os.environ.pop(_VARIABLE, None) is not None:
        threading.Thread(target=_watch, name="parent-watch", daemon=True).start()


def _watch() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    if hasattr(signal, "alarm"):
        signal.alarm(_GRACE_S)
    os.kill(os.getpid(), signal.SIGTERM)
