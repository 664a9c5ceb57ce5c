"""Authentication and rate limits: an interceptor in front of every method, health and reflection included.

A call is accepted or refused by its metadata before any of its messages is read, so that a refusal is cheap.
"""

import contextlib
import hashlib
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

from splitleak.config import Config, Seconds
from splitleak.errors import WireError
from splitleak.wire.protocol.paths import method_path
from splitleak.wire.protocol.status import RETRY_PUSHBACK
from splitleak.wire.security import Tokens

Kind = Literal["calls", "streams", "probes", "watches"]

_PROBES = frozenset({"/grpc.health.v1.Health/Check", *map(method_path, ("ServerLive", "ServerReady", "ModelReady"))})
_WATCHES = ("/grpc.health.v1.Health/Watch", "/grpc.reflection.")  # beginnings of methods; they cost a thread each
_MAX_PROBES, _MAX_WATCHES = 64, 32
_SHARED = 16  # a limit from here on is not left to one client alone
_REFUSAL_THREADS = 16  # threads beyond the open calls, to answer refusals
_SWEEP_S = 1.0
_Handler = Any  # grpc's RpcMethodHandler; its stubs leave the fields' types open


class Limits(Config):
    """Concurrency and rate limits. A client is identified by its token or certificate, else by its address.

    By default one client may take seven eighths of a limit, and one connection half of it.
    """

    calls: int = Field(default=256, ge=1, le=2**20, description="unary calls open at once")
    streams: int = Field(default=256, ge=1, le=2**20, description="streams open at once; each holds a thread")
    calls_per_client: int | None = Field(default=None, ge=1, description="of one client; none: seven eighths")
    streams_per_client: int | None = Field(default=None, ge=1, description="of one client; none: seven eighths")
    requests_per_s: float | None = Field(
        default=None, gt=0, description="of one client, on average: a call above it is refused, a stream is slowed down"
    )
    burst: int = Field(default=32, ge=1, description="requests that an idle client may send at once")
    message_s: Seconds = Field(default=30.0, gt=0, description="seconds until a unary call must have sent its message")
    handshake_s: Seconds = Field(default=10.0, gt=0, description="seconds until a connection must be established")
    idle_s: Seconds = Field(default=600.0, gt=0, description="seconds until a connection without calls is closed")
    stream_idle_s: Seconds = Field(default=300.0, gt=0, description="seconds until a stream without messages is ended")
    held_bytes: int = Field(
        default=512 * 2**20, ge=1, description="bytes of all requests that wait for their answers; one more is refused"
    )

    @property
    def threads(self) -> int:
        """Enough for all calls that may be open, so that none waits for a thread."""
        return self.calls + self.streams + _MAX_PROBES + _MAX_WATCHES + _REFUSAL_THREADS


@dataclass
class _Client:
    """One client's open calls and its token bucket; a stream may overdraw it."""

    allowance: float  # requests it may send now; below zero: taken on credit
    refilled: float  # monotonic seconds
    open: Counter[Kind] = field(default_factory=Counter)


@dataclass
class _Idle:
    """A stream, and when its last message passed."""

    context: grpc.ServicerContext
    since: float  # monotonic seconds


