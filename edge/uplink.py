"""The edge's connection to the cloud: one bidirectional stream, or unary calls, with reconnection and retries."""

import contextlib
import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import DecodeError

from splitleak.errors import WireError
from splitleak.wire.protocol.paths import MODEL_INFER, MODEL_STREAM_INFER
from splitleak.wire.protocol.pb import open_inference_pb2 as pb
from splitleak.wire.protocol.status import error_of, named_error, too_large

_LOGGER = logging.getLogger(__name__)
_CANCEL_S = 5.0  # a cancelled call ends far sooner
_BACKOFF_S = 0.05  # before the first retry; doubles with each
_MAX_RECONNECT_BACKOFF_S, _MAX_RETRY_BACKOFF_S = 0.4, 2.0
_RETRYABLE = frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"})  # of a request
_STREAM_RETRYABLE = _RETRYABLE | {"OK"}  # of a stream: a new one carries on


@dataclass(eq=False)
class Parcel:
    """A serialised ModelInferRequest with its timestamps, on the monotonic clock, and its retries.

    ``deadline`` is in seconds on that clock; ``sends`` counts how often the message was handed to gRPC.
    """

    request_id: str
    deadline: float
    message: bytes = b""
    sends: int = 0
    sent_ns: int = 0
    answered_ns: int = 0
    refusals: int = 0
    refusal: Exception | None = None  # the last one
    backing_off: bool = False  # refused, and waiting for its retry
    call: Any = None  # its unary call, where there is no stream

    def abandoned(self) -> bool:
        """Whether nobody waits for the response any more."""
        return False

    def mark_sent(self) -> bytes:
        """Counts and timestamps a send; returns the message."""
        self.sends += 1
        self.sent_ns = time.monotonic_ns()
        return self.message

    def on_sent(self) -> None:
        """Called once a stream has sent the message, for work that need not delay it."""


P = TypeVar("P", bound=Parcel)


@dataclass(eq=False)
class _Stream:
    call: Any  # grpc's rendezvous: a call, and an iterator over serialised responses
    outbox: "queue.SimpleQueue[Parcel | None]"
    answers: int = 0
    cut: str = ""  # why this client cancelled it; empty: it did not
    malformed: bool = False


