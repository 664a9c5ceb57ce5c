"""Traffic analysis of an encrypted connection: a TCP proxy that records sizes and times of what it carries."""

import asyncio
import contextlib
import itertools
import json
import logging
import os
import threading
import time
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, get_args

from pydantic import Field

from splitleak.config import Config
from splitleak.errors import WireError
from splitleak.locks import lock_file
from splitleak.outputs import check_file
from splitleak.wire.address import ListenTarget, Target, parse_address
from splitleak.wire.files.captures import Direction

_T = TypeVar("_T")
_DIRECTIONS = get_args(Direction)
_FORMAT = {"format": "splitleak-sizes", "version": 1}
_LOGGER = logging.getLogger(__name__)
_CHUNK = 65536
_LONGEST_HEAD = 1000
_PATIENCE_S = 10.0


class BlindTapConfig(Config):
    """Addresses of the proxy and of the cloud, and the file of its record."""

    listen: ListenTarget = Field(default="127.0.0.1:0", description="host:port; port 0: any free one")
    upstream: Target = Field(description="host:port of the real cloud")
    record: Path = Field(description="JSON lines: a head, one a piece of a connection; an existing one is appended to")
    max_bytes: int | None = Field(default=None, gt=0, description="bytes of the record; none: no limit")


@dataclass(frozen=True)
class Sighting:
    """A piece of a connection as it passed. TCP, and not the sender, decides where pieces end; see `bursts`.

    Raises:
        ValueError: A number is not a whole one from 0 on, or there is no such direction.
    """

    time_ns: int  # wall clock, nanoseconds since 1970
    connection: int
    direction: Direction
    size: int  # bytes

    def __post_init__(self) -> None:
        numbers = (self.time_ns, self.connection, self.size)
        if {type(number) for number in numbers} != {int} or min(numbers) < 0 or self.direction not in _DIRECTIONS:
            raise ValueError(f"expected whole numbers and a direction of {_DIRECTIONS}, got {self}")


@contextlib.contextmanager
def blind_tap(config: BlindTapConfig) -> Iterator[int]:
    """Proxies every connection while the block runs, without decrypting it; yields the bound port.

    A record that cannot be written (a full disk, or more than it may hold) never disturbs the traffic;
    how many were lost is logged at the end.

    Raises:
        FileExistsError: There is a file at ``record`` that no blind tap wrote.
        OSError: The address is taken, or the record cannot be opened (or another process holds it).
    """
    with _Record(config.record, config.max_bytes) as record, _loop() as loop:
        server = _run(loop, _start(config, record))
        port = int(server.sockets[0].getsockname()[1])
        _LOGGER.info("blind tap on port %d in front of %s, sizes in %s", port, config.upstream, config.record)
        try:
            yield port
        finally:
            _run(loop, _stop(server))


