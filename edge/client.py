"""The edge's client: a worker thread encodes images and streams their features to the cloud, many in flight."""

import contextlib
import hashlib
import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from splitleak.config import Config, Seconds
from splitleak.edge.agreement import Agreement, agree, check_pair
from splitleak.edge.device import EmulatedHalf, stretched
from splitleak.edge.encoder import Encoder, encode_images
from splitleak.edge.uplink import Parcel, Uplink
from splitleak.wire.address import Target
from splitleak.wire.client.channel import ChannelConfig, connect
from splitleak.wire.client.metadata import read_metadata
from splitleak.wire.protocol import Codec, codec
from splitleak.wire.protocol.answer import Prediction, server_durations
from splitleak.wire.protocol.checks import check_images
from splitleak.wire.protocol.pb import open_inference_pb2 as pb
from splitleak.wire.protocol.request import RequestEncoder

_LOGGER = logging.getLogger(__name__)
Images = npt.NDArray[np.float32]


class EdgeConfig(Config):
    """Which cloud and model the edge uses, and how many requests it keeps in flight."""

    cloud: Target = Field(description="host:port of the cloud, or of whatever stands in front of it")
    model: str = Field(min_length=1, description="name of the model in the cloud")
    codec: Codec = Field(default="fp32", description="how features travel")
    input_name: str | None = Field(default=None, description="of the model; none: its only one, as announced")
    output_name: str | None = Field(default=None, description="of the logits; none: its only one")
    pair: str | None = Field(
        default=None, description="what the halves of the encoder's artifact have in common; none: any model will do"
    )
    streams: bool = Field(default=True, description="one long-lived stream, where the server has it; else single calls")
    window: int = Field(default=8, ge=1, le=1024, description="most requests in flight: sent and not yet answered")
    max_queue: int = Field(default=128, ge=1, description="most requests that wait to be encoded")
    grace_s: Seconds = Field(default=5.0, ge=0, description="seconds for requests in flight at shutdown")
    patience_s: Seconds = Field(default=60.0, ge=0, description="seconds of outage until unanswered requests fail")
    channel: ChannelConfig = Field(
        default_factory=ChannelConfig,
        description="its timeout_s is how long the cloud may answer nothing outside outages",
    )


@dataclass(eq=False)
class _Request(Parcel):
    images: Images = field(kw_only=True)
    submitted: float = field(kw_only=True)
    timeout_s: float = field(kw_only=True)
    limit: float = field(kw_only=True)  # its deadline, on the monotonic clock
    patient: bool = field(kw_only=True)  # no deadline of the caller's: extended by responses and outages
    future: "Future[Prediction]" = field(default_factory=Future)
    encode_ns: int = 0
    serialise_ns: int = 0
    payload_bytes: int = 0
    payload_sha256: str = ""

    def abandoned(self) -> bool:
        return self.future.done()

    def on_sent(self) -> None:
        """Hashes the payload, the end of the message, once it is on its way: before, it would delay the message."""
        if not self.payload_sha256:
            payload = memoryview(self.message)[len(self.message) - self.payload_bytes :]
            self.payload_sha256 = hashlib.sha256(payload).hexdigest()

    def timed_out(self, reason: str) -> Exception:
        """What its caller gets who has waited for too long; ``reason`` is that of an outage, or empty."""
        what = f"request {self.request_id!r}: expected an answer within {self.timeout_s:g} s, got none"
        return TimeoutError(f"{what}; {reason}") if reason else self.refusal or TimeoutError(what)

    def settle(self, outcome: Prediction | Exception) -> None:
        """Resolves the future; a later outcome, as a response after a timeout or a cancellation, is dropped."""
        with contextlib.suppress(InvalidStateError):
            if isinstance(outcome, Exception):
                self.future.set_exception(outcome)
            else:
                self.future.set_result(outcome)


