"""The capture file: every message that crossed a tap, or reached a curious cloud, in order.

Layout, all numbers little-endian::

    header   8 bytes magic, u32 version
    record   u32 length of the body, u32 CRC-32 of the body, u32 CRC-32 of the eight bytes before
    body     u64 wall clock in ns, u64 call, u8 direction, u16 length of the method, method, message

A writer only appends, and hands each record to the operating system: if it is killed, at most its last record is
incomplete, which readers skip and the next writer truncates. It waits for the disk where a file ends: a power cut
before may leave zeros at the end; they are skipped and truncated likewise, and both say so. All bytes are covered by
checksums; any other damage is a `WireError`, and `splitleak.wire.files.repair` copies what is intact.

Records of call 2^64-1, which no client can cause, are the writer's own notes, as JSON: ``splitleak/gap`` where messages
are missing, and ``splitleak/continues`` at the beginning of a file, with the name of the earlier part beside it.
"""

import contextlib
import errno
import itertools
import json
import logging
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, Self

import numpy as np
from google.protobuf.message import DecodeError

from splitleak.errors import WireError
from splitleak.locks import lock_file
from splitleak.outputs import NO_LINK, sync
from splitleak.wire.protocol.codec import WireTensor, decode, request_tensor
from splitleak.wire.protocol.paths import INFERENCE
from splitleak.wire.protocol.pb import open_inference_pb2 as pb

FORMAT_VERSION = 1
HEADER = struct.pack("<8sI", b"splitlk\n", FORMAT_VERSION)
GAP, CONTINUES = "splitleak/gap", "splitleak/continues"  # methods of notes
Direction = Literal["request", "response"]
DamageKind = Literal["damaged", "incomplete", "zeros", "joined"]

_DIRECTIONS: tuple[Direction, ...] = ("request", "response")
_FRAME = struct.Struct("<III")
_FRAME_SUM = struct.Struct("<II")
_BODY = struct.Struct("<QQBH")
_NOTE_CALL = 2**64 - 1
_CHUNK = 2**20  # bytes searched at a time; a smaller file is checked whole before it is appended to
_READ = 2**16  # bytes read at a time to go from frame to frame
_ZEROS = 16  # at least so many at the end of a file are the trace of a power cut
_SECTOR = 512  # as many, where they are as many bytes as a record was to have
_MEGABYTE = 10**6
_HEAD = 256  # bytes of a record that hold its frame, the numbers of its body and, almost always, its method
_LONGEST_NAME = 255  # bytes, on any file system
_NOTES_ROOM = 1000  # bytes below a capture's limit that are left to the notes of what is lost
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One message as it crossed the wire."""

    time_ns: int  # wall clock, nanoseconds since 1970
    call: int  # number of the RPC, which no other in the capture has; all messages of a stream share it
    direction: Direction
    method: str  # its full path, see `splitleak.wire.protocol.paths`
    message: bytes

    def packed(self) -> bytes:
        """The record as it stands in a file."""
        name = self.method.encode()
        body = _BODY.pack(self.time_ns, self.call, _DIRECTIONS.index(self.direction), len(name)) + name + self.message
        return _frame(body) + body

    @property
    def note(self) -> dict[str, Any] | None:
        """The contents of a writer's note; None for a message that crossed the wire."""
        if self.call != _NOTE_CALL:
            return None
        try:
            document = json.loads(self.message)
        except (ValueError, RecursionError):
            return {}
        return document if isinstance(document, dict) else {}


class Head(NamedTuple):
    """What a record tells before its message is read."""

    time_ns: int
    call: int
    direction: Direction
    method: str
    size: int  # bytes of the message

    @property
    def is_note(self) -> bool:
        """Whether it is the writer's own, see `Record.note`."""
        return self.call == _NOTE_CALL


@dataclass(frozen=True)
class Damage:
    """Bytes of a capture that are no intact record: a header in its midst, where two files are joined, or a loss."""

    kind: DamageKind
    start: int
    size: int

    def __str__(self) -> str:
        said = {
            "damaged": "that hold no intact record",
            "incomplete": "of an incomplete record",
            "zeros": "lost to zeros, as a power cut leaves them",
            "joined": "that begin another capture, joined to the first end to end",
        }
        return f"{self.size} bytes at byte {self.start} {said[self.kind]}"