class Guard(grpc.ServerInterceptor):
    """Refuses unknown clients (UNAUTHENTICATED), calls above a limit (RESOURCE_EXHAUSTED) and malformed messages.

    Probes (health, liveness, readiness) need a token too, but have a limit of their own: they are answered while a
    service is full. So have streams that only watch or describe it (health, reflection). A refusal for the rate says
    when to retry, in words and as ``grpc-retry-pushback-ms``.

    Args:
        limits: Of concurrency and rate.
        tokens: The known clients; None: anybody may call.
        certificates: Whether clients are authenticated, and so identified, by certificates.
    """

    def __init__(self, limits: Limits, tokens: Tokens | None = None, *, certificates: bool = False) -> None:
        self._limits = limits
        self._tokens = tokens
        self._certificates = certificates
        self._totals: dict[Kind, int] = {
            "calls": limits.calls,
            "streams": limits.streams,
            "probes": _MAX_PROBES,
            "watches": _MAX_WATCHES,
        }
        per_client = {"calls": limits.calls_per_client, "streams": limits.streams_per_client}
        self._client_limits = {kind: per_client.get(kind) or _part(most, 7) for kind, most in self._totals.items()}
        self._connection_limits = {kind: _part(most, 4) for kind, most in self._totals.items()}
        self._lock = threading.Lock()
        self._open: Counter[Kind] = Counter()
        self._clients: dict[str, _Client] = {}
        self._connections: Counter[tuple[str, Kind]] = Counter()  # their open calls
        self._awaiting_message: dict[int, tuple[grpc.ServicerContext, float]] = {}  # by id, with their start
        self._streams: dict[int, _Idle] = {}  # by id of their contexts

    @property
    def open_calls(self) -> int:
        return self._open.total()

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], _Handler], handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler:
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        kind: Kind = "calls"
        if method in _PROBES:
            kind = "probes"
        elif method.startswith(_WATCHES):
            kind = "watches"
        # Every method is handled as a stream of requests: gRPC reads a unary call's message before its handler runs.
        if handler.response_streaming:
            stream = partial(self._stream, handler, kind if kind == "watches" else "streams")
            return grpc.stream_stream_rpc_method_handler(stream, None, handler.response_serializer)
        if handler.request_streaming and kind != "watches":
            kind = "streams"
        call = partial(self._call, handler, kind)
        return grpc.stream_unary_rpc_method_handler(call, None, handler.response_serializer)

    def sweep(self) -> None:
        """Cancels calls that do not send their message and streams without messages, and forgets idle clients."""
        now, limits = time.monotonic(), self._limits
        for context, since in list(self._awaiting_message.values()):
            if now - since > limits.message_s:
                context.cancel()
        for stream in list(self._streams.values()):
            if now - stream.since > limits.stream_idle_s:
                stream.context.cancel()
        rate, burst = limits.requests_per_s or 1.0, limits.burst
        with self._lock:
            idle = [
                name
                for name, client in self._clients.items()
                if not client.open.total() and (now - client.refilled) * rate > burst - client.allowance
            ]
            for name in idle:
                del self._clients[name]

    @contextlib.contextmanager
    def sweeping(self) -> Iterator[None]:
        """Sweeps once a second while the block runs."""
        ended = threading.Event()

        def work() -> None:
            while not ended.wait(_SWEEP_S):
                self.sweep()

        thread = threading.Thread(target=work, name="guard", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _call(self, handler: _Handler, kind: Kind, requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:  # noqa: ANN401
        with self._entered(kind, context) as client:
            if handler.request_streaming:
                with self._watched(context) as idle:
                    return handler.stream_unary(self._messages(handler, requests, client, idle), context)
            if kind == "calls" and (wait_s := self._take_permit(client, on_credit=False)):
                self._refuse_rate(wait_s, context)
            return handler.unary_unary(self._message(handler, requests, context), context)

    def _stream(
        self, handler: _Handler, kind: Kind, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[Any]:
        with self._entered(kind, context) as client, self._watched(context) as idle:
            if handler.request_streaming:
                responses = handler.stream_stream(self._messages(handler, requests, client, idle), context)
            else:
                responses = handler.unary_stream(self._message(handler, requests, context), context)
            for response in responses:
                idle.since = time.monotonic()
                yield response

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

    def _messages(self, handler: _Handler, requests: Iterator[bytes], client: _Client, idle: _Idle) -> Iterator[Any]:
        """A stream's messages, delayed to the client's rate; none is kept here while the stream waits for the next."""
        ended = threading.Event()
        if self._limits.requests_per_s is not None and not idle.context.add_callback(ended.set):
            return
        while (raw := next(requests, None)) is not None:
            wait_s = self._take_permit(client, on_credit=True)
            idle.since = time.monotonic() + wait_s
            if wait_s and ended.wait(wait_s):
                return
            held = [raw]
            del raw
            yield _decode(handler, held.pop())

    @contextlib.contextmanager
    def _watched(self, context: grpc.ServicerContext) -> Iterator[_Idle]:
        """Has the stream cancelled once it is idle for too long."""
        idle = self._streams[id(context)] = _Idle(context, time.monotonic())
        try:
            yield idle
        finally:
            del self._streams[id(context)]

    @contextlib.contextmanager
    def _entered(self, kind: Kind, context: grpc.ServicerContext) -> Iterator[_Client]:
        """Counts a call while the block runs, or refuses it; malformed messages end it."""
        name, connection = self._identify(context), (context.peer(), kind)
        with self._lock:
            client = self._clients.get(name) or _Client(float(self._limits.burst), time.monotonic())
            counts = (
                (self._open[kind], self._totals[kind], ""),
                (client.open[kind], self._client_limits[kind], " of one client"),
                (self._connections[connection], self._connection_limits[kind], " of one connection"),
            )
            full = next((f"{most} {kind}{whose} at once" for count, most, whose in counts if count >= most), None)
            if full is None:
                self._clients[name] = client
                self._open[kind] += 1
                client.open[kind] += 1
                self._connections[connection] += 1
        if full is not None:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"expected at most {full}, got one more")
        try:
            yield client
        except WireError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        finally:
            with self._lock:
                self._open[kind] -= 1
                client.open[kind] -= 1
                self._connections[connection] -= 1
                if not self._connections[connection]:
                    del self._connections[connection]

    def _identify(self, context: grpc.ServicerContext) -> str:
        """The client's identity, of a certificate its digest: several are for one name. Unknown clients are refused."""
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
        proven: Any = context.auth_context() if self._certificates else {}  # lists of bytes; grpc's stubs say bytes
        certificates = proven.get("x509_pem_cert", ())
        return next((hashlib.sha256(each).hexdigest() for each in certificates), context.peer().rpartition(":")[0])

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
        context.set_trailing_metadata(((RETRY_PUSHBACK, str(round(wait_s * 1000) + 1)),))
        context.abort(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"expected at most {self._limits.requests_per_s:g} requests a second, got one more; "
            f"try again in {wait_s:.3f} s",
        )


def _part(most: int, eighths: int) -> int:
    """The share of a limit, in eighths, that one client or connection may take of it."""
    return most * eighths // 8 if most >= _SHARED else most


def _decode(handler: _Handler, raw: bytes) -> Any:  # noqa: ANN401  # the method's message type
    if handler.request_deserializer is None:
        return raw
    try:
        return handler.request_deserializer(raw)
    except DecodeError:
        raise WireError(f"expected a message of the protocol, got {len(raw)} bytes that are none") from None
