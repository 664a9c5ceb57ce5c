"""gRPC channels between edge, tap and cloud: one set of options, and one way to connect.

The values follow measurements of grpcio 1.85: its defaults give up retrying requests over 256 KiB without a word,
refuse messages over 4 MiB, and need more than 5 s to come back after an outage of 12 s.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from pydantic import Field

from splitleak.config import Config
from splitleak.wire.address import check_target, is_loopback
from splitleak.wire.security import TlsClientConfig, read_token

MEBIBYTE = 1024 * 1024
Options = list[tuple[str, int | str]]
_Continuation = Callable[[Any, Any], Any]


class ChannelConfig(Config):
    """How a client reaches a server."""

    timeout_s: float = Field(default=30.0, gt=0, description="seconds until one request counts as unanswered")
    connect_timeout_s: float = Field(default=20.0, gt=0, description="seconds to wait for a server at the start")
    max_message_bytes: int = Field(default=64 * MEBIBYTE, gt=0, lt=2**31, description="largest message, both ways")
    keepalive_s: float = Field(default=10.0, ge=10, description="seconds of silence after which the peer is pinged")
    keepalive_timeout_s: float = Field(default=10.0, gt=0, description="seconds a ping may stay unanswered")
    handshake_s: float = Field(default=5.0, gt=0, description="seconds one attempt to connect may take, TLS included")
    reconnect_min_ms: int = Field(default=100, ge=1, description="first wait before connecting again")
    reconnect_max_ms: int = Field(default=1000, ge=1, description="longest wait before connecting again")
    attempts: int = Field(
        default=4, ge=1, le=5, description="how often a call is tried while the server is unavailable"
    )
    retry_buffer_bytes: int = Field(default=8 * MEBIBYTE, gt=0, lt=2**31, description="larger calls are not retried")
    tls: TlsClientConfig | None = Field(default=None, description="whom to trust, and what to show; none: in clear")
    token_file: Path | None = Field(default=None, description="file with the token that every call shows")

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
            # Measured: without this limit an unanswered ping ends nothing for a minute. gRPC's own pings, which probe
            # for the window of answers, are off: late behind large requests, they would end a slow connection.
            ("grpc.http2.ping_timeout_ms", round(self.keepalive_timeout_s * 1000)),
            ("grpc.http2.bdp_probe", 0),
            ("grpc.initial_reconnect_backoff_ms", self.reconnect_min_ms),
            ("grpc.min_reconnect_backoff_ms", round(self.handshake_s * 1000)),  # what gRPC means by that name
            ("grpc.max_reconnect_backoff_ms", self.reconnect_max_ms),
            ("grpc.per_rpc_retry_buffer_size", self.retry_buffer_bytes),
            ("grpc.enable_retries", int(self.attempts > 1)),
            *([("grpc.service_config", json.dumps(methods))] if self.attempts > 1 else []),
        ]


def open_channel(address: str, config: ChannelConfig, options: Options | None = None) -> grpc.Channel:
    """A channel to ``address``, see `check_target`, which need not answer yet; ``options`` come on top of the config's.

    Raises:
        OSError: A file of the config cannot be read.
        ValueError: Such a file holds something else, a token would travel in clear, or ``address`` is none.
    """
    check_target(address)
    given = [*config.options(), *(options or [])]
    if config.token_file is not None and config.tls is None and not is_loopback(address):
        raise ValueError(f"expected TLS for {address}, since a token would travel in clear, got a channel without")
    if config.tls is None:
        channel = grpc.insecure_channel(address, given)
    else:
        name = config.tls.server_name
        named: Options = [] if name is None else [("grpc.ssl_target_name_override", name)]
        channel = grpc.secure_channel(address, config.tls.credentials(), [*given, *named])
    return channel if config.token_file is None else grpc.intercept_channel(channel, _Bearer(config.token_file))


@contextlib.contextmanager
def connect(address: str, config: ChannelConfig) -> Iterator[grpc.Channel]:
    """A channel to ``address``, ready when the block starts, closed when it ends.

    Raises:
        ConnectionError: No server answered within ``connect_timeout_s``, or one side refused the other's certificate.
        OSError, ValueError: See `open_channel`.
    """
    with open_channel(address, config) as channel:
        ready = grpc.channel_ready_future(channel)
        try:
            ready.result(config.connect_timeout_s)
        except grpc.FutureTimeoutError:
            ready.cancel()
            got = "no answer" if config.tls is None else "no answer, or a certificate was refused"
            raise ConnectionError(
                f"expected a server at {address} within {config.connect_timeout_s:g} s, got {got}"
            ) from None
        yield channel


class _Details(NamedTuple):
    """A call's details with other metadata; grpc reads them by name."""

    method: str
    timeout: float | None
    metadata: tuple[tuple[str, str | bytes], ...]
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class _Bearer(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Puts the token into each call's metadata; gRPC's own way takes no token without TLS, on loopback neither."""

    def __init__(self, path: Path) -> None:
        self._entry = ("authorization", f"Bearer {read_token(path)}")

    def intercept_unary_unary(self, continuation: _Continuation, client_call_details: Any, request: Any) -> Any:  # noqa: ANN401
        return continuation(self._shown(client_call_details), request)

    def intercept_unary_stream(self, continuation: _Continuation, client_call_details: Any, request: Any) -> Any:  # noqa: ANN401
        return continuation(self._shown(client_call_details), request)

    def intercept_stream_unary(
        self,
        continuation: _Continuation,
        client_call_details: Any,  # noqa: ANN401
        request_iterator: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        return continuation(self._shown(client_call_details), request_iterator)

    def intercept_stream_stream(
        self,
        continuation: _Continuation,
        client_call_details: Any,  # noqa: ANN401
        request_iterator: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        return continuation(self._shown(client_call_details), request_iterator)

    def _shown(self, details: Any) -> _Details:  # noqa: ANN401  # grpc's stubs do not say what it holds
        metadata = (*(details.metadata or ()), self._entry)
        return _Details(
            *(details.method, details.timeout, metadata),
            *(details.credentials, details.wait_for_ready, details.compression),
        )


def message_limits(size: int) -> Options:
    """The largest message, both ways, in bytes."""
    return [("grpc.max_receive_message_length", size), ("grpc.max_send_message_length", size)]
