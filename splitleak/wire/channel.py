"""gRPC channels between edge, tap and cloud: one set of options, and one way to connect.

The values follow measurements of grpcio 1.85: its defaults give up retrying requests over 256 KiB without a word,
refuse messages over 4 MiB, and need more than 5 s to come back after an outage of 12 s.
"""

import contextlib
import json
from collections.abc import Iterator

import grpc
from pydantic import Field

from splitleak.config import Config

MEBIBYTE = 1024 * 1024
Options = list[tuple[str, int | str]]


class ChannelConfig(Config):
    """How a client reaches a server."""

    timeout_s: float = Field(default=30.0, gt=0, description="seconds until one request counts as unanswered")
    connect_timeout_s: float = Field(default=20.0, gt=0, description="seconds to wait for a server at the start")
    max_message_bytes: int = Field(default=64 * MEBIBYTE, gt=0, lt=2**31, description="largest message, both ways")
    keepalive_s: float = Field(default=30.0, ge=10, description="seconds of silence after which the peer is pinged")
    keepalive_timeout_s: float = Field(default=10.0, gt=0, description="seconds a ping may stay unanswered")
    reconnect_min_ms: int = Field(default=100, ge=1, description="first wait before connecting again")
    reconnect_max_ms: int = Field(default=1000, ge=1, description="longest wait before connecting again")
    attempts: int = Field(
        default=4, ge=2, le=5, description="how often a call is tried while the server is unavailable"
    )
    retry_buffer_bytes: int = Field(default=8 * MEBIBYTE, gt=0, lt=2**31, description="larger calls are not retried")

    def options(self) -> Options:
        """The options of a client's channel."""
        retry = {
            "maxAttempts": self.attempts,
            "initialBackoff": f"{self.reconnect_min_ms / 1000}s",
            "maxBackoff": f"{self.reconnect_max_ms / 1000}s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        return [
            *_message_limits(self.max_message_bytes),
            ("grpc.keepalive_time_ms", round(self.keepalive_s * 1000)),
            ("grpc.keepalive_timeout_ms", round(self.keepalive_timeout_s * 1000)),
            ("grpc.initial_reconnect_backoff_ms", self.reconnect_min_ms),
            ("grpc.min_reconnect_backoff_ms", self.reconnect_min_ms),
            ("grpc.max_reconnect_backoff_ms", self.reconnect_max_ms),
            ("grpc.per_rpc_retry_buffer_size", self.retry_buffer_bytes),
            ("grpc.service_config", json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": retry}]})),
        ]


def server_options(max_message_bytes: int) -> Options:
    """The options of a server: it takes the clients' pings, and a port that is in use is an error, not shared."""
    return [
        *_message_limits(max_message_bytes),
        ("grpc.so_reuseport", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


@contextlib.contextmanager
def connect(address: str, config: ChannelConfig) -> Iterator[grpc.Channel]:
    """A channel to ``address`` (``host:port``), ready when the block starts, closed when it ends.

    Raises:
        ConnectionError: No server answered within ``connect_timeout_s``.
    """
    with grpc.insecure_channel(address, config.options()) as channel:
        ready = grpc.channel_ready_future(channel)
        try:
            ready.result(config.connect_timeout_s)
        except grpc.FutureTimeoutError:
            ready.cancel()
            raise ConnectionError(
                f"expected a server at {address} within {config.connect_timeout_s:g} s, got no answer"
            ) from None
        yield channel


def _message_limits(size: int) -> Options:
    return [("grpc.max_receive_message_length", size), ("grpc.max_send_message_length", size)]
