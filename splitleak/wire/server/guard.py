"""Authentication and rate limits: an interceptor in front of every method, health and reflection included.

A call is accepted or refused by its metadata before any of its messages is read, so that a refusal is cheap.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NoReturn

import grpc
from google.protobuf.message import DecodeError
from pydantic import Field

from splitleak.config import Config
from splitleak.errors import WireError
from splitleak.wire.protocol.paths import method_path
from splitleak.wire.security import Tokens

Kind = Literal["calls", "streams", "probes"]

_PROBES = frozenset({"/grpc.health.v1.Health/Check", *map(method_path, ("ServerLive", "ServerReady", "ModelReady"))})
_MAX_PROBES = 64
_REFUSAL_THREADS = 16  # threads beyond the open calls, to answer refusals
_SWEEP_S = 1.0
_Handler = Any  # grpc's RpcMethodHandler; its stubs leave the fields' types open


class Limits(Config):
    """Concurrency and rate limits. A client is identified by its token or certificate, else by its address."""

    calls: int = Field(default=256, ge=1, description="unary calls open at once")
    streams: int = Field(default=256, ge=1, description="streams open at once; each holds a thread")
    calls_per_client: int | None = Field(default=None, ge=1, description="of one client; none: as of all")
    streams_per_client: int | None = Field(default=None, ge=1, description="of one client; none: as of all")
    requests_per_s: float | None = Field(
        default=None, gt=0, description="of one client, on average: a call above it is refused, a stream is slowed down"
    )
    burst: int = Field(default=32, ge=1, description="requests that an idle client may send at once")
    message_s: float = Field(default=30.0, gt=0, description="seconds until a unary call must have sent its message")
    handshake_s: float = Field(default=10.0, gt=0, description="seconds until a connection must be established")
    idle_s: float = Field(default=600.0, gt=0, description="seconds until a connection without calls is closed")

    @property
    def threads(self) -> int:
        """Enough for all calls that may be open, so that none waits for a thread."""
        return self.calls + self.streams + _MAX_PROBES + _REFUSAL_THREADS


@dataclass
class _Client:
    """One client's open calls and its token bucket; a stream may overdraw it."""

    allowance: float  # requests it may send now; below zero: taken on credit
    refilled: float  # monotonic seconds
    open: Counter[Kind] = field(default_factory=Counter)


