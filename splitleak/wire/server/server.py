"""A gRPC server as a context manager, and its graceful shutdown: shared by cloud, edge and tap."""

import contextlib
import errno
import logging
import queue
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType
from typing import Self

import grpc
from pydantic import Field, model_validator

from splitleak.config import Config, Seconds
from splitleak.wire.address import ListenTarget, bound_address, is_loopback, socket_address
from splitleak.wire.client.channel import MEBIBYTE, Options, message_limits
from splitleak.wire.security import TlsServerConfig, Tokens
from splitleak.wire.server.guard import Guard, Limits
from splitleak.wire.server.statistics import Statistics

_LOGGER = logging.getLogger(__name__)
_POLL_S = 0.5
_SOCKET_FILE = "unix:"
_CANCEL_S = 5.0  # for the handlers of cancelled calls to return


class ServerConfig(Config):
    """Address, TLS, authentication, limits and shutdown of a server."""

    address: ListenTarget = Field(
        default="127.0.0.1:0", description="host:port to listen on; port 0 lets the system choose"
    )
    tls: TlsServerConfig | None = Field(default=None, description="the server's certificate; none: no TLS")
    tokens_file: Path | None = Field(
        default=None, description="names of the clients and SHA-256 of their tokens; none: anybody may call"
    )
    limits: Limits = Field(default_factory=Limits)
    grace_s: Seconds = Field(default=5.0, ge=0, description="seconds that calls in flight get to finish at shutdown")
    max_message_bytes: int = Field(default=64 * MEBIBYTE, gt=0, lt=2**31, description="largest message, each way")
    metrics: ListenTarget | None = Field(
        default=None,
        description="host:port for Prometheus, plain HTTP without access control; port 0: see the log; none: off",
    )
    keepalive_s: Seconds = Field(default=60.0, ge=1, description="seconds without traffic until a client is pinged")
    keepalive_timeout_s: Seconds = Field(default=20.0, gt=0, description="seconds a ping may stay unanswered")

    @model_validator(mode="after")
    def _no_token_in_clear(self) -> Self:
        if self.tokens_file is not None and self.tls is None and not is_loopback(self.address):
            raise ValueError(f"expected TLS on {self.address}, since tokens would travel in clear, got none")
        return self

    def options(self, request_bytes: int | None = None) -> Options:
        """The gRPC server's options: keepalive pings are allowed, and a port in use is an error, not shared.

        Args:
            request_bytes: The largest message to receive, if it is less than ``max_message_bytes``.
        """
        return [
            *message_limits(self.max_message_bytes, request_bytes),
            ("grpc.so_reuseport", 0),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),  # half of what our clients keep to
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.keepalive_time_ms", round(self.keepalive_s * 1000)),
            ("grpc.keepalive_timeout_ms", round(self.keepalive_timeout_s * 1000)),
            ("grpc.max_concurrent_streams", self.limits.calls + self.limits.streams),
            ("grpc.max_connection_idle_ms", round(self.limits.idle_s * 1000)),
            ("grpc.server_handshake_timeout_ms", round(self.limits.handshake_s * 1000)),
        ]


