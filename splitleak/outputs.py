"""Who may write an output and what it may replace: a lock beside it, the mark of what is ours, recovery after a kill.

A folder NAME is written as ``.NAME.partial``, which becomes ``.NAME.new`` once it is whole, and then takes the place of
an old NAME by two renames, by way of ``.NAME.old``. At every instant one of NAME, ``.NAME.new`` and ``.NAME.old`` is
whole, and the next process that claims NAME puts it in its place. So it is after a power cut too: all of the new one is
on the disk before it is renamed, and its name is before the old one is removed.
"""

import contextlib
import errno
import json
import os
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from splitleak.locks import lock_file

_POLL_S = 0.05
_SHOWN = 3
_TRANSIENT = (".*.partial", ".*.lock")
NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # whose target is none of ours; Windows has none


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder that a command writes, and how one is told from a user's own.

    Args:
        command: What writes it, for messages; several where any of them does.
        mark: The file that every such folder has.
        others: Patterns of all else that may be in it: a folder that holds anything more is never replaced.
        text: What is in every mark of the kind, where it is text; None: it is JSON, and says the settings.
    """

    command: str | tuple[str, ...]
    mark: str
    others: tuple[str, ...] = ()
    text: str | None = None

    @property
    def writers(self) -> str:
        """The commands as text."""
        commands = (self.command,) if isinstance(self.command, str) else self.command
        return " or ".join(f"`splitleak {command}`" for command in commands)

    def strangers(self, folder: Path) -> list[str]:
        """The names in ``folder`` that no command of ours gave."""
        known = (self.mark, *self.others, *_TRANSIENT)
        names = sorted(entry.name for entry in folder.iterdir())
        return [name for name in names if not any(fnmatch(name, pattern) for pattern in known)]

    def document(self, folder: Path) -> dict[str, Any] | None:
        """What the mark in ``folder`` says; None where there is none, or it is none of ours."""
        try:
            said = (folder / self.mark).read_text(encoding="utf-8")
            found = json.loads(said) if self.text is None else {} if self.text in said else None
        except (OSError, ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def check(self, path: Path, settings: Mapping[str, Any] | None = None, *, force: bool = False) -> None:
        """Refuses what may not be replaced; no file, an empty folder, and one that we wrote with ``settings`` may.

        Args:
            path: Where the folder is to be.
            settings: What the mark must say of a folder that is replaced without ``force``; None: anything.
            force: Whether a folder of ours may have other settings.

        Raises:
            FileExistsError: ``path`` is a file, a folder that the command did not write, or one of other settings.
        """
        if not os.path.lexists(path):
            return
        ours = f"a folder that {self.writers} wrote"
        if not path.is_dir():
            raise FileExistsError(f"expected {ours} or none at {path}, got a file; it was not touched")
        if next(path.iterdir(), None) is None:
            return
        document, strangers = self.document(path), self.strangers(path)
        if document is None or strangers:
            which = f"one with {_listed(strangers)}" if strangers else f"one without a valid {self.mark}"
            raise FileExistsError(f"expected {ours} or none at {path}, got {which}; it was not touched")
        _check_settings(path, ours, document, {} if force else settings or {})


def check_json_name(path: Path, what: str) -> None:
    """Refuses a name of a file under which no command would read the JSON that one is about to write.

    Raises:
        ValueError: It does not end in ``.json``.
    """
    if path.suffix != ".json":
        raise ValueError(f"expected a .json file for {what}, got {path}")


def check_file(
    path: Path,
    what: str,
    ours: Callable[[Path], object],
    settings: Mapping[str, Any] | None = None,
    *,
    force: bool = False,
) -> None:
    """Refuses to replace a file that is none of ours; an empty one, none, and one that we wrote with ``settings`` may.

    Args:
        path: The file that is to be written.
        what: What it may be, for the message.
        ours: Reads it; raises, or returns False, where it is something else. Returns what it says of its settings.
        settings: What that must be of a file that is replaced without ``force``; None: anything.
        force: Whether a file of ours may have other settings.

    Raises:
        FileExistsError: There is something else, or a file of other settings.
    """
    with contextlib.suppress(FileNotFoundError):
        regular, size = path.is_file(), path.stat().st_size
        if regular and size == 0:
            return
        found: object = False
        with contextlib.suppress(OSError, ValueError, LookupError, RecursionError):
            found = regular and ours(path)
        if found is False:
            raise FileExistsError(f"expected {what} or none at {path}, got something else; it was not touched")
        if isinstance(found, Mapping):
            _check_settings(path, what, found, {} if force else settings or {})


def _check_settings(path: Path, what: str, kept: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    if changed := list(_differences(json.loads(json.dumps(asked)), kept)):
        raise FileExistsError(
            f"expected {what} with these settings at {path}, but it has {_listed(changed)}; --force replaces it"
        )


@contextlib.contextmanager
def claimed(
    path: Path, kind: FolderKind, settings: Mapping[str, Any] | None = None, *, force: bool = False
) -> Iterator[Path]:
    """The folder ``path`` is this thread's to write while the block runs; yields its resolved path.

    What a killed process left is put in its place, or removed, first. A block within another on one path is let in.

    Raises:
        BlockingIOError: Another process, or thread, writes it; the message names it.
        FileExistsError: It holds what may not be replaced, see `FolderKind.check`.
    """
    place = path.resolve()
    with locked(place):
        _recover(place, kind)
        kind.check(place, settings, force=force)
        yield place


@contextlib.contextmanager
def locked(path: Path, patience_s: float = 0.5) -> Iterator[None]:
    """No other process, or thread, is in such a block with ``path`` meanwhile; a block within another is let in.

    The lock is the file ``.NAME.lock`` beside ``path``, which says who holds it. It ends with its process.

    Raises:
        BlockingIOError: After ``patience_s`` another still holds it; the message has its process id and command.
        FileExistsError: There is a link where the lock is to be.
        OSError: The file system has no locks.
    """
    held: set[Path] = _HELD.__dict__.setdefault("paths", set())
    if path in held:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = beside(path, "lock")
    descriptor = _acquired(lock, path, patience_s)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} ({shlex.join(sys.argv)})".encode(errors="backslashreplace"))
        held.add(path)
        yield
    finally:
        held.discard(path)
        with contextlib.suppress(PermissionError):  # of Windows, which keeps an open file: the empty lock stays there
            lock.unlink(missing_ok=True)  # while it is held: whoever waits for it sees that, and makes another
        os.close(descriptor)


_HELD = threading.local()


def _acquired(lock: Path, path: Path, patience_s: float) -> int:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | NO_LINK, 0o644)
        except OSError as error:
            if not lock.is_symlink():
                raise
            raise FileExistsError(
                f"expected a lock of ours or none at {lock}, got a link; it was not touched"
            ) from error
        try:
            lock_file(descriptor)
            with contextlib.suppress(FileNotFoundError):
                if lock.stat().st_ino == os.fstat(descriptor).st_ino:
                    return descriptor
        except BlockingIOError:
            if time.monotonic() >= deadline:
                who = os.read(descriptor, 1000).decode(errors="replace") or "another process"
                os.close(descriptor)
                raise BlockingIOError(f"expected to be alone in writing {path}, but {who} writes it") from None
            time.sleep(_POLL_S)
        except OSError as error:
            os.close(descriptor)
            said = f"expected a file system with locks, to write {path}, but {lock} has none: {error.strerror}"
            raise OSError(error.errno, said) from error
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _recover(path: Path, kind: FolderKind) -> None:
    """Puts what a killed process left whole in its place, and removes the rest.

    Raises:
        FileExistsError: Something that no command of ours left has one of the names beside ``path``.
    """
    new, old, partial = (beside(path, what) for what in ("new", "old", "partial"))
    for leftover in (new, old, partial):
        if leftover.exists() and (strangers := kind.strangers(leftover)):
            raise FileExistsError(f"expected {leftover} to be of an earlier run, but it has {_listed(strangers)}")
    shutil.rmtree(partial, ignore_errors=True)
    if new.exists():
        install(path, kind)
    elif old.exists() and not path.exists():
        old.rename(path)
    _discard(path)


def install(path: Path, kind: FolderKind) -> None:
    """Makes ``.NAME.new`` NAME; where that fails, what was there is there still, or again."""
    new, old = beside(path, "new"), beside(path, "old")
    kind.check(path)  # it may have come meanwhile
    if path.exists():
        _discard(path)
        path.rename(old)
    try:
        new.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            old.rename(path)
        raise
    sync(path.parent)
    _discard(path)


def _discard(path: Path) -> None:
    """Removes ``.NAME.old``, under the name of what is never put back: half removed, it is not whole."""
    old, partial = beside(path, "old"), beside(path, "partial")
    if old.exists():
        old.rename(partial)
        shutil.rmtree(partial, ignore_errors=True)


def sync(path: Path) -> None:
    """Waits until a file's contents, or a folder's names, are on the disk.

    Raises:
        OSError: The disk did not take them.
    """
    if os.name == "nt":  # which opens no folder, and refuses to flush what is open for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system, such as some of networks, that cannot do it for this
            raise
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """`sync` of all that is in ``folder``, and of itself last.

    Raises:
        OSError: The disk did not take it.
    """
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            sync_all(entry)
        elif entry.is_file():
            sync(entry)
    sync(folder)


def beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{what}")


def _differences(asked: Mapping[str, Any], kept: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key, value in asked.items():
        there = kept.get(key)
        if isinstance(value, Mapping) and isinstance(there, Mapping):
            yield from _differences(value, there, f"{above}{key}.")
        elif value != there:
            yield f"{above}{key} {there!r:.200} and not {value!r:.200}"


def _listed(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