def sightings(path: Path) -> Iterator[Sighting]:
    """The record of a blind tap, in order; an incomplete last line ends it.

    Raises:
        OSError: The file cannot be opened.
        WireError: A line is not one that a blind tap writes; the message names file and line.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                found = json.loads(line)
                if number > 1:
                    yield Sighting(**found)
                elif found != _FORMAT:
                    raise ValueError
            except (ValueError, TypeError, RecursionError):
                raise WireError(
                    f"{path}: expected what a blind tap writes in line {number}, got {line!r:.80}"
                ) from None


def bursts(seen: Iterable[Sighting]) -> list[Sighting]:
    """Merges consecutive pieces of a connection in one direction into one burst.

    An edge that waits for each answer shows one upstream burst a request.
    """
    joined: list[Sighting] = []
    last: dict[int, int] = {}  # of each connection, its last burst's place
    for each in seen:
        place = last.get(each.connection)
        if place is not None and joined[place].direction == each.direction:
            before = joined[place]
            joined[place] = Sighting(before.time_ns, each.connection, each.direction, before.size + each.size)
        else:
            last[each.connection] = len(joined)
            joined.append(each)
    return joined


class _Record:
    """Appends lines to a file of its kind; what a full disk does not take is counted and leaves no half line."""

    def __init__(self, path: Path, max_bytes: int | None) -> None:
        self._path, self._max_bytes = path, max_bytes
        self._lost = 0

    def __enter__(self) -> "_Record":
        check_file(self._path, "a blind tap's record", _has_head)
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        self._file = os.fdopen(descriptor, "a+b", buffering=0)
        try:
            lock_file(self._file.fileno())
        except BlockingIOError as error:
            self._file.close()
            what = "expected to be the only writer, but another one holds the file"
            raise BlockingIOError(error.errno, what, str(self._path)) from None
        self._end = _complete(self._file)
        os.ftruncate(self._file.fileno(), self._end)
        self.first = self._end  # a line is longer than one byte: no connection on record has a number as high
        if not self._end:
            self._append(_FORMAT)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # a full disk, of which the lost sightings tell
            os.fsync(self._file.fileno())
        self._file.close()
        if self._lost:
            _LOGGER.error("%s: %d sightings could not be written", self._path, self._lost)

    def write(self, connection: int, direction: Direction, size: int) -> None:
        seen = {"time_ns": time.time_ns(), "connection": connection, "direction": direction, "size": size}
        try:
            self._append(seen)
        except OSError as error:
            self._lost += 1
            if self._lost == 1:
                _LOGGER.error("%s: a sighting was not written: %s; later ones are counted", self._path, error)

    def _append(self, document: dict[str, Any]) -> None:
        line = json.dumps(document).encode() + b"\n"
        if self._max_bytes is not None and self._end + len(line) > self._max_bytes:
            self._max_bytes = self._end  # so that no shorter line follows
            raise OSError(f"the record has reached its limit, and ends at {self._end} bytes")
        written = 0
        try:
            written = self._file.write(line)
            if written < len(line):
                raise OSError("the disk took only a part of a line")
        except OSError:
            if written:
                os.ftruncate(self._file.fileno(), self._end)
            raise
        self._end += len(line)


def _has_head(path: Path) -> bool:
    with path.open("rb") as file:
        return bool(json.loads(file.readline(_LONGEST_HEAD)) == _FORMAT)


def _complete(file: BinaryIO) -> int:
    """Where the last complete line of a record ends: a killed writer leaves half of one."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - _CHUNK))
    return max(0, end - _CHUNK) + file.read().rfind(b"\n") + 1


async def _start(config: BlindTapConfig, record: _Record) -> asyncio.Server:
    numbers = itertools.count(record.first)
    upstream, port = parse_address(config.upstream)
    carried: set[asyncio.Task[Any] | None] = set()  # asyncio itself forgets a connection of which one way has ended

    async def carry(near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        number, task = next(numbers), asyncio.current_task()
        carried.add(task)
        with contextlib.suppress(OSError):  # one side is gone: so is the connection
            try:
                far_in, far_out = await asyncio.open_connection(upstream, port)
                try:
                    await asyncio.gather(
                        _pump(near_in, far_out, record, number, "request"),
                        _pump(far_in, near_out, record, number, "response"),
                    )
                finally:
                    far_out.close()
            finally:
                near_out.close()
                carried.discard(task)

    return await asyncio.start_server(carry, *parse_address(config.listen, listening=True))


async def _pump(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, record: _Record, connection: int, direction: Direction
) -> None:
    while piece := await source.read(_CHUNK):
        record.write(connection, direction, len(piece))
        sink.write(piece)
        await sink.drain()
    sink.write_eof()


async def _stop(server: asyncio.Server) -> None:
    server.close()
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@contextlib.contextmanager
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="blind-tap", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_PATIENCE_S)
        loop.close()


def _run(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, _T]) -> _T:
    return asyncio.run_coroutine_threadsafe(work, loop).result(_PATIENCE_S)
