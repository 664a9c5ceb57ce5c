"""Connections through an emulated link: bytes leave it in order, as late as its rate and delay demand."""

import contextlib
import queue
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping

from pydantic import Field

from splitleak.config import Config
from splitleak.wire.address import Address

CONNECT_S = 10.0
_PACKET = 1460  # bytes of payload in an Ethernet packet
_TRAIN_S = 0.002  # bytes are shaped in packet trains of about this duration
_TRAIN_BYTES = 64 * 1024
_UNLIMITED_BYTES = 16 * 1024 * 1024  # most bytes in flight where there is no rate limit
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER for a close with a reset


class LinkDirection(Config):
    """One direction of a link; its bandwidth is shared by all connections."""

    rate_mbps: float | None = Field(default=None, gt=0, description="megabits a second; none: no limit")
    delay_ms: float = Field(default=0.0, ge=0, description="one-way delay of every byte")
    jitter_ms: float = Field(default=0.0, ge=0, description="added delay, uniform from 0 to this; in order")
    stall_probability: float = Field(default=0.0, ge=0, le=1, description="loss rate of packets (1460 bytes)")
    stall_ms: float = Field(default=200.0, ge=0, description="delay by a lost packet of it and all bytes behind it")
    buffer_kib: int = Field(default=256, ge=1, description="queue for the rate limit; when full, back-pressure")

    @property
    def train_bytes(self) -> int:
        """Bytes shaped at once: two milliseconds' worth, and at least a packet."""
        if self.rate_mbps is None:
            return _TRAIN_BYTES
        return min(max(int(self.rate_mbps * 125_000 * _TRAIN_S), _PACKET), _TRAIN_BYTES)

    @property
    def in_flight_bytes(self) -> int:
        """Most bytes of one connection in flight: the bandwidth-delay product plus the buffer."""
        if self.rate_mbps is None:
            return _UNLIMITED_BYTES
        return int(self.rate_mbps * 125 * (self.delay_ms + self.jitter_ms)) + 1024 * self.buffer_kib


class Lane:
    """The schedule of one direction, shared by all connections."""

    def __init__(self, config: LinkDirection, draw: random.Random) -> None:
        self.config = config
        self.taken = 0
        self._draw = draw
        self._free = 0.0  # when the rate limit admits the next byte
        self._lock = threading.Lock()

    def take(self, size: int) -> float:
        """Lets ``size`` bytes enter; returns when the last of them arrives, on the monotonic clock."""
        config = self.config
        with self._lock:
            self.taken += size
            self._free = max(self._free, time.monotonic())
            if config.rate_mbps is not None:
                self._free += size / (config.rate_mbps * 125_000)
            late_ms = config.delay_ms + config.jitter_ms * self._draw.random()
            kept = (1 - config.stall_probability) ** -(-size // _PACKET)
            if self._draw.random() >= kept:
                late_ms += config.stall_ms
            return self._free + late_ms / 1000


class _Pipe:
    """One direction of a connection: one thread reads ``source``, another writes to ``sink`` on schedule."""

    def __init__(self, lane: Lane, flowing: threading.Event, source: socket.socket, sink: socket.socket) -> None:
        self._lane, self._flowing, self._source, self._sink = lane, flowing, source, sink
        self._queue: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._in_flight = 0
        self.ended = threading.Event()

    def read(self) -> None:
        """Reads until the end of ``source``, which it passes on, or an OSError."""
        arrival, data = 0.0, b"?"
        while data:
            with self._changed:
                self._changed.wait_for(self._has_room)
            data = self._source.recv(self._lane.config.train_bytes)
            arrival = max(arrival, self._lane.take(len(data)))
            with self._changed:
                self._in_flight += len(data)
            self._queue.put((arrival, data))

    def write(self) -> None:
        """Writes until the end of ``source`` was passed on, `stop`, or an OSError."""
        while not self.ended.wait(0):
            arrival, data = self._queue.get()
            if not self._flowing.is_set():  # lost, and retransmitted once the link is back
                self._flowing.wait()
                arrival = max(arrival, time.monotonic() + self._lane.config.delay_ms / 1000)
            if self.ended.wait(max(arrival - time.monotonic(), 0)):
                return
            if not data:
                self._sink.shutdown(socket.SHUT_WR)
                return
            self._sink.sendall(data)
            with self._changed:
                self._in_flight -= len(data)
                self._changed.notify()

    def _has_room(self) -> bool:
        return self._in_flight < self._lane.config.in_flight_bytes or self.ended.is_set()

    def stop(self) -> None:
        with self._changed:
            self.ended.set()
            self._changed.notify()
        self._queue.put((0.0, b""))


class Connection:
    """A connection through the link: two sockets, and two pipes with two threads each."""

    def __init__(
        self,
        near: socket.socket,
        lanes: Mapping[str, Lane],
        flowing: threading.Event,
        gone: Callable[["Connection"], None],
    ) -> None:
        self._near, self._lanes, self._flowing, self._gone = near, lanes, flowing, gone
        self._far: socket.socket | None = None
        self._pipes: list[_Pipe] = []
        self._dropped = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self, upstream: Address, round_trip_s: float) -> None:
        self._thread = threading.Thread(target=self._run, args=(upstream, round_trip_s), name="link", daemon=True)
        self._thread.start()

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join(CONNECT_S)

    def drop(self) -> None:
        """Resets both ends and stops every thread."""
        with self._lock:
            self._dropped.set()
            for pipe in self._pipes:
                pipe.stop()
            for end in (self._near, self._far):
                if end is not None:
                    with contextlib.suppress(OSError):  # already closed by its peer
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                        end.shutdown(socket.SHUT_RDWR)

    def _run(self, upstream: Address, round_trip_s: float) -> None:
        with self._near:
            if not self._dropped.wait(round_trip_s):
                self._flowing.wait()
            try:
                if not self._dropped.is_set():
                    with socket.create_connection(upstream, CONNECT_S) as far:
                        self._carry(far)
            except OSError:
                self.drop()
        self._gone(self)

    def _carry(self, far: socket.socket) -> None:
        far.settimeout(None)
        for end in (self._near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pipes = [
            _Pipe(self._lanes["up"], self._flowing, self._near, far),
            _Pipe(self._lanes["down"], self._flowing, far, self._near),
        ]
        with self._lock:
            self._far, self._pipes = far, pipes
            if self._dropped.is_set():
                return
        threads = [
            threading.Thread(target=self._run_pipe, args=(work,), name="link-pipe", daemon=True)
            for pipe in pipes
            for work in (pipe.read, pipe.write)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _run_pipe(self, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError:
            self.drop()
