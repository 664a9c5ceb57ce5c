"""The capture file: every message that crossed a tap, or reached a curious cloud, in order.

Layout, all numbers little-endian::

    header   8 bytes magic, u32 version
    record   u32 length of the body, u32 CRC-32 of the body, u32 CRC-32 of the eight bytes before
    body     u64 wall clock in ns, u64 call, u8 direction, u16 length of the method, method, message

A writer only appends, and hands each record to the operating system: if it is killed, at most its last record is
incomplete, which readers skip and the next writer truncates. All bytes are covered by checksums; any other damage is a
`WireError`.
"""

import fcntl
import logging
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Self

from google.protobuf.message import DecodeError

from splitleak.errors import WireError
from splitleak.wire.protocol.codec import WireTensor, request_tensor
from splitleak.wire.protocol.paths import INFERENCE
from splitleak.wire.protocol.pb import open_inference_pb2 as pb

FORMAT_VERSION = 1
Direction = Literal["request", "response"]

_HEADER = struct.pack("<8sI", b"splitlk\n", FORMAT_VERSION)
_DIRECTIONS: tuple[Direction, ...] = ("request", "response")
_FRAME = struct.Struct("<III")
_FRAME_SUM = struct.Struct("<II")
_BODY = struct.Struct("<QQBH")

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One message as it crossed the wire."""

    time_ns: int  # wall clock, nanoseconds since 1970
    call: int  # number of the RPC, counted by the writer; all messages of a stream share it
    direction: Direction
    method: str  # its full path, see `splitleak.wire.protocol.paths`
    message: bytes


class CaptureWriter:
    """Appends records to a capture; thread-safe, with one writer per file.

    A record that cannot be written (a full disk) never disturbs the traffic. It is counted in ``lost`` and leaves no
    trace in the file; the first is logged at once, their number at the end.

    Raises:
        OSError: On entering: the file cannot be opened, or another writer holds it.
        WireError: On entering: the file exists and is no capture of this version, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lost = 0
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._end = 0  # of the complete records

    def __enter__(self) -> Self:
        file = self.path.open("a+b", buffering=0)
        try:
            self._end = self._claim(file)
        except BaseException:
            file.close()
            raise
        self._file = file
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = None
        if self.lost:
            _LOGGER.error("%s: %d messages were not captured", self.path, self.lost)

    def write(self, method: str, call: int, direction: Direction, message: bytes) -> None:
        """Appends a `Record` with the current wall-clock time; a failure to write is counted, not raised."""
        name = method.encode()
        body = _BODY.pack(time.time_ns(), call, _DIRECTIONS.index(direction), len(name)) + name + message
        with self._lock:
            try:
                self._append(_frame(body) + body)
            except OSError as error:
                self.lost += 1
                if self.lost == 1:
                    _LOGGER.error(
                        "%s: a message was not captured: %s; later ones are counted in silence", self.path, error
                    )

    def _claim(self, file: BinaryIO) -> int:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(
                error.errno, "expected to be the only writer, but another one holds the file", str(self.path)
            ) from None
        file.seek(0)
        if not _has_header(file, self.path):
            os.ftruncate(file.fileno(), 0)
            _write_all(file, _HEADER)
            return len(_HEADER)
        end = file.tell()
        while _read_body(file, self.path) is not None:
            end = file.tell()
        os.ftruncate(file.fileno(), end)
        return end

    def _append(self, record: bytes) -> None:
        if self._file is None:
            raise OSError("the capture is closed")
        if os.fstat(self._file.fileno()).st_size != self._end:  # left by an earlier failed write
            os.ftruncate(self._file.fileno(), self._end)
        try:
            _write_all(self._file, record)
        except OSError:
            os.ftruncate(self._file.fileno(), self._end)
            raise
        self._end += len(record)


def read(path: Path) -> Iterator[Record]:
    """Reads the records of a capture, one in memory at a time; an incomplete last record is skipped.

    Raises:
        OSError: The file cannot be opened.
        WireError: Not a capture, one of another version, or damaged; the message names file and position.
    """
    with path.open("rb") as file:
        if not _has_header(file, path):
            return
        start = file.tell()
        while (body := _read_body(file, path)) is not None:
            yield _record(body, f"{path} at byte {start}")
            start = file.tell()


def inference_requests(records: Iterable[Record]) -> Iterator[tuple[str, WireTensor]]:
    """The id and the tensor, still encoded, of every captured inference request, unary or of a stream.

    Raises:
        WireError: A request that is no message of the protocol, or has no tensor in it.
    """
    for record in records:
        if record.direction != "request" or record.method not in INFERENCE:
            continue
        try:
            request = pb.ModelInferRequest.FromString(record.message)
        except DecodeError:
            raise WireError(
                f"expected a ModelInferRequest in call {record.call}, got {len(record.message)} other bytes"
            ) from None
        yield request.id, request_tensor(request)


def _frame(body: bytes) -> bytes:
    sums = _FRAME_SUM.pack(len(body), zlib.crc32(body))
    return sums + struct.pack("<I", zlib.crc32(sums))


def _has_header(file: BinaryIO, path: Path) -> bool:
    """Reads the header; False if its writer was killed before it was complete."""
    header = file.read(len(_HEADER))
    if header == _HEADER:
        return True
    if _HEADER.startswith(header):
        return False
    if header[:8] == _HEADER[:8]:
        raise WireError(f"{path}: expected capture version {FORMAT_VERSION}, got bytes {header[8:].hex()}")
    raise WireError(f"{path}: expected a capture, got a file that starts with {header[:8]!r}")


def _read_body(file: BinaryIO, path: Path) -> bytes | None:
    """The next record's body, its checksum verified; None at the end of the complete records."""
    start = file.tell()
    frame = file.read(_FRAME.size)
    if len(frame) < _FRAME.size:
        return None
    length, body_sum, frame_sum = _FRAME.unpack(frame)
    if zlib.crc32(frame[: _FRAME_SUM.size]) != frame_sum:
        raise WireError(f"{path} at byte {start}: expected an intact record, got a frame with a wrong checksum")
    if length > os.fstat(file.fileno()).st_size - file.tell():  # before memory is allocated for it
        return None
    body = file.read(length)
    if zlib.crc32(body) != body_sum:
        raise WireError(f"{path} at byte {start}: expected an intact record, got a body with a wrong checksum")
    return body


def _record(body: bytes, where: str) -> Record:
    if len(body) < _BODY.size:
        raise WireError(f"{where}: expected a record of at least {_BODY.size} bytes, got {len(body)}")
    time_ns, call, direction, length = _BODY.unpack_from(body)
    method, message = body[_BODY.size : _BODY.size + length], body[_BODY.size + length :]
    if direction >= len(_DIRECTIONS) or len(method) < length:
        raise WireError(f"{where}: expected a direction and a method, got {body[: _BODY.size].hex()}")
    try:
        name = method.decode()
    except UnicodeDecodeError:
        raise WireError(f"{where}: expected a method's name, got {method!r}") from None
    return Record(time_ns, call, _DIRECTIONS[direction], name, message)


def _write_all(file: BinaryIO, data: bytes) -> None:
    """Repeats partial writes of an unbuffered file until all is written or one raises."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