class EdgeClient:
    """A context manager that connects on entry and drains for ``grace_s`` seconds on exit.

    One worker thread encodes and sends, so that the next image is encoded while the last one is in flight. At most
    ``window`` requests are in flight, over one bidirectional stream (see `splitleak.edge.uplink` for servers without
    one, and for retries). An outage lasts from the loss of the connection to the next response; no request is lost
    meanwhile. A retry sends the bytes of the first attempt, since a defense that drew its noise anew would leak more,
    and deadlines are suspended. Without a ``timeout_s`` of its own, a request times out when no request at all was
    answered for ``channel.timeout_s``, so that a slow link alone is no failure. Every future resolves once:

    - ValueError, LookupError or RuntimeError: the encoder or the cloud refused this request;
    - queue.Full: the cloud's queue was full at every attempt before the deadline;
    - TimeoutError: no response before the deadline. The request keeps its place in the window until the response
      comes; once the window holds only such requests, the stream is cancelled;
    - ConnectionError: an outage longer than ``patience_s``, or the cloud ended the stream for good. The message names
      every unanswered request, those not yet sent included. The next request opens a new stream.

    Args:
        encoder: The device's half; called from the worker thread alone.
        config: Cloud, model and limits.

    Raises:
        ConnectionError: (on entry) the cloud cannot be reached.
        LookupError: (on entry) the cloud has no such model, or the model no such input or output.
        ValueError: (on entry) the cloud's half takes other features than this encoder gives, or is of another artifact.
    """

    def __init__(self, encoder: Encoder, config: EdgeConfig) -> None:
        self.config = config
        self.agreement = Agreement("", "", ())  # of input and output, once connected
        self.outages = 0  # how often the connection was lost with requests in flight
        self._last_answer = -math.inf  # on the monotonic clock
        self._outage: tuple[float, str] | None = None  # start (monotonic clock) and reason
        self._encoder = encoder
        self._pack = stretched(self._packed, encoder.factor if isinstance(encoder, EmulatedHalf) else 1.0)
        self._lock = threading.RLock()
        self._submitted = threading.Condition(self._lock)  # wakes the idle worker
        self._settled = threading.Condition(self._lock)  # wakes who waits for window or queue, and `__exit__`
        self._waiting: deque[_Request] = deque()  # the first one is being encoded
        self._closed = True
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            once = self.config.channel.model_copy(update={"attempts": 1})  # the uplink retries itself
            channel = stack.enter_context(connect(self.config.cloud, once, patience_s=self.config.patience_s))
            where = self._where
            self.agreement = agree(
                read_metadata(
                    channel,
                    self.config.model,
                    where=where,
                    timeout_s=self.config.channel.timeout_s,
                    patience_s=self.config.patience_s,
                ),
                tuple(self._encoder.feature_shape),
                input_name=self.config.input_name,
                output_name=self.config.output_name,
                pair=self.config.pair,
                where=where,
            )
            self._requests = RequestEncoder(self.config.model, self.agreement.input_name)
            self._outage = None
            self._uplink: Uplink[_Request] = Uplink(
                channel,
                answered=self._answered,
                failed=self._failed,
                interrupted=self._interrupted,
                broken=self._broken,
                streams=self.config.streams,
            )
            self._worker = threading.Thread(target=self._work, name="edge-worker", daemon=True)
            self._closed = False
            self._worker.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        grace_s = self.config.grace_s if kind is None else 0.0
        with self._stack:
            with self._lock:
                self._closed = True
                self._wake()
                self._settled.wait_for(lambda: not self._pending(), grace_s)
                left = self._pending()
                self._waiting.clear()
                self._wake()
            if left:
                _LOGGER.warning("closed the edge client with %d requests unanswered", len(left))
                self._broken(left, "the edge client was closed")
            self._worker.join(self.config.channel.timeout_s)
            self._uplink.close(0.0 if self._outage else grace_s)

    def submit(self, images: Images, request_id: str, timeout_s: float | None = None) -> "Future[Prediction]":
        """Queues one request; never blocks. Cancelling its future drops it unless it is being encoded already.

        Args:
            images: ``(N, C, H, W)`` float32 in [0, 1]; not copied.
            request_id: The id on the wire.
            timeout_s: Seconds until the future fails with TimeoutError; None: see `EdgeClient`.

        Raises:
            ValueError: No such batch, see `check_images`.
            queue.Full: ``max_queue`` requests wait already.
            RuntimeError: The client is closed, or was never entered.
        """
        check_images(images, self._encoder.input_shape)
        now, patient = time.monotonic(), timeout_s is None
        timeout_s = self.config.channel.timeout_s if timeout_s is None else timeout_s
        limit = now + timeout_s
        request = _Request(
            request_id,
            limit + self.config.patience_s if patient else limit,
            images=images,
            submitted=now,
            timeout_s=timeout_s,
            limit=limit,
            patient=patient,
        )
        with self._lock:
            if self._closed:
                raise RuntimeError("expected an edge client that is open, got one that is closed")
            if len(self._waiting) >= self.config.max_queue:
                self._drop([waiting for waiting in self._waiting if waiting.future.done()])
            if len(self._waiting) >= self.config.max_queue:
                raise queue.Full(f"expected at most {self.config.max_queue} requests to wait for the encoder")
            self._waiting.append(request)
            self._wake()
        return request.future

    def stream(self, batches: Iterable[tuple[str, Images]]) -> Iterator[Prediction]:
        """Sends pairs of request id and images; yields their predictions in that order.

        At most ``window`` + 2 requests are open, of which ``max_queue`` wait to be encoded. The first failure is
        raised, and requests not sent by then are dropped.
        """
        pending: deque[Future[Prediction]] = deque()
        try:
            for request_id, images in batches:
                pending.append(self._submit_with_room(images, request_id))
                if len(pending) > self.config.window + 1:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    def _submit_with_room(self, images: Images, request_id: str) -> "Future[Prediction]":
        """As `submit`, once fewer than ``max_queue`` requests wait."""
        with self._lock:
            self._settled.wait_for(lambda: self._closed or len(self._waiting) < self.config.max_queue)
            return self.submit(images, request_id)

    @property
    def _where(self) -> str:
        return f"model {self.config.model!r} at {self.config.cloud}"

    def _wake(self) -> None:
        """Wakes the worker whatever it waits for; called with the lock held."""
        self._submitted.notify_all()
        self._settled.notify_all()

    def _drop(self, requests: Iterable[_Request]) -> None:
        """Takes those of ``requests`` that wait out of the queue; called with the lock held."""
        for request in requests:
            if request in self._waiting:
                self._waiting.remove(request)
        self._settled.notify_all()

    def _pending(self) -> list[_Request]:
        return [request for request in (*self._uplink.unanswered(), *self._waiting) if not request.future.done()]

    def _work(self) -> None:
        while True:
            self._wait_until(lambda: bool(self._waiting) or self._closed, self._submitted)
            with self._lock:
                request = self._waiting[0] if self._waiting else None
                if request is None and self._closed:
                    return
                if request is not None and not request.future.set_running_or_notify_cancel():
                    self._drop([request])
                    request = None
            if request is not None:
                self._process(request)

    def _process(self, request: _Request) -> None:
        try:
            self._prepare(request)
        except Exception as error:
            _LOGGER.exception("request %r could not be encoded", request.request_id)
            request.settle(error)
        self._wait_until(lambda: request.future.done() or len(self._uplink) < self.config.window, self._settled)
        with self._lock:
            if request in self._waiting:  # else a lost connection or the end of the client has settled it
                self._waiting.remove(request)
                if not request.future.done():
                    self._uplink.send(request)
            self._settled.notify_all()
        if request.call is not None:
            request.on_sent()

    def _prepare(self, request: _Request) -> None:
        started = time.monotonic_ns()
        features = encode_images(self._encoder, request.images)
        encoded = time.monotonic_ns()
        request.message, request.payload_bytes = self._pack(request, features)
        request.encode_ns, request.serialise_ns = encoded - started, time.monotonic_ns() - encoded
        limit = self.config.channel.max_message_bytes
        if len(request.message) > limit:
            raise ValueError(f"expected a message of at most {limit} bytes, got {len(request.message)}")

    def _packed(self, request: _Request, features: npt.NDArray[np.float32]) -> tuple[bytes, int]:
        """The message with the features, and how many bytes at its end are theirs."""
        tensor = codec.encode(features, self.config.codec)
        left_s = request.timeout_s if request.patient else request.limit - time.monotonic()
        left_us = max(int(left_s * 1e6), 1)
        message = self._requests.message(tensor, request_id=request.request_id, timeout_us=left_us)
        return message, len(tensor.raw)

    def _wait_until(self, ready: Callable[[], bool], changed: threading.Condition) -> None:
        """Blocks the worker until ``ready()``, checked at each notification; meanwhile it expires requests."""
        while True:
            with self._lock:
                pending, now = self._pending(), time.monotonic()
                late = [request for request in pending if self._expires(request) <= now]
                out_of_patience = any(self._patience_ends(request) <= now for request in late)
                if not late:
                    if ready():
                        return
                    soonest = min(map(self._expires, pending), default=None)
                    changed.wait(None if soonest is None else soonest - now)
                    continue
                reason = self._outage[1] if self._outage else ""
                self._drop(late)
            if out_of_patience:
                self._broken(pending, f"no answer for {self.config.patience_s:g} s, since {reason}")
            for request in late:
                request.settle(request.timed_out(reason))
            in_flight = self._uplink.unanswered()
            blocked = len(in_flight) >= self.config.window and all(request.future.done() for request in in_flight)
            if out_of_patience or blocked:
                self._uplink.cut("the cloud left every request of the window without an answer")

    def _expires(self, request: _Request) -> float:
        """When the request times out, on the monotonic clock: during an outage no later than its patience ends."""
        if not request.patient:
            return min(request.limit, self._patience_ends(request))
        if self._outage is None:
            return max(request.limit, self._last_answer + request.timeout_s)
        return self._patience_ends(request)

    def _patience_ends(self, request: _Request) -> float:
        if self._outage is None:
            return math.inf
        return max(self._outage[0], request.submitted) + self.config.patience_s

    def _interrupted(self, reason: str) -> None:
        with self._lock:
            if self._outage is None:
                self.outages += 1
                self._outage = time.monotonic(), reason
                _LOGGER.warning("%s: %s; unanswered requests will be sent again", self.config.cloud, reason)
            self._wake()

    def _restored(self) -> None:
        """Notes a response: it ends an outage, and extends the deadlines that no caller set."""
        with self._lock:
            now = self._last_answer = time.monotonic()
            if self._outage is None:
                return
            since, _ = self._outage
            self._outage = None
        _LOGGER.warning("%s: answers again after %.1f s", self.config.cloud, now - since)

    def _answered(self, request: _Request, response: pb.ModelInferResponse) -> None:
        self._restored()
        try:
            self._settle(request, self._prediction(request, response))
        except Exception as error:  # a bad response must not end the thread that reads them
            self._settle(request, error)

    def _failed(self, request: _Request, error: Exception) -> None:
        if isinstance(error, TimeoutError) and request.deadline <= time.monotonic():
            # By gRPC's clock, before ours was looked at: no answer came, and an outage goes on.
            outage = self._outage
            error = request.timed_out(outage[1] if outage else "")
        elif not isinstance(error, ConnectionError):
            self._restored()
        self._settle(request, error)

    def _settle(self, request: _Request, outcome: Prediction | Exception) -> None:
        request.settle(outcome)
        with self._lock:
            self._settled.notify_all()

    def _broken(self, requests: list[_Request], reason: str) -> None:
        with self._lock:
            lost = [request for request in requests if not request.future.done()]
            if lost:
                lost += self._waiting
                self._waiting.clear()
            self._wake()  # the window has room, even if nobody waits for a response any more
        names = ", ".join(repr(request.request_id) for request in lost)
        for request in lost:
            self._settle(request, ConnectionError(f"{self.config.cloud}: {reason}; without an answer: {names}"))

    def _prediction(self, request: _Request, response: pb.ModelInferResponse) -> Prediction:
        if "pair" in response.parameters:
            check_pair(response.parameters["pair"].string_param, self.config.pair, self._where)
        output = self.agreement.logits(response, len(request.images))
        request.on_sent()  # the response may be here before gRPC reports the send
        return Prediction(
            output=output,
            **server_durations(response),
            request_id=request.request_id,
            encode_us=request.encode_ns // 1000,
            serialise_us=request.serialise_ns // 1000,
            round_trip_us=(request.answered_ns - request.sent_ns) // 1000,
            sent_bytes=len(request.message),
            payload_sha256=request.payload_sha256,
            sends=request.sends,
        )
