"""Follows a capture that another process writes, at the cost of a few bytes a message."""

import contextlib
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from splitleak.wire.files.captures import GAP, Damage, Head, Record, has_header, head_at, lost_by, parts, scan

_OPEN_PARTS = 2  # the one that is written to, and the one before it


class Mark(NamedTuple):
    """A message of a capture that is followed, and where it stands."""

    head: Head
    part: int  # number of the file, in the order that they were read
    start: int  # byte of its record

    @property
    def place(self) -> tuple[int, int]:
        """Greater than that of every earlier message."""
        return self.part, self.start


class Follower:
    """Reads the heads of a growing capture's messages, its earlier parts first, and messages only where asked.

    A writer that begins a new file (`CaptureWriter`, ``rotate_mb``) is followed there.

    Args:
        path: The capture; it must be there.

    Raises:
        OSError: On entering: it cannot be opened.
        WireError: It is no capture.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lost = 0  # messages that the writer tells to be missing, and stretches that hold none
        self._files: deque[BinaryIO] = deque()
        self._opened = 0
        self._place: int | None = None  # in the last file; None: its header is not there yet

    def __enter__(self) -> Self:
        self._open(parts(self.path)[0])
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def poll(self) -> Iterator[Mark]:
        """The messages that have come since the last call, in order; it waits for none."""
        while True:
            following = self._following()  # asked first: a writer is done with a file when it begins the next
            yield from self._new()
            if following is None:
                return
            self._open(following)

    def read(self, mark: Mark) -> Record | None:
        """The whole message; None if it is damaged or its file is no longer open."""
        place = mark.part - (self._opened - len(self._files))
        if place < 0:
            return None
        record = next((item for item, _, _ in scan(self._files[place], mark.start)), None)
        return record if isinstance(record, Record) else None

    def _new(self) -> Iterator[Mark]:
        file = self._files[-1]
        if self._place is None:
            file.seek(0)
            if not has_header(file, self.path):
                return
            self._place = file.tell()
        size = os.fstat(file.fileno()).st_size
        self._place = min(self._place, size)  # somebody cut it short
        while True:
            start = self._place
            item, self._place = head_at(file, start, size)
            if item is None:
                return
            if isinstance(item, Damage):
                self.lost += 1
            elif not item.is_note:
                yield Mark(item, self._opened - 1, start)
            elif item.method == GAP:
                gap = next(iter(scan(file, start)))[0]
                self.lost += max(1, lost_by(gap)) if isinstance(gap, Record) else 1

    def _open(self, path: Path) -> None:
        self._files.append(path.open("rb", buffering=0))
        self._opened, self._place = self._opened + 1, None
        if len(self._files) > _OPEN_PARTS:
            self._files.popleft().close()

    def _following(self) -> Path | None:
        """The file that continues the last one that was opened, or that has its name now."""
        with contextlib.suppress(FileNotFoundError):  # moved or removed, and no other is there yet
            held = os.fstat(self._files[-1].fileno())
            if os.path.samestat(held, self.path.stat()):
                return None
            files = parts(self.path)
            places = [place for place, part in enumerate(files) if os.path.samestat(held, part.stat())]
            return files[places[0] + 1] if places and places[0] + 1 < len(files) else self.path
        return None