class CaptureWriter:
    """Appends records to a capture; thread-safe, with one writer per file.

    A record that cannot be written (a full disk) never disturbs the traffic. It is counted in ``lost`` and leaves no
    trace in the file but a note of the gap; the first is logged at once, their number at the end. The same holds when
    the file is cut short, moved, removed or written to by others: the writer goes on, with a note.

    Args:
        path: The file; an existing capture is appended to.
        rotate_mb: Megabytes (10^6 bytes) after which a new file is begun; the earlier one becomes ``path.1`` and so on.
        max_bytes: What the capture may grow to, earlier parts included: the first message that does not fit, and all
            after it, are lost.

    Raises:
        OSError: On entering: the file cannot be opened, or another writer holds it.
        WireError: On entering: the file exists and is no capture of this version, or is damaged. Of a large file only
            the end is checked.
    """

    def __init__(self, path: Path, rotate_mb: float | None = None, max_bytes: int | None = None) -> None:
        self.path = _linked(path)
        self.lost = 0
        self.first_call = 0  # from which on, once it is entered, no call of the capture has a number
        self._most_bytes = None if rotate_mb is None else round(rotate_mb * _MEGABYTE)
        self._max_bytes = max_bytes
        self._earlier = 0  # bytes in earlier parts
        self._full = False  # it has all the bytes that it may have
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._end = 0  # of the complete records
        self._torn = False  # a failed write has left bytes behind the end
        self._empty = True  # nothing but a header and notes was written to this file
        self._notes: list[tuple[str, dict[str, Any]]] = []  # that the file does not hold yet

    def __enter__(self) -> Self:
        self._file = self._open()
        self._earlier = sum(part.stat().st_size for part in parts(self.path)[:-1])
        if self._earlier or not self._empty:  # each call has taken more than a byte
            self.first_call = max(self.first_call, self._earlier + self._end)
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._file is not None:
                if self._notes:
                    self._attempt(b"")
                self._sync(self._file)
                self._file.close()
            self._file = None
        if self.lost:
            _LOGGER.error("%s: %d messages were not captured", self.path, self.lost)

    def write(self, method: str, call: int, direction: Direction, message: bytes) -> None:
        """Appends a `Record` with the current wall-clock time; a failure to write is counted, not raised."""
        record = Record(time.time_ns(), call, direction, method, message).packed()
        with self._lock:
            self._check_room(len(record))
            error = self._attempt(record)
            if error is None:
                return
            self.lost += 1
            if not (self._notes and self._notes[-1][1].get("lost")):
                self._notes.append((GAP, {"lost": 0, "reason": str(error)}))
            self._notes[-1][1]["lost"] += 1
            if self.lost == 1:
                _LOGGER.error("%s: a message was not captured: %s; later ones are counted in silence", self.path, error)

    def _check_room(self, size: int) -> None:
        """Ends the recording, with a note, before the capture gets more bytes than it may have."""
        if self._full or self._max_bytes is None:
            return
        if self._earlier + self._end + size + _NOTES_ROOM > self._max_bytes:
            self._full = True
            self._tell(f"the recording ends here, at its limit of {self._max_bytes} bytes")
            self._attempt(b"")

    def _attempt(self, record: bytes) -> Exception | None:
        """Appends ``record``, behind the notes that are due; returns why it could not."""
        try:
            file = self._ready(len(record))
            data = b"".join(note(*each).packed() for each in self._notes) + record
            self._torn = True
            try:
                _write_all(file, data)
            except OSError:
                os.ftruncate(file.fileno(), self._end)
                self._torn = False
                raise
        except (OSError, WireError) as error:
            return error
        self._torn = self._empty = False
        self._end += len(data)
        self._notes.clear()
        return None

    def _ready(self, size: int) -> BinaryIO:
        """The file to append ``size`` bytes to, whatever others did to it in the meantime; a note says what."""
        if self._file is None:
            raise OSError("the capture is closed")
        if self._full and size:
            raise OSError("the capture has reached its limit")
        held, named = os.fstat(self._file.fileno()), None
        with contextlib.suppress(FileNotFoundError):
            named = os.stat(self.path)
        if named is None or (named.st_dev, named.st_ino) != (held.st_dev, held.st_ino):
            self._file = self._open(self._file)
            self._tell("the file was moved or removed, and the records before with it")
        elif self._torn:
            os.ftruncate(self._file.fileno(), self._end)
            self._torn = False
        elif held.st_size < self._end:
            cut = f"the file was cut from {self._end} to {held.st_size} bytes"
            self._end = self._resume(self._file)
            self._tell(cut)
        elif held.st_size > self._end:
            added = f"something else wrote {held.st_size - self._end} bytes to the file"
            self._end = held.st_size  # they may be of worth to somebody, and the records behind them can be salvaged
            self._tell(added)
        if self._most_bytes is not None and not self._empty and self._end + size > self._most_bytes:
            self._file = self._rotated(self._file)
        return self._file

    def _tell(self, reason: str) -> None:
        _LOGGER.error("%s: %s", self.path, reason)
        self._notes.append((GAP, {"lost": 0, "reason": reason}))

    def _open(self, before: BinaryIO | None = None) -> BinaryIO:
        """Opens and claims the file, readable by its owner alone if it is new; then closes the one ``before``."""
        file = self._claimed(self.path)
        try:
            self._end = self._resume(file)
        except BaseException:
            file.close()
            raise
        self._torn, self._empty = False, self._end <= len(HEADER)
        if before is not None:
            before.close()
        return file

    def _claimed(self, path: Path, flags: int = 0) -> BinaryIO:
        """Opens a file that no other writer holds, and none will; it is made if it is not there."""
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | flags, 0o600), "a+b", buffering=0)
        try:
            lock_file(file.fileno())
        except BlockingIOError as error:
            file.close()
            what = "expected to be the only writer, but another one holds the file"
            raise BlockingIOError(error.errno, what, str(path)) from None
        return file

    def _resume(self, file: BinaryIO) -> int:
        """Truncates the file behind its last record, and returns where that ends."""
        file.seek(0)
        if not has_header(file, self.path):
            os.ftruncate(file.fileno(), 0)
            _write_all(file, HEADER)
            return len(HEADER)
        end = len(HEADER)
        for record, start, stop in scan(file, _near_the_end(file)):
            if isinstance(record, Damage):
                if record.kind not in ("incomplete", "zeros"):
                    raise _damaged(self.path, record)
                if record.kind == "zeros":
                    self._tell(f"{record}: cut off")
                end = start
                break
            if record.note is None:
                self.first_call = max(self.first_call, record.call + 1)
            end = stop
        os.ftruncate(file.fileno(), end)
        return end

    def _rotated(self, full: BinaryIO) -> BinaryIO:
        """Gives the file the next free number, and begins a new one under its name, which says so from its beginning.

        Under that name there is the full file or the new one, whole, whoever looks and whenever this is killed.
        """
        part = self._numbered()
        if part is None:
            return full
        fresh, first = self.path.with_name(f".{self.path.name}.next"), note(CONTINUES, {"part": part.name}).packed()
        try:
            following = self._claimed(fresh, os.O_TRUNC | NO_LINK)
            try:
                _write_all(following, HEADER + first)
                self._sync(full, following)
                os.replace(fresh, self.path)
            except OSError:
                following.close()
                raise
        except OSError as error:  # a full disk, or Windows, which keeps the name of an open file
            for unused in (fresh, part):
                unused.unlink(missing_ok=True)
            if error.errno not in _FULL:
                self._give_up_rotating(error)
            return full
        full.close()
        self._earlier += self._end
        self._end, self._torn, self._empty = len(HEADER) + len(first), False, True
        return following

    def _numbered(self) -> Path | None:
        """The file under the next free number too; None where there is no such thing as two names of one file."""
        for number in itertools.count(1):
            part = self.path.with_name(f"{self.path.name}.{number}")
            try:
                os.link(self.path, part)  # unlike a renaming, it replaces no file
            except FileExistsError:
                continue
            except OSError as error:
                self._give_up_rotating(error)
                return None
            return part
        raise AssertionError("unreachable")

    def _give_up_rotating(self, error: OSError) -> None:
        _LOGGER.error("%s: no further file is begun: %s", self.path, error)
        self._most_bytes = None

    def _sync(self, *files: BinaryIO) -> None:
        """Waits until files and their names are on the disk; a disk that fails is no client's trouble."""
        try:
            for file in files:
                os.fsync(file.fileno())
            sync(self.path.parent)
        except OSError as error:
            _LOGGER.error("%s: the disk may not hold all of it after a power cut: %s", self.path, error)