@contextlib.contextmanager
def serve(
    add_to_server: Callable[[grpc.Server], None],
    config: ServerConfig,
    *,
    drain: Callable[[float], None] | None = None,
    statistics: Mapping[str, Statistics] | None = None,
    request_bytes: int | None = None,
) -> Iterator[int]:
    """Serves while the block runs; yields the bound port.

    On exit it calls ``drain``, refuses new calls, gives those in flight the rest of ``grace_s`` seconds, cancels what
    is left and logs how many calls that were. A connection is closed only after the status of its streams is sent:
    closed under a client that still sends, it would lose the last answers that this client has not read.

    Args:
        add_to_server: Registers the services.
        config: Address, limits and shutdown.
        drain: Reports not ready and ends the streams, within the seconds it is given; called first at shutdown.
        statistics: By model, for Prometheus.
        request_bytes: The largest message to receive, if it is less than the config's.

    Raises:
        OSError: An address cannot be bound, or a file of the config cannot be read.
        ValueError: ``metrics`` is set for a service without statistics, or a file holds something else.
    """
    tokens = None if config.tokens_file is None else Tokens.read(config.tokens_file)
    credentials = None if config.tls is None else config.tls.credentials()
    authenticates = config.tls is not None and config.tls.client_ca is not None
    guard = Guard(config.limits, tokens, certificates=authenticates)
    pool = ThreadPoolExecutor(config.limits.threads, thread_name_prefix="rpc")
    server = grpc.server(pool, options=config.options(request_bytes), interceptors=[guard])
    add_to_server(server)
    with _metrics(config.metrics, statistics), guard.sweeping():
        try:
            if _is_taken(config.address):
                raise RuntimeError
            if credentials is None:
                port = server.add_insecure_port(config.address)
            else:
                port = server.add_secure_port(config.address, credentials)
        except RuntimeError:
            expected = "expected a free address to listen on"
            raise OSError(f"{expected}, got {config.address}, which cannot be bound") from None
        server.start()
        try:
            yield port
        finally:
            deadline = time.monotonic() + config.grace_s
            if drain is not None:
                drain(config.grace_s)
            left_s = max(deadline - time.monotonic(), 0.0)
            # This longer grace refuses new calls; ours ends first, so that calls are counted before they are cancelled.
            stopped = server.stop(left_s + _CANCEL_S)
            if not stopped.wait(left_s):
                if guard.open_calls:  # else only connections with a silent peer are left
                    _LOGGER.warning("stopped after %g s, cancelling %d calls", config.grace_s, guard.open_calls)
                server.stop(0).wait(_CANCEL_S)
            pool.shutdown(wait=False, cancel_futures=True)


def _is_taken(address: str) -> bool:
    """Whether somebody listens there: gRPC takes a socket's file from them, and does without a part of localhost."""
    if address.startswith(_SOCKET_FILE) and hasattr(socket, "AF_UNIX"):  # which Windows has not
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):  # no name of a socket
            probe.settimeout(_POLL_S)
            return probe.connect_ex(address.removeprefix(_SOCKET_FILE).removeprefix("//")) in (0, errno.EAGAIN)
    place = socket_address(address)
    if place is not None and place.host == "localhost":
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with contextlib.suppress(OSError), socket.socket(family) as probe:  # there is no IPv6 everywhere
                probe.settimeout(_POLL_S)
                if probe.connect_ex((host, place.port)) == 0:
                    return True
    return False


@contextlib.contextmanager
def _metrics(address: str | None, statistics: Mapping[str, Statistics] | None) -> Iterator[None]:
    if address is None:
        yield
        return
    if statistics is None:
        raise ValueError(f"expected no address for metrics, for this service has none, got {address}")
    from splitleak.wire.server.metrics import serve_metrics  # slow to import, and mostly unused

    if not is_loopback(address):
        _LOGGER.warning("metrics on %s have no access control: whoever reaches the port reads them", address)
    with serve_metrics(address, statistics) as port:
        _LOGGER.info("metrics at http://%s/metrics", bound_address(address, port))
        yield


def run_until_stopped(service: AbstractContextManager[int], announce: Callable[[int], None]) -> None:
    """Enters ``service``, calls ``announce`` with its port, waits for SIGINT or SIGTERM, and exits it.

    To be called in the main thread. The signals' previous handlers are restored at the end.

    Raises:
        KeyboardInterrupt: A signal during start-up, or a second one during shutdown.
    """
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()  # unlike an Event, safe inside a signal handler
    graceful = False  # only while serving, and only for the first signal

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal graceful
        if not graceful:
            raise KeyboardInterrupt
        graceful = False
        signals.put(number)

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with service as port:
            graceful = True
            announce(port)
            while graceful:
                with contextlib.suppress(queue.Empty):
                    signals.get(timeout=_POLL_S)  # on Windows no signal wakes a thread that waits without an end
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