class Guard(grpc.ServerInterceptor):
    """Refuses unknown clients (UNAUTHENTICATED), calls above a limit (RESOURCE_EXHAUSTED) and malformed messages.

    Probes (health, liveness, readiness) need a token too, but have a limit of their own: they are answered while a
    service is full. A refusal for the rate says when to retry, in words and as ``grpc-retry-pushback-ms``.

    Args:
        limits: Of concurrency and rate.
        tokens: The known clients; None: anybody may call.
        certificates: Whether clients are authenticated, and so identified, by certificates.
    """

    def __init__(self, limits: Limits, tokens: Tokens | None = None, *, certificates: bool = False) -> None:
        self._limits = limits
        self._tokens = tokens
        self._certificates = certificates
        self._totals: dict[Kind, int] = {"calls": limits.calls, "streams": limits.streams, "probes": _MAX_PROBES}
        per_client = {"calls": limits.calls_per_client, "streams": limits.streams_per_client}
        self._client_limits = {kind: per_client.get(kind) or most for kind, most in self._totals.items()}
        self._per_client = any(per_client.values()) or limits.requests_per_s is not None  # whether to identify clients
        self._lock = threading.Lock()
        self._open: Counter[Kind] = Counter()
        self._clients: dict[str, _Client] = {}
        self._awaiting_message: dict[int, tuple[grpc.ServicerContext, float]] = {}  # by id, with their start
        self._last_sweep = time.monotonic()

    @property
    def open_calls(self) -> int:
        return self._open.total()

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], _Handler], handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler:
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        kind: Kind = "probes" if handler_call_details.method in _PROBES else "calls"
        # Every method is handled as a stream of requests: gRPC reads a unary call's message before its handler runs.
        if handler.response_streaming:
            stream = partial(self._stream, handler)
            return grpc.stream_stream_rpc_method_handler(stream, None, handler.response_serializer)
        if handler.request_streaming:
            kind = "streams"
        call = partial(self._call, handler, kind)
        return grpc.stream_unary_rpc_method_handler(call, None, handler.response_serializer)

    def _call(self, handler: _Handler, kind: Kind, requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:  # noqa: ANN401
        client = self._enter(kind, context)
        try:
            if handler.request_streaming:
                return handler.stream_unary(self._messages(handler, requests, client, context), context)
            if kind == "calls" and client is not None and (wait_s := self._take_permit(client, on_credit=False)):
                self._refuse_rate(wait_s, context)
            return handler.unary_unary(self._message(handler, requests, context), context)
        except WireError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        finally:
            self._leave(kind, client)

    def _stream(self, handler: _Handler, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
        client = self._enter("streams", context)
        try:
            if handler.request_streaming:
                yield from handler.stream_stream(self._messages(handler, requests, client, context), context)
            else:
                yield from handler.unary_stream(self._message(handler, requests, context), context)
        except WireError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        finally:
            self._leave("streams", client)

    def _message(self, handler: _Handler, requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:  # noqa: ANN401
        """The single request message of a call."""
        self._awaiting_message[id(context)] = context, time.monotonic()
        try:
            raw = next(requests, None)
        finally:
            del self._awaiting_message[id(context)]
        if raw is None:
            raise WireError("expected one message, got none")
        return _decode(handler, raw)

    def _messages(
        self, handler: _Handler, requests: Iterator[bytes], client: _Client | None, context: grpc.ServicerContext
    ) -> Iterator[Any]:
        """A stream's messages, delayed to the client's rate."""
        ended = threading.Event()
        if client is not None and self._limits.requests_per_s is not None and not context.add_callback(ended.set):
            return
        for raw in requests:
            if client is not None and (wait_s := self._take_permit(client, on_credit=True)) and ended.wait(wait_s):
                return
            yield _decode(handler, raw)

    def _enter(self, kind: Kind, context: grpc.ServicerContext) -> _Client | None:
        name = self._identify(context)
        with self._lock:
            self._sweep()
            client = None
            full = self._open[kind] >= self._totals[kind] and f"{kind} at once"
            if name is not None:
                client = self._clients.get(name) or _Client(float(self._limits.burst), time.monotonic())
                full = full or (client.open[kind] >= self._client_limits[kind] and f"{kind} of one client at once")
            if not full:
                self._open[kind] += 1
                if name is not None and client is not None:
                    client.open[kind] += 1
                    self._clients[name] = client
                return client
        limit = (self._client_limits if "client" in full else self._totals)[kind]
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"expected at most {limit} {full}, got one more")

    def _leave(self, kind: Kind, client: _Client | None) -> None:
        with self._lock:
            self._open[kind] -= 1
            if client is not None:
                client.open[kind] -= 1

    def _identify(self, context: grpc.ServicerContext) -> str | None:
        """The client's identity; None where no limit needs it. An unknown client is refused."""
        if self._tokens is not None:
            shown = next((str(value) for key, value in context.invocation_metadata() if key == "authorization"), None)
            scheme, _, token = (shown or "").partition(" ")
            name = self._tokens.client(token) if scheme.lower() == "bearer" else None
            if name is None:
                got = "none" if shown is None else "another"
                context.abort(
                    grpc.StatusCode.UNAUTHENTICATED,
                    f"expected a known client's token in the metadata 'authorization: Bearer ...', got {got}",
                )
            return name
        if not self._per_client:
            return None
        identities = (context.peer_identities() or ()) if self._certificates else ()
        return next((identity.decode("utf-8", "replace") for identity in identities), context.peer().rpartition(":")[0])

    def _take_permit(self, client: _Client, *, on_credit: bool) -> float:
        """Takes a permit from the client's token bucket; returns the seconds until there is one, or 0.

        ``on_credit`` takes it in any case: the caller waits for it.
        """
        rate, now = self._limits.requests_per_s, time.monotonic()
        if rate is None:
            return 0.0
        with self._lock:
            client.allowance = min(client.allowance + (now - client.refilled) * rate, self._limits.burst)
            client.refilled = now
            wait_s = max((1 - client.allowance) / rate, 0.0)
            if on_credit or not wait_s:
                client.allowance -= 1
            return wait_s

    def _refuse_rate(self, wait_s: float, context: grpc.ServicerContext) -> NoReturn:
        context.set_trailing_metadata((("grpc-retry-pushback-ms", str(round(wait_s * 1000) + 1)),))
        context.abort(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"expected at most {self._limits.requests_per_s:g} requests a second, got one more; "
            f"try again in {wait_s:.3f} s",
        )

    def _sweep(self) -> None:
        """Cancels calls that do not send their message, and forgets idle clients; at most once a second."""
        now = time.monotonic()
        if now - self._last_sweep < _SWEEP_S:
            return
        self._last_sweep = now
        for context, since in list(self._awaiting_message.values()):
            if now - since > self._limits.message_s:
                context.cancel()
        rate, burst = self._limits.requests_per_s or 1.0, self._limits.burst
        idle = [
            name
            for name, client in self._clients.items()
            if not client.open.total() and (now - client.refilled) * rate > burst - client.allowance
        ]
        for name in idle:
            del self._clients[name]


def _decode(handler: _Handler, raw: bytes) -> Any:  # noqa: ANN401  # the method's message type
    if handler.request_deserializer is None:
        return raw
    try:
        return handler.request_deserializer(raw)
    except DecodeError:
        raise WireError(f"expected a message of the protocol, got {len(raw)} bytes that are none") from None
