"""The wire tap: a transparent gRPC proxy between edge and cloud that writes every message it carries to a capture."""

import contextlib
import itertools
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
from pydantic import Field

from splitleak.config import Config
from splitleak.wire.address import Target
from splitleak.wire.client.channel import ChannelConfig, open_channel
from splitleak.wire.files.captures import CaptureWriter, Direction
from splitleak.wire.server.server import ServerConfig, serve

_LOGGER = logging.getLogger(__name__)
_CENTURY_S = 100 * 365.25 * 24 * 3600
_ROUNDED_UP_S = 0.002
_SET_BY_EACH_HOP = frozenset({"user-agent"})


class TapConfig(Config):
    """Addresses of the proxy and of the cloud, and the capture file."""

    server: ServerConfig = Field(default_factory=ServerConfig, description="the address the victims' edge connects to")
    upstream: Target = Field(description="host:port of the real cloud")
    capture: Path = Field(description="the capture file; an existing one is appended to")
    rotate_mb: float | None = Field(default=None, gt=0, description="megabytes of a capture file; none: no limit")
    max_bytes: int | None = Field(default=None, gt=0, description="bytes of the whole capture; none: no limit")
    channel: ChannelConfig = Field(default_factory=ChannelConfig, description="the connection to the cloud")


@contextlib.contextmanager
def tap(config: TapConfig) -> Iterator[int]:
    """Forwards every call while the block runs; yields the bound port.

    Neither side can tell the tap from the other: any method (unary or stream, known or not), metadata both ways, the
    deadline, half-close, cancellation, status code and details pass through. Only ``user-agent`` is the tap's own, as
    gRPC sets it for a whole channel. The cloud need not be up: calls meanwhile fail with UNAVAILABLE, and the tap
    retries none. Each message is in the capture before it is passed on, as long as the capture may grow; metadata, and
    with it a client's token, is not.

    Over TLS it is the other end of both connections: the edge must trust the certificate that the tap shows, and the
    cloud, where it asks for one, what the tap has as a client. Where neither is so, there is
    `splitleak.attacker.blind_tap`.

    Raises:
        OSError: The address is taken, or the capture cannot be opened (or another process holds it).
        ValueError: A file with a certificate or a key holds something else.
        WireError: ``capture`` is an existing file that is not a capture.
    """
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(CaptureWriter(config.capture, config.rotate_mb, config.max_bytes))
        channel = stack.enter_context(open_channel(config.upstream, config.channel, [("grpc.enable_retries", 0)]))
        relay = _Relay(channel, writer.write, writer.first_call)
        port = stack.enter_context(serve(lambda server: server.add_generic_rpc_handlers((relay,)), config.server))
        _LOGGER.info("tap on port %d in front of %s, capture in %s", port, config.upstream, config.capture)
        yield port


class _Relay(grpc.GenericRpcHandler):
    """Treats every method as a stream of raw bytes both ways: on the wire, a unary call is a stream of one message."""

    def __init__(
        self, channel: grpc.Channel, write: Callable[[str, int, Direction, bytes], None], first_call: int
    ) -> None:
        self._channel = channel
        self._write = write
        self._calls = itertools.count(first_call)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        method = handler_call_details.method

        def relay(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            return self._relay(method, requests, context)

        return grpc.stream_stream_rpc_method_handler(relay)

    def _relay(self, method: str, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        number = next(self._calls)

        def sent() -> Iterator[bytes]:
            with contextlib.suppress(grpc.RpcError):  # the client is gone, and the call upstream is being cancelled
                for message in requests:
                    self._write(method, number, "request", message)
                    yield message

        forward: grpc.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(method)
        call = forward(
            sent(),
            timeout=relayed_timeout(context.time_remaining()),
            metadata=tuple(entry for entry in context.invocation_metadata() if entry[0] not in _SET_BY_EACH_HOP),
        )

        def cancel() -> None:
            call.cancel()

        if not context.add_callback(cancel):
            cancel()
        with contextlib.suppress(grpc.RpcError):  # its code and details are passed on below
            context.send_initial_metadata(call.initial_metadata())
            for message in call:
                self._write(method, number, "response", message)
                yield message
        context.set_trailing_metadata(call.trailing_metadata())
        context.set_code(call.code())
        context.set_details(call.details())


def relayed_timeout(remaining_s: float | None) -> float | None:
    """The timeout for the next hop, in seconds; None without a deadline.

    gRPC rounds a timeout up at each hop, to a millisecond and then to three digits, so the tap rounds down: the cloud
    is given no more time than the client gave.
    """
    if remaining_s is None or remaining_s > _CENTURY_S:
        return None
    if remaining_s <= _ROUNDED_UP_S:
        return 0
    grain = 10.0 ** max(math.floor(math.log10(remaining_s)) - 2, -3)
    return max(math.floor(remaining_s / grain) * grain - _ROUNDED_UP_S, 0)