def note(method: str, document: Mapping[str, Any]) -> Record:
    """A writer's note: of a `GAP`, with ``lost`` (0: unknown) and ``reason``, or that it `CONTINUES` a ``part``."""
    return Record(time.time_ns(), _NOTE_CALL, "request", method, json.dumps(document).encode())


def read(path: Path) -> Iterator[Record]:
    """Reads the messages of a capture and of its earlier parts, one in memory at a time.

    An incomplete last record is skipped. Zeros at the end, gaps that the writer noted, and a missing earlier part are
    logged.

    Raises:
        OSError: The file cannot be opened.
        WireError: Not a capture, one of another version, or damaged; the message names file and position.
    """
    for part, file in _opened(path):
        if not has_header(file, part):
            continue
        records, lost, gaps = 0, 0, 0
        for record, _, _ in scan(file):
            if isinstance(record, Record):
                if record.note is None:
                    records += 1
                    yield record
                elif record.method == GAP:
                    gaps += 1
                    lost += lost_by(record)
            elif record.kind == "zeros":
                _LOGGER.warning("%s: %s; %d messages before them were read", part, record, records)
            elif record.kind != "incomplete":
                raise _damaged(part, record, records)
        if gaps:
            _LOGGER.warning("%s: messages are missing in %d places, at least %d of them", part, gaps, lost)


