"""A gRPC service as a context manager, and one way to stop it: the shape that cloud, edge and tap share."""

import contextlib
import logging
import queue
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType
from typing import Any, ParamSpec, Self, TypeVar

import grpc
from pydantic import Field, model_validator

from splitleak.config import Config
from splitleak.wire.address import ListenHostPort, ListenTarget, bound_address, is_loopback
from splitleak.wire.client.channel import MEBIBYTE, Options, message_limits
from splitleak.wire.security import TlsServerConfig, Tokens
from splitleak.wire.server.guard import Guard, Limits
from splitleak.wire.server.statistics import Statistics

_P = ParamSpec("_P")
_T = TypeVar("_T")
_LOGGER = logging.getLogger(__name__)
_CANCEL_S = 5.0  # how long cancelled calls may take to leave their handlers


class ServerConfig(Config):
    """Where a service listens, whom it lets in, how much it takes on, and how it stops."""

    address: ListenTarget = Field(
        default="127.0.0.1:0", description="host:port to listen on; port 0 lets the system choose"
    )
    tls: TlsServerConfig | None = Field(default=None, description="the server's certificate; none: all is in clear")
    tokens_file: Path | None = Field(
        default=None, description="clients' names and the SHA-256 of their tokens; none: anybody may call"
    )
    limits: Limits = Field(default_factory=Limits)
    grace_s: float = Field(default=5.0, ge=0, description="seconds that calls in flight get to finish at the end")
    max_message_bytes: int = Field(default=64 * MEBIBYTE, gt=0, lt=2**31, description="largest message, both ways")
    metrics: ListenHostPort | None = Field(
        default=None,
        description="host:port for Prometheus, plain HTTP for whoever reaches it; port 0 is told in the log; none: off",
    )
    keepalive_s: float = Field(default=60.0, ge=1, description="seconds of silence after which a client is pinged")
    keepalive_timeout_s: float = Field(default=20.0, gt=0, description="seconds a ping may stay unanswered")

    @model_validator(mode="after")
    def _no_token_in_clear(self) -> Self:
        if self.tokens_file is not None and self.tls is None and not is_loopback(self.address):
            raise ValueError(f"expected TLS on {self.address}, since tokens would travel in clear, got none")
        return self

    def options(self) -> Options:
        """The options of a server: it takes the clients' pings, and a port that is in use is an error, not shared."""
        return [
            *message_limits(self.max_message_bytes),
            ("grpc.so_reuseport", 0),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
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
    drain: Callable[[], None] | None = None,
    statistics: Mapping[str, Statistics] | None = None,
) -> Iterator[int]:
    """Serves while the block runs; yields the bound port. ``statistics`` are what its metrics tell, by model.

    On the way out it calls ``drain`` (end the streams, answer not ready), refuses new calls, gives those in flight
    ``grace_s``, cancels the rest and logs how many that were.

    Raises:
        OSError: An address cannot be bound, or a file of the config cannot be read.
        ValueError: Metrics are asked of a service that has none, or a file holds something else.
    """
    with _metrics(config.metrics, statistics):
        yield from _serve(add_to_server, config, drain)


@contextlib.contextmanager
def _metrics(address: str | None, statistics: Mapping[str, Statistics] | None) -> Iterator[None]:
    if address is None:
        yield
        return
    if statistics is None:
        raise ValueError(f"expected no address for metrics, for this service has none, got {address}")
    from splitleak.wire.server.metrics import exposed  # its library is costly, and mostly unused

    if not is_loopback(address):
        _LOGGER.warning("metrics on %s have no access control: whoever reaches the port reads them", address)
    with exposed(address, statistics) as port:
        _LOGGER.info("metrics at http://%s/metrics", bound_address(address, port))
        yield


def _serve(
    add_to_server: Callable[[grpc.Server], None], config: ServerConfig, drain: Callable[[], None] | None
) -> Iterator[int]:
    tokens = None if config.tokens_file is None else Tokens.read(config.tokens_file)
    credentials = None if config.tls is None else config.tls.credentials()
    shown = config.tls is not None and config.tls.client_ca is not None
    pool = _CountingPool(config.limits.threads)
    guard = Guard(config.limits, tokens, certificates=shown)
    server = grpc.server(pool, options=config.options(), interceptors=[guard])
    add_to_server(server)
    try:
        if credentials is None:
            port = server.add_insecure_port(config.address)
        else:
            port = server.add_secure_port(config.address, credentials)
    except RuntimeError:
        raise OSError(f"expected a free address to listen on, got {config.address}, which cannot be bound") from None
    server.start()
    try:
        yield port
    finally:
        if drain is not None:
            drain()
        # The longer grace only refuses new calls; ours ends first, so that nothing is cut off before it is counted.
        stopped = server.stop(config.grace_s + _CANCEL_S)
        if not stopped.wait(config.grace_s):
            if pool.running:  # else what is left is connections whose other end is silent
                _LOGGER.warning("stopped after %g s of grace, cutting off %d calls", config.grace_s, pool.running)
            server.stop(0).wait(_CANCEL_S)
        pool.shutdown(wait=False, cancel_futures=True)


def run_until_stopped(service: AbstractContextManager[int], announce: Callable[[int], None]) -> None:
    """Enters ``service``, calls ``announce`` with its port, waits for SIGINT or SIGTERM, leaves it.

    To be called in the main thread. The signals' previous handlers come back at the end.

    Raises:
        KeyboardInterrupt: A signal came while the service started, or a second one while it drained: no waiting.
    """
    asked: queue.SimpleQueue[int] = queue.SimpleQueue()  # unlike an Event, safe inside a signal handler
    patient = False  # only while serving, and only for the first signal

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal patient
        if not patient:
            raise KeyboardInterrupt
        patient = False
        asked.put(number)

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with service as port:
            patient = True
            announce(port)
            asked.get()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _CountingPool(ThreadPoolExecutor):
    """gRPC hands every call to the pool as one task, so the unfinished tasks are the calls in flight."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads, thread_name_prefix="rpc")
        self._unfinished: set[Future[Any]] = set()

    @property
    def running(self) -> int:
        return len(self._unfinished)

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        future = super().submit(fn, *args, **kwargs)
        self._unfinished.add(future)
        future.add_done_callback(self._unfinished.discard)
        return future
