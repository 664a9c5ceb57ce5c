"""An emulated network link in user space: a TCP proxy with bandwidth, delay, jitter and stalls in each direction.

It forwards bytes unread, TLS included, and needs no root. It shapes a TCP stream, in which a lost packet is a stall:
the bytes behind it wait for its retransmission.

Each of its `PROFILES` names the sources of the rates (Mbit/s) and of the round trip without load (ms).
Assumed by us, since none of these sources states it: half of the round trip in each direction; jitter of a quarter of
the one-way delay on shared radio, none on a cable, a tenth over a satellite; packet loss of 1 in 10,000 on Wi-Fi, 1 in
2,000 on mobile networks and satellites. A loss costs a round trip and 200 ms, Linux's minimum retransmission timeout
(RFC 6298 asks for a second).
"""

import contextlib
import errno
import random
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from splitleak.config import Config
from splitleak.tables import Table
from splitleak.wire.address import bound_address, parse_address
from splitleak.wire.link.relay import CONNECT_S, Connection, Lane, LinkDirection

_PASSING = (errno.ECONNABORTED, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)  # what a listener outlives
_AGAIN_S = 0.02


class LinkConfig(Config):
    """Both directions of a link, seen from the edge: ``up`` to the cloud, ``down`` from it."""

    up: LinkDirection = Field(default_factory=LinkDirection)
    down: LinkDirection = Field(default_factory=LinkDirection)
    seed: int = Field(default=0, ge=0, description="of jitter and stalls")


@dataclass(frozen=True)
class LinkProfile:
    """A kind of network, and where its figures are from."""

    about: str
    source: str
    config: LinkConfig


def _profile(
    about: str, source: str, *, down: float, up: float, round_trip_ms: float, jitter: float, loss: float
) -> LinkProfile:
    delay_ms, stall_ms = round_trip_ms / 2, 200 + round_trip_ms
    upwards = LinkDirection(
        rate_mbps=up, delay_ms=delay_ms, jitter_ms=jitter * delay_ms, stall_probability=loss, stall_ms=stall_ms
    )
    return LinkProfile(about, source, LinkConfig(up=upwards, down=upwards.model_copy(update={"rate_mbps": down})))


PROFILES: Table[LinkProfile] = Table(
    "link",
    {
        "ethernet": _profile(
            "Gigabit Ethernet to a machine nearby",
            "IEEE 802.3ab; the delay is assumed: a switch or two and a near machine",
            down=1000,
            up=1000,
            round_trip_ms=1,
            jitter=0,
            loss=0,
        ),
        "wifi": _profile(
            "Wi-Fi of an office or a home",
            "Firefox's network monitor, table of throttling; it says 2 ms, a server is added",
            down=30,
            up=15,
            round_trip_ms=4,
            jitter=0.25,
            loss=1e-4,
        ),
        "5g": _profile(
            "a 5G mobile network",
            "Ofcom, Mobile Matters 2023; the fastest operator of Mobile Matters 2024: 16.3 ms",
            down=129.9,
            up=14.7,
            round_trip_ms=20,
            jitter=0.25,
            loss=5e-4,
        ),
        "lte": _profile(
            "an LTE (4G) mobile network",
            "Ofcom, Mobile Matters 2023 (4G); WebPageTest's connectivity profile LTE",
            down=29.5,
            up=7.6,
            round_trip_ms=70,
            jitter=0.25,
            loss=5e-4,
        ),
        "3g": _profile(
            "a 3G mobile network",
            "Ofcom, Mobile Matters 2023; WebPageTest's connectivity profile 3GFast",
            down=5.9,
            up=2.0,
            round_trip_ms=150,
            jitter=0.25,
            loss=5e-4,
        ),
        "leo": _profile(
            "satellites in a low orbit, as Starlink's",
            "Ookla on Starlink in the USA, 1st quarter of 2025; its latency, June 2025",
            down=104.71,
            up=14.84,
            round_trip_ms=45,
            jitter=0.1,
            loss=5e-4,
        ),
        "geo": _profile(
            "a geostationary satellite, as Viasat's",
            'Ookla on Viasat in the USA, 2nd quarter of 2021; it says "less than 3.5" upwards',
            down=18.13,
            up=3.0,
            round_trip_ms=630,
            jitter=0.1,
            loss=5e-4,
        ),
    },
)