def parts(path: Path) -> list[Path]:
    """The files of a capture in order, ``path`` last."""
    with path.open("rb") as file:
        return [*_earlier_parts(path, file), path]


def _earlier_parts(path: Path, file: BinaryIO) -> list[Path]:
    """The parts before the capture in ``file``, which is at ``path`` or was when it was opened."""
    found, path = list[Path](), _linked(path)
    first, name = path, _continued(file)
    while name is not None:
        earlier = path.with_name(name)
        if not earlier.is_file() or earlier in (path, *found):
            _LOGGER.warning("%s: its earlier part %s is missing: it is read without", first, name)
            break
        found.insert(0, earlier)
        with earlier.open("rb") as before:
            first, name = earlier, _continued(before)
    return found


def _linked(path: Path) -> Path:
    """Where a link leads that a capture is named by: its parts are beside the file itself."""
    return path.resolve() if path.is_symlink() else path


def _opened(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """The files of a capture in order, each open at its beginning while it is the turn of it.

    The last one is opened first: its writer may give it a number, and its name to another, before it is read.
    """
    with path.open("rb") as last:
        for part in _earlier_parts(path, last):
            with part.open("rb") as file:
                yield part, file
        last.seek(0)
        yield path, last


def missing(path: Path) -> dict[str, int]:
    """What a capture and its earlier parts tell to be missing: ``gaps``, and in them at least ``lost`` messages.

    Raises:
        OSError: A file cannot be opened.
        WireError: One is no capture.
    """
    found = {"gaps": 0, "lost": 0}
    for place, (part, file) in enumerate(_opened(path)):
        found["gaps"] += place == 0 and _continued(file) is not None  # a part that is not there
        file.seek(0)
        for record, _, _ in scan(file) if has_header(file, part) else ():
            gap = record.note is not None and record.method == GAP if isinstance(record, Record) else None
            if gap or (isinstance(record, Damage) and record.kind == "zeros"):
                found["gaps"] += 1
                found["lost"] += lost_by(record) if isinstance(record, Record) else 0
    return found


def lost_by(gap: Record) -> int:
    """The number of messages that a note tells as lost; 0 if it is unknown."""
    lost = (gap.note or {}).get("lost")
    return max(lost, 0) if isinstance(lost, int) else 0


def inference_requests(records: Iterable[Record], model: str | None = None) -> Iterator[tuple[str, WireTensor]]:
    """The id and the tensor, still encoded, of every captured inference request, unary or of a stream.

    One that holds no tensor, or none that can be decoded, is left out: a cloud refuses it, and any client can send it
    to trouble who reads the capture. How many there were is logged at the end.

    Args:
        records: Of the capture.
        model: Which model's requests; default: any's.
    """
    malformed: list[str] = []
    for record in records:
        if record.direction != "request" or record.method not in INFERENCE:
            continue
        try:
            request = pb.ModelInferRequest.FromString(record.message)
            if model is not None and request.model_name != model:
                continue
            tensor = request_tensor(request)
            decode(tensor)
        except (DecodeError, WireError) as error:
            malformed.append(f"call {record.call}: {error}")
        else:
            yield request.id, tensor
    if malformed:
        _LOGGER.warning("%d requests that hold no tensor are left out; the first, %s", len(malformed), malformed[0])


def scan(file: BinaryIO, start: int = len(HEADER)) -> Iterator[tuple[Record | Damage, int, int]]:
    """The records from byte ``start`` on, with what lies between them, each with its first byte and its end.

    After damage it goes on with the next intact record. Where a frame is damaged, bytes within its message that look
    like a record are taken for one. What a writer appends meanwhile is read or not, and never taken for damage.
    """
    file.seek(start)
    while True:
        size = os.fstat(file.fileno()).st_size
        record, stop = _read_record(file, start)
        if record is not None:
            yield record, start, stop
        elif start < size:
            damage = _damage(file, start, size)
            stop = start + damage.size
            file.seek(stop)
            yield damage, start, stop
            if damage.kind == "incomplete":
                return
        else:
            return
        start = stop


def head_at(file: BinaryIO, start: int, size: int) -> tuple[Head | Damage | None, int]:
    """The head of the record at ``start``, whose message is neither read nor checked, or the damage there; its end.

    None: the file, of ``size`` bytes when it was last asked, ends before the record does, as while it is being written.
    """
    file.seek(start)
    head = file.read(_HEAD)
    if len(head) < _FRAME.size:
        return None, start
    length, _, frame_sum = _FRAME.unpack_from(head)
    if zlib.crc32(head[: _FRAME_SUM.size]) == frame_sum:
        stop = start + _FRAME.size + length
        if stop > size:
            return None, start
        if len(head) >= _FRAME.size + _BODY.size:
            time_ns, call, direction, named = _BODY.unpack_from(head, _FRAME.size)
            method = head[_FRAME.size + _BODY.size : _FRAME.size + _BODY.size + named]
            if len(method) < named:
                method = _at(file, start + _FRAME.size + _BODY.size, named)
            message = length - _BODY.size - named
            if direction < len(_DIRECTIONS) and message >= 0:
                return Head(time_ns, call, _DIRECTIONS[direction], method.decode(errors="replace"), message), stop
    for item, _, end in scan(file, start):
        if isinstance(item, Damage) and item.kind != "incomplete":
            return item, end
        break
    return None, start


def _read_record(file: BinaryIO, start: int) -> tuple[Record | None, int]:
    """The record at ``start``, where the file stands, and its end; None if there is no intact one."""
    body = _read_body(file, start)
    return (None, start) if body is None else (_record(body), start + _FRAME.size + len(body))


def _read_body(file: BinaryIO, start: int) -> bytes | None:
    frame = file.read(_FRAME.size)
    if len(frame) < _FRAME.size:
        return None
    length, body_sum, frame_sum = _FRAME.unpack(frame)
    if zlib.crc32(frame[: _FRAME_SUM.size]) != frame_sum:
        return None
    if start + _FRAME.size + length > os.fstat(file.fileno()).st_size:  # before memory is allocated for it
        return None
    body = file.read(length)
    return body if zlib.crc32(body) == body_sum else None


def _damage(file: BinaryIO, start: int, size: int) -> Damage:
    """The stretch from ``start``, where no intact record begins, up to the next header or record, or the end."""
    head = _at(file, start, len(HEADER))
    if head == HEADER:
        return Damage("joined", start, len(HEADER))
    framed = len(head) == _FRAME.size and _frame_fits(head)
    stop = start + _FRAME.size + (_FRAME.unpack(head)[0] if framed else 0)
    whole = framed and _begins(file, stop, size)  # a record whose body alone is damaged
    if not whole:
        search = _candidates(file, start + (_FRAME.size if framed else 1), size, size)
        stop = next((place for place in search if _begins(file, place, size)), max(stop, size))
    if stop > size:
        return Damage("incomplete", start, size - start)
    zeros = _SECTOR if whole else _ZEROS
    lost = stop == size and not _at(file, max(size - zeros, start), zeros).strip(b"\0")
    return Damage("zeros" if lost else "damaged", start, stop - start)


def _begins(file: BinaryIO, place: int, size: int) -> bool:
    """Whether an intact record or a header begins at ``place``, or the file ends there."""
    if place == size or _at(file, place, len(HEADER)) == HEADER:
        return True
    file.seek(place)
    return _read_record(file, place)[0] is not None


def _candidates(file: BinaryIO, start: int, stop: int, size: int) -> Iterator[int]:
    """The places in ``[start, stop)`` with a header, or a frame with a right checksum and a body within the file."""
    for base in range(start, stop, _CHUNK):
        data = _at(file, base, min(_CHUNK, stop - base) + _FRAME.size - 1)
        count = len(data) - _FRAME.size + 1
        if count <= 0:
            return
        octets = np.frombuffer(data, np.uint8).astype(np.uint32)
        lengths = sum((octets[byte : byte + count] << (8 * byte) for byte in range(4)), np.zeros(count, np.uint32))
        fitting = (lengths >= _BODY.size) & (lengths <= size - base - _FRAME.size - np.arange(count))
        for place in np.flatnonzero(fitting | (octets[:count] == HEADER[0])).tolist():
            frame = data[place : place + _FRAME.size]
            if frame == HEADER or (fitting[place] and _frame_fits(frame)):
                yield base + place


def _near_the_end(file: BinaryIO) -> int:
    """A record's first byte from which the rest of the file is to be scanned: the first record, in a small file.

    In a large one, the first record of the last chunk that leads to the end, else (the end is torn) the last record
    that can be reached from the beginning by its frames alone.
    """
    size = os.fstat(file.fileno()).st_size
    if size <= _CHUNK:
        return len(HEADER)
    for base in range(size - _CHUNK, len(HEADER), -_CHUNK):
        place = next(_candidates(file, base, base + _CHUNK, size), None)
        if place is not None:
            if _skipped(file, place, size)[1] == size:
                return place
            break
    return _skipped(file, len(HEADER), size)[0]


def _skipped(file: BinaryIO, place: int, size: int) -> tuple[int, int]:
    """Goes from frame to frame; returns the first byte and the end of the last record whose frame is intact."""
    last, base, data = place, place, b""
    while place + _FRAME.size <= size:
        if place + _FRAME.size > base + len(data):
            base, data = place, _at(file, place, _READ)
        frame = data[place - base : place - base + _FRAME.size]
        end = place + _FRAME.size + _FRAME.unpack(frame)[0]
        if not _frame_fits(frame) or end > size:
            break
        last, place = place, end
    return last, place


def _frame(body: bytes) -> bytes:
    sums = _FRAME_SUM.pack(len(body), zlib.crc32(body))
    return sums + struct.pack("<I", zlib.crc32(sums))


def _frame_fits(frame: bytes) -> bool:
    """Whether the checksum of a frame itself is right."""
    own: int = _FRAME.unpack(frame)[2]
    return zlib.crc32(frame[: _FRAME_SUM.size]) == own


def _record(body: bytes) -> Record | None:
    """The record with this body; None if it is malformed."""
    if len(body) < _BODY.size:
        return None
    time_ns, call, direction, length = _BODY.unpack_from(body)
    method, message = body[_BODY.size : _BODY.size + length], body[_BODY.size + length :]
    if direction >= len(_DIRECTIONS) or len(method) < length:
        return None
    try:
        return Record(time_ns, call, _DIRECTIONS[direction], method.decode(), message)
    except UnicodeDecodeError:
        return None


def has_header(file: BinaryIO, path: Path) -> bool:
    """Reads the header; False if its writer was killed before it was complete."""
    header = file.read(len(HEADER))
    if header == HEADER:
        return True
    if HEADER.startswith(header):
        return False
    if header[:8] == HEADER[:8]:
        raise WireError(f"{path}: expected capture version {FORMAT_VERSION}, got bytes {header[8:].hex()}")
    raise WireError(f"{path}: expected a capture, got a file that starts with {header[:8]!r}")


def _continued(file: BinaryIO) -> str | None:
    """The name of the part that a capture continues."""
    file.seek(0)
    if file.read(len(HEADER)) != HEADER:
        return None
    first = _read_record(file, len(HEADER))[0]
    if first is None or first.note is None or first.method != CONTINUES:
        return None
    part = first.note.get("part")
    return part if isinstance(part, str) and _may_be_a_file(part) else None


def _may_be_a_file(name: str) -> bool:
    """Whether ``name``, which a note says, may be that of a file beside it."""
    return bool(name) and name.isprintable() and name == Path(name).name and len(name.encode()) <= _LONGEST_NAME


def _damaged(path: Path, damage: Damage, records: int | None = None) -> WireError:
    mend = "join" if damage.kind == "joined" else "salvage"
    before = "" if records is None else f"; {records} messages before them are intact"
    return WireError(
        f"{path}: expected intact records, got {damage}{before}; `splitleak capture {mend}` copies what is readable"
    )


def _at(file: BinaryIO, place: int, size: int) -> bytes:
    """Up to ``size`` bytes at ``place``; the file's own position stays."""
    before = file.tell()
    file.seek(place)
    data = file.read(size)
    file.seek(before)
    return data


def _write_all(file: BinaryIO, data: bytes) -> None:
    """Repeats partial writes of an unbuffered file until all is written or one raises."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
