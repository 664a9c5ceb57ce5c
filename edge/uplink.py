"""The edge's way to the cloud: one long-lived stream of requests, or single calls; what gets lost is sent again."""

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
from splitleak.wire.protocol.status import error_of, named_error

_LOGGER = logging.getLogger(__name__)
_CANCEL_S = 5.0  # far more than a cancelled call needs to end
_PAUSE_S = 0.05  # before the first attempt that follows; it doubles each time
_LONGEST_BREAK_S, _LONGEST_REFUSAL_S = 0.4, 2.0
_PASSING = frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"})  # of a request: it may be taken later
_TOO_LARGE = "larger than max"  # gRPC's words for what is RESOURCE_EXHAUSTED too, but will be refused for ever
_BREAKS = _PASSING | {"OK"}  # of a stream: what it left without an answer may be answered on another


@dataclass(eq=False)
class Parcel:
    """One request on its way: a serialised ModelInferRequest, and when (monotonic clock) it left and was answered.

    ``deadline`` is when nobody wants the answer any more, ``sends`` how often the message was handed to gRPC.
    """

    request_id: str
    deadline: float
    message: bytes = b""
    sends: int = 0
    sent_ns: int = 0
    answered_ns: int = 0
    refusals: int = 0
    refusal: Exception | None = None  # the last one
    resting: bool = False  # refused, and not yet sent again
    call: Any = None  # of its own, where there is no stream

    def abandoned(self) -> bool:
        """Nobody waits for the answer any more."""
        return False

    def leaves(self) -> bytes:
        """The message, which is being sent now."""
        self.sends += 1
        self.sent_ns = time.monotonic_ns()
        return self.message

    def left(self) -> None:
        """A stream has sent the message: what can wait until then is done here."""


P = TypeVar("P", bound=Parcel)


@dataclass(eq=False)
class _Stream:
    call: Any  # grpc's rendezvous: a call, and an iterator over raw answers
    outbox: "queue.SimpleQueue[Parcel | None]"
    answers: int = 0
    cut: str = ""  # why we ended it ourselves
    garbled: bool = False


