"""Warm starts: child processes forked from one that has imported what they need, in milliseconds instead of seconds.

A *fork server* is a child process that imports modules, starts no thread, reads no data, and forks. Its children run a
module as ``python -P -m`` does, each with streams, environment, working directory and process group of its own: what
tells them from processes started cold is that their imports are done. Only Linux has what this takes: elsewhere, where
the fork server fails, and with ``SPLITLEAK_COLD_START`` set, children are started cold.

The fork server of ``multiprocessing`` does not serve here: it runs the user's script again in every child, and gives
children its own environment, and no pipes.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import IO, BinaryIO, Protocol

COLD_START = "SPLITLEAK_COLD_START"
"""Environment variable: where it is set, no fork server is used."""

# Variables that are read when they are needed. The fork server is started with all others, for the interpreter and
# libraries in C read theirs as they start.
_READ_LATE = frozenset({"COLUMNS", "LINES", "MPLBACKEND", "OLDPWD", "PWD", "PYTEST_CURRENT_TEST"})
_OURS = "SPLITLEAK_"
_READY, _MESSAGE, _MOST_DESCRIPTORS = b"ready", 64, 64


class Process(Protocol):
    """A child process, as `subprocess.Popen` has it; its stdin and stdout are pipes."""

    stdin: IO[bytes] | None
    stdout: IO[bytes] | None
    pid: int
    returncode: int

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class Starter:
    """Starts ``python -P -m module`` in one environment: warm where it can, else cold."""

    def __init__(self, module: str, preload: Sequence[str], environment: Mapping[str, str]) -> None:
        """Waits for a fork server that has imported the modules ``preload``, as far as they can be imported."""
        self._module, self._environment = module, environment
        self._server = _server(module, preload, environment) if warm(environment) else None

    def start(self, arguments: Sequence[str], errors: BinaryIO | None = None, inherited: Sequence[int] = ()) -> Process:
        """Starts the module.

        Args:
            arguments: Of the command line.
            errors: Gets its stderr; default: that of this process.
            inherited: Descriptors that stay open in it.
        """
        if self._server is not None:
            with contextlib.suppress(ConnectionError):
                return self._server.fork(arguments, self._environment, errors, inherited)
        return subprocess.Popen(
            [sys.executable, "-P", "-m", self._module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=self._environment,
            pass_fds=tuple(inherited) if os.name == "posix" else (),  # Windows has no such thing
            process_group=0,
        )


def warm(environment: Mapping[str, str]) -> bool:
    """Whether children of that environment are started warm."""
    if sys.platform != "linux" or environment.get(COLD_START):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:  # an old kernel, or a sandbox
        return False
    return True


class _Forked:
    """A child of the fork server, which tells its exit status; signals go to a handle, and so never to a stranger."""

    def __init__(
        self, arguments: Sequence[str], pid: int, handle: int, status: socket.socket, streams: tuple[int, int]
    ) -> None:
        self.args, self.pid = arguments, pid
        self.stdin: IO[bytes] | None = open(streams[0], "wb")  # noqa: SIM115
        self.stdout: IO[bytes] | None = open(streams[1], "rb")  # noqa: SIM115
        self.returncode: int = None  # type: ignore[assignment]  # as in `Popen`, until it has ended
        self._handle, self._status = handle, status
        self._lock, self._ended = threading.Lock(), threading.Event()
        threading.Thread(target=self._await_status, name=f"status-{pid}", daemon=True).start()

    def _await_status(self) -> None:
        with self._status:
            said = self._status.recv(_MESSAGE)
        if not said:  # the fork server was killed, and nobody learns how its children end
            self.kill()
        with self._lock:
            self.returncode = int(said or -signal.SIGKILL)
            os.close(self._handle)
        self._ended.set()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended.wait(timeout):
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def send_signal(self, sig: int) -> None:
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self.poll() is None:
                signal.pidfd_send_signal(self._handle, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Server:
    """A fork server, seen from its parent; it ends when it is closed or the parent ends, once no child is left."""

    def __init__(self, module: str, preload: Sequence[str], environment: Mapping[str, str]) -> None:
        self.started_as = (module, preload, environment)
        self._lock = threading.Lock()
        self._children: list[_Forked] = []
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, module, *preload],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=environment,
                process_group=0,
            )
        self._usable = self._control.recv(_MESSAGE) == _READY

    def fork(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        errors: BinaryIO | None,
        inherited: Sequence[int],
    ) -> _Forked:
        """Starts a child.

        Raises:
            ConnectionError: The fork server has ended.
        """
        with self._lock, contextlib.ExitStack() as given, contextlib.ExitStack() as kept:
            if not self._usable:
                raise ConnectionError("expected a fork server, but it has ended")

            status, their_status = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            kept.enter_context(status)
            (stdin, our_stdin), (our_stdout, stdout) = os.pipe(), os.pipe()
            kept.callback(_close, our_stdin, our_stdout)
            request, folder = os.memfd_create("request"), os.open(".", os.O_PATH)
            given.callback(_close, stdin, stdout, request, folder)
            with open(request, "w", closefd=False) as file:
                json.dump((list(map(str, arguments)), dict(environment)), file)
            stderr = 2 if errors is None else errors.fileno()
            with their_status:
                told = (their_status.fileno(), request, folder, stdin, stdout, stderr, *inherited)
                self._usable = False  # unless it answers
                socket.send_fds(self._control, [b"fork"], told)
            answer, handles, *_ = socket.recv_fds(status, _MESSAGE, 1, socket.MSG_CMSG_CLOEXEC)
            if not answer:
                raise ConnectionError("expected a child of the fork server, but it has ended")
            self._usable = True
            kept.pop_all()
            child = _Forked(arguments, int(answer), handles[0], status, (our_stdin, our_stdout))
            self._children = [child, *self._running()]
            return child

    def close_if_idle(self) -> bool:
        """Ends it, unless a child of it runs."""
        with self._lock:
            if idle := not self._running():
                self._usable = False
                self._control.close()
                self._process.wait()
        return idle

    def _running(self) -> list[_Forked]:
        return [child for child in self._children if child.poll() is None]


_current: list[_Server] = []  # one at most, for each takes the memory of what it has imported
_choosing = threading.Lock()


def _server(module: str, preload: Sequence[str], environment: Mapping[str, str]) -> _Server | None:
    """The fork server for that environment; none while children of one for another environment run."""
    early = {key: value for key, value in environment.items() if key not in _READ_LATE and not key.startswith(_OURS)}
    asked = (module, tuple(preload), early)
    with _choosing:
        if _current and _current[0].started_as != asked:
            if not _current[0].close_if_idle():
                return None
            _current.clear()
        if not _current:
            _current.append(_Server(*asked))
        return _current[0]


@atexit.register
def _close_current() -> None:
    for server in _current:
        server.close_if_idle()


def _serve(control: socket.socket) -> list[int]:
    """Forks as often as asked, until the parent ends; returns in each child, with the descriptors that it was given."""
    children: dict[int, tuple[int, socket.socket]] = {}  # process and where its exit status goes, by its handle
    with contextlib.suppress(ConnectionError):  # the parent has ended
        control.send(_READY)
    with selectors.DefaultSelector() as events:
        events.register(control, selectors.EVENT_READ)
        while events.get_map():
            for key, _ in events.select():
                if key.fileobj is not control:
                    events.unregister(key.fd)
                    pid, status = children.pop(key.fd)
                    _, ended = os.waitpid(pid, 0)
                    _send(status, os.waitstatus_to_exitcode(ended))
                    _close(key.fd)
                    status.close()
                    continue
                asked, received, *_ = socket.recv_fds(control, _MESSAGE, _MOST_DESCRIPTORS)
                if not asked:  # the parent has ended
                    events.unregister(control)
                    continue
                status = socket.socket(fileno=received[0])
                try:
                    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
                        pid = os.fork()  # the only other thread may be OpenBLAS's, which is made for that
                except OSError:  # too many processes: the parent, which gets no answer, tries it cold
                    _close(*received[1:])
                    status.close()
                    continue
                if pid == 0:
                    for other in (status, *(other for _, other in children.values())):
                        other.close()
                    _close(*children)
                    return received[1:]
                os.setpgid(pid, pid)
                _close(*received[1:])
                handle = os.pidfd_open(pid)
                _send(status, pid, handle)
                children[handle] = (pid, status)
                events.register(handle, selectors.EVENT_READ)
    os._exit(0)


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _send(status: socket.socket, number: int, *descriptors: int) -> None:
    with contextlib.suppress(ConnectionError):  # the parent has ended
        socket.send_fds(status, [b"%d" % number], descriptors)


def _become(request: int, folder: int, stdin: int, stdout: int, stderr: int, *_inherited: int) -> None:
    """Gives this process the streams, the working directory, the arguments and the environment that were asked for."""
    for descriptor, place in ((stdin, 0), (stdout, 1), (stderr, 2)):
        os.dup2(descriptor, place)
        os.close(descriptor)
    os.fchdir(folder)
    os.close(folder)
    with open(request) as file:
        file.seek(0)  # the parent has written it with the same descriptor
        arguments, environment = json.load(file)
    sys.argv[1:] = arguments
    os.environ.clear()
    os.environ.update(environment)
    # What is drawn without a seed differs between processes; Python's own generator sees to that itself.
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()
    if (torch := sys.modules.get("torch")) is not None:
        torch.default_generator.seed()


def _leave(codes: Sequence[int]) -> None:
    """Ends a child, without taking apart, object by object, what it shares with the fork server: half a second."""
    for code in codes:  # of an exception there is none: the interpreter ends as it does
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _main() -> None:
    module, *preload = sys.argv[1:]
    codes: list[int] = []
    atexit.register(_leave, codes)  # as the first, and so the last to be called
    gc.disable()
    for name in preload:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()  # what is shared with the children stays shared: no collection of theirs writes to it
    gc.enable()
    with socket.socket(fileno=0) as control:
        received = _serve(control)
        control.detach()
    _become(*received)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        codes.append(0)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            codes.append((end.code or 0) & 0xFF)
        raise


if __name__ == "__main__":
    _main()
