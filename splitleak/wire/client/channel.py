"""gRPC channels between edge, tap and cloud: their options, and how to connect.

The values follow measurements of grpcio 1.85: by default it silently does not retry requests over 256 KiB, refuses
messages over 4 MiB, and takes more than 5 s to reconnect after an outage of 12 s.
"""

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
from pydantic import Field

from splitleak.config import Config, Seconds
from splitleak.wire.address import check_target, is_loopback
from splitleak.wire.client.reach import Obstacle, obstacle, proxy_of
from splitleak.wire.security import TlsClientConfig, read_token

_LOGGER = logging.getLogger(__name__)
_SOON_S = 0.5  # after which a connection that is not there is looked into
MEBIBYTE = 1024 * 1024
Options = list[tuple[str, int | str]]
_Any = Any  # grpc's stubs leave the fields of call details open
_Continuation = Callable[[_Any, _Any], _Any]


class ChannelConfig(Config):
    """Timeouts, keepalive, retries and security of a client's channel."""

    timeout_s: Seconds = Field(default=30.0, gt=0, description="seconds until a request times out")
    connect_timeout_s: Seconds = Field(default=20.0, gt=0, description="seconds until a connection must be ready")
    max_message_bytes: int = Field(default=64 * MEBIBYTE, gt=0, lt=2**31, description="largest message, each way")
    keepalive_s: Seconds = Field(default=10.0, ge=10, description="seconds without traffic until the server is pinged")
    keepalive_timeout_s: Seconds = Field(default=10.0, gt=0, description="seconds a ping may stay unanswered")
    handshake_s: Seconds = Field(default=5.0, gt=0, description="seconds of one attempt to connect, TLS included")
    reconnect_min_ms: int = Field(default=100, ge=1, lt=2**31, description="first backoff before reconnecting")
    reconnect_max_ms: int = Field(default=1000, ge=1, lt=2**31, description="longest backoff before reconnecting")
    attempts: int = Field(default=4, ge=1, le=5, description="attempts of a call while the server is unavailable")
    retry_buffer_bytes: int = Field(default=8 * MEBIBYTE, gt=0, lt=2**31, description="larger calls are not retried")
    tls: TlsClientConfig | None = Field(default=None, description="trusted and own certificates; none: no TLS")
    token_file: Path | None = Field(default=None, description="file with the bearer token of every call")

    def options(self) -> Options:
        """The options of a client's channel."""
        retry = {
            "maxAttempts": self.attempts,
            "initialBackoff": f"{self.reconnect_min_ms / 1000}s",
            "maxBackoff": f"{self.reconnect_max_ms / 1000}s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        methods = {"methodConfig": [{"name": [{}], "retryPolicy": retry}]}
        return [
            *message_limits(self.max_message_bytes),
            ("grpc.keepalive_time_ms", round(self.keepalive_s * 1000)),
            ("grpc.keepalive_timeout_ms", round(self.keepalive_timeout_s * 1000)),
            # Measured: without this timeout an unanswered ping goes unnoticed for a minute. gRPC's bandwidth probes are
            # off: their pings, delayed behind large requests, would end a slow connection.
            ("grpc.http2.ping_timeout_ms", round(self.keepalive_timeout_s * 1000)),
            ("grpc.http2.bdp_probe", 0),
            ("grpc.initial_reconnect_backoff_ms", self.reconnect_min_ms),
            ("grpc.min_reconnect_backoff_ms", round(self.handshake_s * 1000)),  # gRPC uses it as the connection timeout
            ("grpc.max_reconnect_backoff_ms", self.reconnect_max_ms),
            ("grpc.per_rpc_retry_buffer_size", self.retry_buffer_bytes),
            ("grpc.enable_retries", int(self.attempts > 1)),
            *([("grpc.service_config", json.dumps(methods))] if self.attempts > 1 else []),
        ]


def open_channel(address: str, config: ChannelConfig, options: Options | None = None) -> grpc.Channel:
    """Opens a channel to a server, which need not be up yet.

    Args:
        address: The target, see `check_target`.
        config: Its options.
        options: More of gRPC's options; they take precedence.

    Raises:
        OSError: A file of the config cannot be read.
        ValueError: Such a file holds something else, a token would be sent without TLS, or ``address`` is invalid.
    """
    check_target(address)
    options = [*config.options(), ("grpc.enable_http_proxy", int(not is_loopback(address))), *(options or [])]
    if config.token_file is not None and config.tls is None and not is_loopback(address):
        raise ValueError(f"expected TLS for {address}, since a token would travel in clear, got a channel without")
    if config.tls is None:
        channel = grpc.insecure_channel(address, options)
    else:
        name = config.tls.server_name
        override: Options = [] if name is None else [("grpc.ssl_target_name_override", name)]
        channel = grpc.secure_channel(address, config.tls.credentials(), [*options, *override])
    return channel if config.token_file is None else grpc.intercept_channel(channel, _Bearer(config.token_file))


@contextlib.contextmanager
def connect(address: str, config: ChannelConfig, *, patience_s: float = 0.0) -> Iterator[grpc.Channel]:
    """A channel to ``address`` that is connected when the block starts, and closed when it ends.

    A server that does not listen yet is waited for, which is logged.

    Args:
        address: The target.
        config: How to reach it.
        patience_s: Seconds to wait, where that is longer than the config's.

    Raises:
        ConnectionError: No server answered in time, or whoever answers is none for us; the message says why if known.
        OSError, ValueError: See `open_channel`.
    """
    with open_channel(address, config) as channel:
        _wait(channel, address, config, max(config.connect_timeout_s, patience_s))
        yield channel


def _wait(channel: grpc.Channel, address: str, config: ChannelConfig, timeout_s: float) -> None:
    ready, deadline = grpc.channel_ready_future(channel), time.monotonic() + timeout_s
    found: Obstacle | None = None
    through = f" through the proxy {proxy}" if (proxy := proxy_of(address)) is not None else ""
    for wait_s in (min(_SOON_S, timeout_s), None):
        try:
            ready.result(max(deadline - time.monotonic(), 0.0) if wait_s is None else wait_s)
            return
        except grpc.FutureTimeoutError:
            found = obstacle(address, config.tls, min(_SOON_S, timeout_s)) or found
            if found is not None and found.lasting:
                ready.cancel()
                raise ConnectionError(f"expected a server at {address}, got {found.reason}") from None
            if found is not None and wait_s is not None:
                _LOGGER.warning("%s: %s; waiting for up to %g s", address, found.reason, timeout_s)
    ready.cancel()
    got = f"no answer{through}" if found is None else f"no answer, but {found.reason}"
    raise ConnectionError(f"expected a server at {address} within {timeout_s:g} s, got {got}")


class _Bearer(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds the bearer token to each call; gRPC's call credentials need TLS, on loopback too."""

    def __init__(self, path: Path) -> None:
        self._entry = ("authorization", f"Bearer {read_token(path)}")

    def intercept_unary_unary(self, continuation: _Continuation, client_call_details: _Any, request: _Any) -> _Any:
        return continuation(self._authorized(client_call_details), request)

    def intercept_stream_unary(
        self, continuation: _Continuation, client_call_details: _Any, request_iterator: _Any
    ) -> _Any:
        return continuation(self._authorized(client_call_details), request_iterator)

    intercept_unary_stream, intercept_stream_stream = intercept_unary_unary, intercept_stream_unary

    def _authorized(self, details: _Any) -> _Any:
        return details._replace(metadata=(*(details.metadata or ()), self._entry))


def message_limits(size: int, received: int | None = None) -> Options:
    """The options for messages of at most ``size`` bytes each way, and of at most ``received`` bytes to this side."""
    receive = size if received is None else min(size, received)
    return [("grpc.max_receive_message_length", receive), ("grpc.max_send_message_length", size)]