class Uplink(Generic[P]):
    """Sends parcels and reports each one's fate once, from a thread of its own.

    ``answered(parcel, response)`` for an answer, ``failed(parcel, error)`` for a refusal. When the stream breaks (a
    status of ``UNAVAILABLE``, ``CANCELLED``, ``RESOURCE_EXHAUSTED``, or its end while answers are owed) it calls
    ``interrupted(reason)`` and sends what is unanswered again, the same bytes in the same order, on a new stream, which
    waits until there is a server. So it does, after a pause that grows, with a request that is refused for now. After
    any other status, and when it is closed, ``broken(parcels, reason)`` tells what is left without an answer.

    A server without ModelStreamInfer (UNIMPLEMENTED) gets every parcel, those already sent included, as a ModelInfer
    call of its own; so does every server if not ``streams``.

    `send` is for one thread; it never blocks. `len()` is the number of unanswered parcels.
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
        self._stream: _Stream | None = None  # None also while a break is being waited out
        self._carrier: threading.Thread | None = None
        self._breaks = 0  # in a row, without an answer between them
        self._unary = not streams
        self._timers: set[threading.Timer] = set()
        self._closed = threading.Event()

    def __len__(self) -> int:
        return len(self._unanswered)

    def unanswered(self) -> list[P]:
        """The parcels that travel now, oldest first."""
        with self._lock:
            return list(self._unanswered)

    def send(self, parcel: P) -> None:
        """Hands one parcel to gRPC, or keeps it until there is a way."""
        with self._lock:
            self._unanswered.append(parcel)
            alone = self._is_alone(parcel)
        if alone:
            self._send_alone(parcel)

    def cut(self, reason: str) -> None:
        """Ends the stream, or the calls, at once; what somebody still waits for is sent again."""
        with self._lock:
            stream = self._stream
            calls = [each.call for each in self._unanswered if each.call is not None and each.abandoned()]
        if stream is not None:
            stream.cut = reason
            stream.call.cancel()
        for call in calls:
            call.cancel()

    def close(self, patience_s: float) -> None:
        """Half-closes the stream, gives the server ``patience_s`` to end it, then cuts it."""
        self._closed.set()
        with self._lock:
            stream, carrier, timers = self._stream, self._carrier, list(self._timers)
        for timer in timers:
            timer.cancel()
        for timer in timers:
            timer.join()
        if stream is not None:
            stream.outbox.put(None)
        if carrier is not None:
            carrier.join(patience_s)
            self.cut("the edge client was closed")
            carrier.join(_CANCEL_S)

    def _is_alone(self, parcel: P) -> bool:
        """Puts the parcel on the stream, opening one if there is none; True if it needs a call of its own instead."""
        if self._unary:
            return True
        if self._carrier is None:
            stream = self._open()
            self._carrier = threading.Thread(target=self._carry, args=(stream,), name="edge-answers", daemon=True)
            self._carrier.start()
        elif self._stream is not None:
            parcel.leaves()
            self._stream.outbox.put(parcel)
        return False

    def _open(self, *, patiently: bool = False) -> _Stream:
        """A new stream with all that is unanswered on it; ``patiently`` it waits until there is a server."""
        outbox: queue.SimpleQueue[Parcel | None] = queue.SimpleQueue()
        for parcel in self._unanswered:
            if not parcel.resting:
                parcel.leaves()
                outbox.put(parcel)
        call = self._stream_infer(_messages(outbox), wait_for_ready=patiently)
        self._stream = _Stream(call, outbox)
        return self._stream

    def _carry(self, stream: _Stream) -> None:
        following: _Stream | None = stream
        while following is not None:
            self._read(following)
            following = self._after(following)

    def _read(self, stream: _Stream) -> None:
        with contextlib.suppress(grpc.RpcError):  # the call's status is looked at afterwards
            for raw in stream.call:
                stream.answers += 1
                self._breaks = 0
                self._sort(stream, raw, time.monotonic_ns())
        stream.outbox.put(None)  # lets go of the thread in which gRPC waits for the next request

    def _after(self, ended: _Stream) -> _Stream | None:
        """What follows a stream that ended: the next one, with what is unanswered, or none."""
        code = ended.call.code()
        absent = code is grpc.StatusCode.UNIMPLEMENTED and ended.answers == 0
        reason = ended.cut or f"{code.name}: {ended.call.details() or 'the server ended the stream'}"
        passing = not ended.garbled and (bool(ended.cut) or (code.name in _BREAKS and _TOO_LARGE not in reason))
        with self._lock:
            self._stream = None
            owed = bool(self._unanswered)
            orphans = self._wanted()
            again = passing and bool(orphans) and not self._closed.is_set()
            if again:
                self._breaks += 1
            else:
                self._carrier = None
            self._unary = self._unary or absent
            if not again and not absent:
                self._unanswered.clear()
            alone = [each for each in orphans if absent and not each.resting]
        if again:
            self._interrupted(reason)
            self._closed.wait(_pause_s(self._breaks, _LONGEST_BREAK_S))
            return self._reopened(reason)
        if not absent:
            if owed:
                self._broken(orphans, reason)
            return None
        _LOGGER.info("the server has no ModelStreamInfer; going on with one call for each request")
        for parcel in alone:
            parcel.sends = 0  # none of them was taken
            self._send_alone(parcel)
        return None

    def _reopened(self, reason: str) -> _Stream | None:
        with self._lock:
            orphans = self._wanted()
            if orphans and not self._closed.is_set():
                return self._open(patiently=True)
            self._carrier = None
            self._unanswered.clear()
        self._broken(orphans, reason)
        return None

    def _wanted(self) -> list[P]:
        """Forgets the abandoned; what is left."""
        self._unanswered = [each for each in self._unanswered if not each.abandoned()]
        return list(self._unanswered)

    def _sort(self, stream: _Stream, raw: bytes, now_ns: int) -> None:
        """Gives one answer of the stream to its parcel: the oldest of its id, as one stream is answered in order."""
        try:
            answer = pb.ModelStreamInferResponse.FromString(raw)
        except DecodeError:
            stream.garbled = True
            self.cut(f"expected a ModelStreamInferResponse, got {len(raw)} bytes that are none")
            return
        wanted = answer.infer_response.id
        with self._lock:
            parcel = next(
                (each for each in self._unanswered if not each.resting and (each.request_id == wanted or not wanted)),
                None,
            )
        if parcel is None:
            _LOGGER.warning("expected an answer to a request in flight, got one to %r; dropped", wanted)
        elif answer.error_message:
            code, _, _ = answer.error_message.partition(":")  # our servers put the status first
            text = f"request {parcel.request_id!r}: {answer.error_message}"
            self._refused(parcel, code, named_error(code, text))
        else:
            parcel.answered_ns = now_ns
            self._forget(parcel)
            self._answered(parcel, answer.infer_response)

    def _send_alone(self, parcel: P) -> None:
        message, left_s = parcel.leaves(), max(parcel.deadline - time.monotonic(), 0)
        parcel.call = self._infer.future(message, timeout=left_s, wait_for_ready=parcel.sends > 1)
        parcel.call.add_done_callback(lambda done: self._settle_alone(parcel, done))

    def _settle_alone(self, parcel: P, call: Any) -> None:  # noqa: ANN401  # grpc's future has no public type
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
        """Sends the parcel again later if it may be taken then, as long as somebody waits for its answer."""
        with self._lock:
            passing = code in _PASSING and _TOO_LARGE not in str(error)
            again = passing and not parcel.abandoned() and not self._closed.is_set()
            if again:
                parcel.resting, parcel.call, parcel.refusal = True, None, error
                parcel.refusals += 1
                timer = threading.Timer(_pause_s(parcel.refusals, _LONGEST_REFUSAL_S), self._again, (parcel,))
                timer.name, timer.daemon = "edge-retry", True
                self._timers = {each for each in self._timers if each.is_alive()} | {timer}
                timer.start()
        if not again:
            self._forget(parcel)
            self._failed(parcel, error)

    def _again(self, parcel: P) -> None:
        with self._lock:
            parcel.resting = False
            wanted = parcel in self._unanswered and not parcel.abandoned()
            alone = wanted and self._is_alone(parcel)
        if alone:
            self._send_alone(parcel)
        elif not wanted:
            self._forget(parcel)
            self._broken([], "")  # its slot is free

    def _forget(self, parcel: P) -> None:
        with self._lock:
            if parcel in self._unanswered:
                self._unanswered.remove(parcel)


def _messages(outbox: "queue.SimpleQueue[Parcel | None]") -> Iterator[bytes]:
    """What a stream sends; gRPC asks for the next message once it has sent one."""
    while (parcel := outbox.get()) is not None:
        yield parcel.message
        parcel.left()


def _pause_s(turn: int, longest_s: float) -> float:
    """How long to wait before the ``turn``-th try after the first; drawn, so that many clients do not come at once."""
    return min(_PAUSE_S * 2.0 ** min(turn - 1, 10), longest_s) * random.uniform(0.5, 1)