@contextlib.contextmanager
def link(config: LinkConfig, upstream: str, listen: str = "127.0.0.1:0") -> Iterator["LinkHandle"]:
    """Forwards every connection while the block runs; yields the handle that cuts and restores the link.

    A connection reaches ``upstream`` a round trip after it was accepted, and is reset if ``upstream`` refuses it.

    Args:
        config: Both directions.
        upstream: ``host:port`` to forward to.
        listen: ``host:port`` to listen on; port 0: the system chooses.

    Raises:
        OSError: The address to listen on is in use.
        ValueError: An address is no ``host:port``.
    """
    with contextlib.closing(LinkHandle(config, upstream, listen)) as handle:
        yield handle


class LinkHandle:
    """A link that forwards connections, and can be cut and restored; thread-safe."""

    def __init__(self, config: LinkConfig, upstream: str, listen: str) -> None:
        self.config = config
        self._upstream = parse_address(upstream)
        self._lanes = {
            "up": Lane(config.up, random.Random(f"{config.seed}-up")),
            "down": Lane(config.down, random.Random(f"{config.seed}-down")),
        }
        self._lock = threading.Lock()
        self._connections: set[Connection] = set()
        self._flowing = threading.Event()
        self._flowing.set()
        host, port = parse_address(listen, listening=True)
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._reserved = socket.socket(self._family)  # never listens: reserves the port while the link is cut
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._reserved.bind((host, port))
        except OSError:
            self._reserved.close()
            raise OSError(f"expected a free address to listen on, got {listen}, which cannot be bound") from None
        self.port: int = self._reserved.getsockname()[1]
        self.address = bound_address(listen, self.port)
        self._start_accepting()

    @property
    def bytes_up(self) -> int:
        """Bytes that have entered the link towards the cloud."""
        return self._lanes["up"].taken

    @property
    def bytes_down(self) -> int:
        """Bytes that have entered the link from the cloud."""
        return self._lanes["down"].taken

    def cut(self, how: Literal["refused", "blackholed"] = "refused") -> None:
        """Breaks the link until `restore`.

        ``refused``: every connection is reset and new ones are refused. ``blackholed``: bytes are held back without an
        error and arrive after `restore`, as by TCP's retransmission, and new connections hang.
        """
        if how == "blackholed":
            self._flowing.clear()
        elif self._acceptor.is_alive():
            self._listener.shutdown(socket.SHUT_RDWR)
            self._acceptor.join(CONNECT_S)
            self._drop_all()

    def restore(self) -> None:
        """Restores a link that was cut, if it was."""
        self._flowing.set()
        if not self._acceptor.is_alive():
            self._start_accepting()

    def close(self) -> None:
        """Drops every connection and stops listening."""
        self.cut("refused")
        self._reserved.close()

    def _start_accepting(self) -> None:
        address = self._reserved.getsockname()[:2]
        self._listener = socket.create_server(address, family=self._family, backlog=128)
        self._acceptor = threading.Thread(target=self._accept, name="link-accept", daemon=True)
        self._acceptor.start()

    def _accept(self) -> None:
        with self._listener as listener:
            while True:
                try:
                    near, _ = listener.accept()
                except OSError as error:
                    if error.errno not in _PASSING:  # shut down: cut or closed
                        return
                    time.sleep(_AGAIN_S)
                    continue
                connection = Connection(near, self._lanes, self._flowing, self._gone)
                with self._lock:
                    self._connections.add(connection)
                connection.start(self._upstream, (self.config.up.delay_ms + self.config.down.delay_ms) / 1000)

    def _gone(self, connection: "Connection") -> None:
        with self._lock:
            self._connections.discard(connection)

    def _drop_all(self) -> None:
        with self._lock:
            left = list(self._connections)
        for connection in left:
            connection.drop()
        self._flowing.set()  # wakes the threads that wait for the link
        for connection in left:
            connection.join()
