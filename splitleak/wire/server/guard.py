"""Who may call a service, and how much: an interceptor in front of every method, health and reflection included.

A call is judged by its metadata, before any of its messages is read: a stranger costs a server no more than a refusal.
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
_FOR_REFUSALS = 16  # threads beyond what may be open
_SWEEP_S = 1.0
_Handler = Any  # grpc's RpcMethodHandler; its stubs leave the fields' types open
_Metadata = tuple[tuple[str, str], ...]


class Limits(Config):
    """How much of a service may be taken. A client is who its token or certificate says, else its address."""

    calls: int = Field(default=256, ge=1, description="single calls open at once")
    streams: int = Field(default=256, ge=1, description="streams open at once, each of which holds a thread")
    calls_per_client: int | None = Field(default=None, ge=1, description="of one client; none: as many as of all")
    streams_per_client: int | None = Field(default=None, ge=1, description="of one client; none: as many as of all")
    requests_per_s: float | None = Field(
        default=None, gt=0, description="of one client, over time: a call above it is refused, a stream is held up"
    )
    burst: int = Field(default=32, ge=1, description="requests that a client which was silent may send at once")
    message_s: float = Field(default=30.0, gt=0, description="seconds that a call may take to send its one message")
    handshake_s: float = Field(default=10.0, gt=0, description="seconds that a connection may take to be set up")
    idle_s: float = Field(default=600.0, gt=0, description="seconds after which a connection without calls is closed")

    @property
    def threads(self) -> int:
        """As many as all that may be open holds at worst, so that no call waits for a thread."""
        return self.calls + self.streams + _MAX_PROBES + _FOR_REFUSALS


@dataclass
class _Client:
    """What one client has open, and how much of its rate is left; below zero, a stream has taken it in advance."""

    allowance: float
    refilled: float  # monotonic seconds
    open: Counter[Kind] = field(default_factory=Counter)


class Guard(grpc.ServerInterceptor):
    """Refuses strangers (UNAUTHENTICATED) and what is too much (RESOURCE_EXHAUSTED); a bad message is INVALID_ARGUMENT.

    Probes (health, liveness, readiness) need a token as everything does, but have room of their own: they are answered
    while a service is full. A refusal for the rate says when to try again, in words and as ``grpc-retry-pushback-ms``.

    Args:
        limits: How much may be open at once, and how often.
        tokens: Who may call; None: anybody.
        certificates: Whether clients have shown a certificate, so that it tells who they are.
    """

    def __init__(self, limits: Limits, tokens: Tokens | None = None, *, certificates: bool = False) -> None:
        self._limits = limits
        self._tokens = tokens
        self._certificates = certificates
        self._most: dict[Kind, int] = {"calls": limits.calls, "streams": limits.streams, "probes": _MAX_PROBES}
        each = {"calls": limits.calls_per_client, "streams": limits.streams_per_client}
        self._most_each: dict[Kind, int] = {kind: each.get(kind) or most for kind, most in self._most.items()}
        self._named = any(each.values()) or limits.requests_per_s is not None  # whether it matters who calls
        self._lock = threading.Lock()
        self._open: Counter[Kind] = Counter()
        self._clients: dict[str, _Client] = {}
        self._silent: dict[int, tuple[grpc.ServicerContext, float]] = {}  # calls without a message, and since when
        self._swept = time.monotonic()

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], _Handler], handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler:
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        kind: Kind = "probes" if handler_call_details.method in _PROBES else "calls"
        # Every call is taken as a stream of requests: gRPC would read a single message before anybody is asked.
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
            if kind == "calls" and client is not None and (wait_s := self._spend(client, in_advance=False)):
                self._refuse_for(wait_s, context)
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
        """The one message of a call that is no stream of requests."""
        self._silent[id(context)] = context, time.monotonic()
        try:
            raw = next(requests, None)
        finally:
            del self._silent[id(context)]
        if raw is None:
            raise WireError("expected one message, got none")
        return _decoded(handler, raw)

    def _messages(
        self, handler: _Handler, requests: Iterator[bytes], client: _Client | None, context: grpc.ServicerContext
    ) -> Iterator[Any]:
        """A stream's messages, no faster than the client's rate."""
        over = threading.Event()
        if client is not None and self._limits.requests_per_s is not None and not context.add_callback(over.set):
            return
        for raw in requests:
            if client is not None and (wait_s := self._spend(client, in_advance=True)) and over.wait(wait_s):
                return
            yield _decoded(handler, raw)

    def _enter(self, kind: Kind, context: grpc.ServicerContext) -> _Client | None:
        name = self._name(context)
        with self._lock:
            self._sweep()
            client = None
            full = self._open[kind] >= self._most[kind] and f"{kind} at once"
            if name is not None:
                client = self._clients.get(name) or _Client(float(self._limits.burst), time.monotonic())
                full = full or (client.open[kind] >= self._most_each[kind] and f"{kind} of one client at once")
            if not full:
                self._open[kind] += 1
                if name is not None and client is not None:
                    client.open[kind] += 1
                    self._clients[name] = client
                return client
        most = (self._most_each if "client" in full else self._most)[kind]
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"expected at most {most} {full}, got one more")

    def _leave(self, kind: Kind, client: _Client | None) -> None:
        with self._lock:
            self._open[kind] -= 1
            if client is not None:
                client.open[kind] -= 1

    def _name(self, context: grpc.ServicerContext) -> str | None:
        """Who calls; None where it does not matter. A stranger is refused here."""
        if self._tokens is not None:
            shown = next((str(value) for key, value in context.invocation_metadata() if key == "authorization"), None)
            scheme, _, word = (shown or "").partition(" ")
            name = self._tokens.client(word) if scheme.lower() == "bearer" else None
            if name is None:
                got = "none" if shown is None else "another"
                context.abort(
                    grpc.StatusCode.UNAUTHENTICATED,
                    f"expected a known client's token in the metadata 'authorization: Bearer ...', got {got}",
                )
            return name
        if not self._named:
            return None
        identities = (context.peer_identities() or ()) if self._certificates else ()
        return next((each.decode("utf-8", "replace") for each in identities), context.peer().rpartition(":")[0])

    def _spend(self, client: _Client, *, in_advance: bool) -> float:
        """Takes one request off a client's rate; the seconds until it has it, 0 if it has it now.

        ``in_advance`` takes it in any case: the caller waits.
        """
        rate, now = self._limits.requests_per_s, time.monotonic()
        if rate is None:
            return 0.0
        with self._lock:
            client.allowance = min(client.allowance + (now - client.refilled) * rate, self._limits.burst)
            client.refilled = now
            wait_s = max((1 - client.allowance) / rate, 0.0)
            if in_advance or not wait_s:
                client.allowance -= 1
            return wait_s

    def _refuse_for(self, wait_s: float, context: grpc.ServicerContext) -> NoReturn:
        hint: _Metadata = (("grpc-retry-pushback-ms", str(round(wait_s * 1000) + 1)),)
        context.set_trailing_metadata(hint)
        context.abort(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"expected at most {self._limits.requests_per_s:g} requests a second, got one more; "
            f"try again in {wait_s:.3f} s",
        )

    def _sweep(self) -> None:
        """Cuts off calls that never send their message, and forgets clients that are gone; once a second at most."""
        now = time.monotonic()
        if now - self._swept < _SWEEP_S:
            return
        self._swept = now
        for context, since in list(self._silent.values()):
            if now - since > self._limits.message_s:
                context.cancel()
        rate, burst = self._limits.requests_per_s or 1.0, self._limits.burst
        gone = [
            name
            for name, each in self._clients.items()
            if not each.open.total() and (now - each.refilled) * rate > burst - each.allowance
        ]
        for name in gone:
            del self._clients[name]


def _decoded(handler: _Handler, raw: bytes) -> Any:  # noqa: ANN401  # whatever message the method takes
    if handler.request_deserializer is None:
        return raw
    try:
        return handler.request_deserializer(raw)
    except DecodeError:
        raise WireError(f"expected a message of the protocol, got {len(raw)} bytes that are none") from None
