"""The lock on an open file, as it is here and as it is on Windows, and a package that does not need POSIX."""

import fcntl
import importlib.util
import os
import subprocess
import sys
from types import ModuleType

import pytest

from splitleak import locks

HALF = 2**30


@pytest.fixture(params=["here", "windows"])
def lock_file(request, monkeypatch):
    """The lock of this system, and that of one with msvcrt alone, which locks bytes from the file's position on."""
    if request.param == "here":
        return locks.lock_file
    msvcrt = ModuleType("msvcrt")
    msvcrt.LK_NBLCK = 2

    def locking(descriptor, mode, size):
        assert (mode, size) == (msvcrt.LK_NBLCK, 1)
        assert os.lseek(descriptor, 0, os.SEEK_CUR) > HALF  # what is there can be read meanwhile
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(13, "Permission denied") from None

    msvcrt.locking = locking
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt)
    spec = importlib.util.spec_from_file_location("locks_of_windows", locks.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.lock_file


def test_one_opening_of_a_file_holds_it_until_it_is_closed_and_stays_where_it_was(lock_file, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    with path.open("r+b", buffering=0) as first, path.open("r+b", buffering=0) as second:
        first.seek(1)
        lock_file(first.fileno())
        assert first.read() == b"bc"
        with pytest.raises(BlockingIOError):
            lock_file(second.fileno())
    with path.open("r+b") as third:
        lock_file(third.fileno())


ABSENT = """
import os, pkgutil, signal, subprocess, sys, types
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
msvcrt = types.ModuleType("msvcrt")
msvcrt.LK_NBLCK, msvcrt.locking = 2, lambda descriptor, mode, size: held.append(descriptor)
held, sys.modules["msvcrt"] = [], msvcrt
absent = {os: "sched_getaffinity fork pread pwrite getuid O_CLOEXEC", signal: "alarm SIGALRM SIGKILL"}
for owner, names in absent.items():
    for name in names.split():
        if hasattr(owner, name):
            delattr(owner, name)
import splitleak
from splitleak import cores, outputs, parent_watch
from pathlib import Path
with outputs.locked(Path(sys.argv[1]) / "place"):
    assert len(held) == 1
assert cores.usable_cores() >= 1
wanted = sys.argv[2:] or [m.name for m in pkgutil.walk_packages(splitleak.__path__, "splitleak.")]
wanted = [name for name in wanted if not name.endswith("on_ray")]  # of an extra, which POSIX alone has
for name in wanted:
    if not name.endswith("__main__"):
        __import__(name)
os.environ["SPLITLEAK_LIFELINE"] = "1"
signal.signal(signal.SIGTERM, lambda *_: (print("terminated", flush=True), os._exit(7)))
parent_watch.exit_with_parent()
import threading
threading.Event().wait(60)
"""
QUICK = ("splitleak.cli", "splitleak.logs", "splitleak.wire.address", "splitleak.wire.link.link")


@pytest.mark.parametrize("modules", [QUICK, pytest.param((), marks=pytest.mark.slow)], ids=["some", "all"])
def test_without_what_posix_alone_has_the_package_is_imported_locks_counts_and_follows_its_parent(modules, tmp_path):
    command = [sys.executable, "-c", ABSENT, str(tmp_path), *modules]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    assert (ended.returncode, ended.stdout) == (7, "terminated\n"), ended.stderr