class Uplink(Generic[P]):
    """Sends parcels, and reports each one's outcome once, from a thread of its own.

    When the stream fails with ``UNAVAILABLE``, ``CANCELLED`` or ``RESOURCE_EXHAUSTED``, or ends while responses are
    outstanding, the unanswered requests are sent again, the same bytes in the same order, on a new stream, which waits
    for the server to come back. A single request that is refused with one of these statuses is retried after an
    exponential backoff. Any other status of the stream is final.

    A server without ModelStreamInfer (UNIMPLEMENTED) gets every parcel, those already sent included, as a unary
    ModelInfer call; so does every server if not ``streams``.

    `send` is for one thread; it never blocks. `len()` is the number of unanswered parcels.

    Args:
        channel: To the cloud; its own retries should be off.
        answered: Called with a parcel and its response.
        failed: Called with a parcel and the error that it was refused with.
        interrupted: Called with the reason when the connection is lost and requests will be sent again.
        broken: Called with the parcels left unanswered, and the reason, when the stream ends for good.
        streams: False: unary calls only.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        *,
        answered: Callable[[P, pb.ModelInferResponse], None],
        failed: Callable[[P, Exception], None],
        interrupted: Callable[[str], None],
        broken: Callable[[list[P], str], None],
        streams: bool = True,
    ) -> None:
        self._stream_infer: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(MODEL_STREAM_INFER)
        self._infer: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(MODEL_INFER)
        self._answered = answered
        self._failed = failed
        self._interrupted = interrupted
        self._broken = broken
        self._lock = threading.Lock()
        self._unanswered: list[P] = []
        self._stream: _Stream | None = None  # None also during the backoff before a new one
        self._reader: threading.Thread | None = None
        self._failed_streams = 0  # in a row, without a response between them
        self._unary = not streams
        self._timers: set[threading.Timer] = set()
        self._closed = threading.Event()

    def __len__(self) -> int:
        return len(self._unanswered)

    def unanswered(self) -> list[P]:
        """The parcels in flight, in the order in which they were last sent."""
        with self._lock:
            return list(self._unanswered)

    def send(self, parcel: P) -> None:
        """Hands a parcel to gRPC, or keeps it until there is a connection."""
        with self._lock:
            self._unanswered.append(parcel)
            unary = self._enqueue(parcel)
        if unary:
            self._send_unary(parcel)

    def cut(self, reason: str) -> None:
        """Cancels the stream, or the abandoned calls, at once; requests still waited for are sent again."""
        with self._lock:
            stream = self._stream
            calls = [parcel.call for parcel in self._unanswered if parcel.call is not None and parcel.abandoned()]
        if stream is not None:
            stream.cut = reason
            stream.call.cancel()
        for call in calls:
            call.cancel()

    def close(self, patience_s: float) -> None:
        """Half-closes the stream, gives the server ``patience_s`` seconds to end it, then cancels it."""
        self._closed.set()
        with self._lock:
            stream, reader, timers = self._stream, self._reader, list(self._timers)
        for timer in timers:
            timer.cancel()
        for timer in timers:
            timer.join()
        if stream is not None:
            stream.outbox.put(None)
        if reader is not None:
            reader.join(patience_s)
            self.cut("the edge client was closed")
            reader.join(_CANCEL_S)

    def _enqueue(self, parcel: P) -> bool:
        """Puts the parcel on the stream, opening one if there is none; True if it needs a unary call instead."""
        if self._unary:
            return True
        if self._reader is None:
            stream = self._open()
            self._reader = threading.Thread(target=self._run_streams, args=(stream,), name="edge-answers", daemon=True)
            self._reader.start()
        elif self._stream is not None:
            parcel.mark_sent()
            self._stream.outbox.put(parcel)
        return False

    def _open(self, *, patiently: bool = False) -> _Stream:
        """Opens a stream and sends all unanswered parcels on it; ``patiently``: it waits for the server."""
        outbox: queue.SimpleQueue[Parcel | None] = queue.SimpleQueue()
        for parcel in self._unanswered:
            if not parcel.backing_off:
                parcel.mark_sent()
                outbox.put(parcel)
        call = self._stream_infer(_messages(outbox), wait_for_ready=patiently)
        self._stream = _Stream(call, outbox)
        return self._stream

    def _run_streams(self, stream: _Stream) -> None:
        following: _Stream | None = stream
        while following is not None:
            self._read(following)
            following = self._next_stream(following)

    def _read(self, stream: _Stream) -> None:
        with contextlib.suppress(grpc.RpcError):  # the status is handled by `_next_stream`
            for raw in stream.call:
                stream.answers += 1
                self._failed_streams = 0
                self._dispatch(stream, raw, time.monotonic_ns())
        stream.outbox.put(None)  # frees the thread in which gRPC waits for the next request

    def _next_stream(self, ended: _Stream) -> _Stream | None:
        """Opens the stream that replaces one that ended, or None if there is nothing to retry."""
        code = ended.call.code()
        unimplemented = code is grpc.StatusCode.UNIMPLEMENTED and ended.answers == 0
        reason = ended.cut or f"{code.name}: {ended.call.details() or 'the server ended the stream'}"
        curable = code.name in _STREAM_RETRYABLE and not too_large(reason)
        retryable = not ended.malformed and (bool(ended.cut) or curable)
        with self._lock:
            self._stream = None
            owed = bool(self._unanswered)
            unanswered = self._drop_abandoned()
            again = retryable and bool(unanswered) and not self._closed.is_set()
            if again:
                self._failed_streams += 1
            else:
                self._reader = None
            self._unary = self._unary or unimplemented
            if not again and not unimplemented:
                self._unanswered.clear()
            unary = [parcel for parcel in unanswered if unimplemented and not parcel.backing_off]
        if again:
            self._interrupted(reason)
            self._closed.wait(_backoff_s(self._failed_streams, _MAX_RECONNECT_BACKOFF_S))
            return self._reopen(reason)
        if not unimplemented:
            if owed:
                self._broken(unanswered, reason)
            return None
        _LOGGER.info("the server has no ModelStreamInfer; going on with one call for each request")
        for parcel in unary:
            parcel.sends = 0  # none of them was taken
            self._send_unary(parcel)
        return None

    def _reopen(self, reason: str) -> _Stream | None:
        with self._lock:
            unanswered = self._drop_abandoned()
            if unanswered and not self._closed.is_set():
                return self._open(patiently=True)
            self._reader = None
            self._unanswered.clear()
        self._broken(unanswered, reason)
        return None

    def _drop_abandoned(self) -> list[P]:
        """Forgets abandoned parcels; returns the others."""
        self._unanswered = [parcel for parcel in self._unanswered if not parcel.abandoned()]
        return list(self._unanswered)

    def _dispatch(self, stream: _Stream, raw: bytes, now_ns: int) -> None:
        """Matches a response to its parcel: the oldest of that id, as a stream is answered in order."""
        try:
            answer = pb.ModelStreamInferResponse.FromString(raw)
        except DecodeError:
            stream.malformed = True
            self.cut(f"expected a ModelStreamInferResponse, got {len(raw)} bytes that are none")
            return
        request_id = answer.infer_response.id
        with self._lock:
            parcel = next((p for p in self._unanswered if not p.backing_off and request_id in (p.request_id, "")), None)
        if parcel is None:
            _LOGGER.warning("expected an answer to a request in flight, got one to %r; dropped", request_id)
        elif answer.error_message:
            code, _, _ = answer.error_message.partition(":")  # our servers put the status first
            text = f"request {parcel.request_id!r}: {answer.error_message}"
            self._refused(parcel, code, named_error(code, text))
        else:
            parcel.answered_ns = now_ns
            self._forget(parcel)
            self._answered(parcel, answer.infer_response)

    def _send_unary(self, parcel: P) -> None:
        message, left_s = parcel.mark_sent(), max(parcel.deadline - time.monotonic(), 0)
        parcel.call = self._infer.future(message, timeout=left_s, wait_for_ready=parcel.sends > 1)
        parcel.call.add_done_callback(lambda done: self._unary_done(parcel, done))

    def _unary_done(self, parcel: P, call: Any) -> None:  # noqa: ANN401  # grpc's future has no public type
        now_ns = time.monotonic_ns()
        code = call.code()
        if code is not grpc.StatusCode.OK:
            if code is grpc.StatusCode.UNAVAILABLE and not self._closed.is_set():
                self._interrupted(f"{code.name}: {call.details()}")
            self._refused(parcel, code.name, error_of(call, f"request {parcel.request_id!r}"))
            return
        try:
            response = pb.ModelInferResponse.FromString(call.result())
        except DecodeError:
            self._forget(parcel)
            self._failed(parcel, WireError("expected a ModelInferResponse, got bytes that are none"))
            return
        parcel.answered_ns = now_ns
        self._forget(parcel)
        self._answered(parcel, response)

    def _refused(self, parcel: P, code: str, error: Exception) -> None:
        """Schedules a retry if the status allows one and the parcel is still waited for; else reports the error."""
        with self._lock:
            retryable = code in _RETRYABLE and not too_large(error)
            again = retryable and not parcel.abandoned() and not self._closed.is_set()
            if again:
                parcel.backing_off, parcel.call, parcel.refusal = True, None, error
                parcel.refusals += 1
                timer = threading.Timer(_backoff_s(parcel.refusals, _MAX_RETRY_BACKOFF_S), self._resend, (parcel,))
                timer.name, timer.daemon = "edge-retry", True
                self._timers = {old for old in self._timers if old.is_alive()} | {timer}
                timer.start()
        if not again:
            self._forget(parcel)
            self._failed(parcel, error)

    def _resend(self, parcel: P) -> None:
        with self._lock:
            parcel.backing_off = False
            wanted = parcel in self._unanswered and not parcel.abandoned()
            if wanted:  # it is answered after those that were sent meanwhile, be they of the same id
                self._unanswered.remove(parcel)
                self._unanswered.append(parcel)
            unary = wanted and self._enqueue(parcel)
        if unary:
            self._send_unary(parcel)
        elif not wanted:
            self._forget(parcel)
            self._broken([], "")  # its slot is free

    def _forget(self, parcel: P) -> None:
        with self._lock:
            if parcel in self._unanswered:
                self._unanswered.remove(parcel)


def _messages(outbox: "queue.SimpleQueue[Parcel | None]") -> Iterator[bytes]:
    """The messages of a stream; gRPC asks for the next one once it has sent one."""
    while (parcel := outbox.get()) is not None:
        yield parcel.message
        parcel.on_sent()


def _backoff_s(turn: int, max_s: float) -> float:
    """Seconds before the ``turn``-th retry: exponential, capped, and with jitter against thundering herds."""
    return min(_BACKOFF_S * 2.0 ** min(turn - 1, 10), max_s) * random.uniform(0.5, 1)
