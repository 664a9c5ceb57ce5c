"""The edge's client: encodes images on a worker thread and streams their features to the cloud, many in flight."""

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
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from splitleak.config import Config
from splitleak.edge.agreement import Agreement, agree
from splitleak.edge.encoder import Encoder, encode_images
from splitleak.edge.uplink import Parcel, Uplink
from splitleak.wire.address import Target
from splitleak.wire.client.channel import ChannelConfig, connect
from splitleak.wire.protocol import codec
from splitleak.wire.protocol.answer import Prediction
from splitleak.wire.protocol.checks import check_images
from splitleak.wire.protocol.codec import Codec
from splitleak.wire.protocol.pb import open_inference_pb2 as pb
from splitleak.wire.protocol.request import RequestEncoder

_LOGGER = logging.getLogger(__name__)
Images = npt.NDArray[np.float32]


class EdgeConfig(Config):
    """Which cloud and model the edge talks to, and how much it keeps under way."""

    cloud: Target = Field(description="host:port of the cloud, or of whatever stands in front of it")
    model: str = Field(min_length=1, description="name of the model in the cloud")
    codec: Codec = Field(default="fp32", description="how features travel")
    input_name: str | None = Field(default=None, description="of the model; none: its only one, as announced")
    output_name: str | None = Field(default=None, description="of the logits; none: its only one")
    streams: bool = Field(default=True, description="one long-lived stream, where the server has it; else single calls")
    window: int = Field(default=8, ge=1, le=1024, description="requests sent and not answered yet, at most")
    max_queue: int = Field(default=128, ge=1, description="requests that wait to be encoded, at most")
    grace_s: float = Field(default=5.0, ge=0, description="time for what is under way when the client is closed")
    patience_s: float = Field(
        default=60.0, ge=0, description="how long an outage may last; longer, and what is unanswered fails"
    )
    channel: ChannelConfig = Field(
        default_factory=ChannelConfig,
        description="its timeout_s is how long the cloud may say nothing to what waits, outages not counted",
    )


@dataclass(eq=False)
class _Request(Parcel):
    images: Images = field(kw_only=True)
    submitted: float = field(kw_only=True)
    timeout_s: float = field(kw_only=True)
    limit: float = field(kw_only=True)  # when an answer is late, on the monotonic clock
    patient: bool = field(kw_only=True)  # not late while others are answered, nor in an outage
    future: "Future[Prediction]" = field(default_factory=Future)
    encode_ns: int = 0
    serialise_ns: int = 0
    payload_bytes: int = 0
    payload_sha256: str = ""

    def abandoned(self) -> bool:
        return self.future.done()

    def left(self) -> None:
        """Hashes the payload, which ends the message, while it travels; earlier it would hold the message up."""
        if not self.payload_sha256:
            payload = memoryview(self.message)[len(self.message) - self.payload_bytes :]
            self.payload_sha256 = hashlib.sha256(payload).hexdigest()

    def settle(self, outcome: Prediction | Exception) -> None:
        """The first outcome counts: the answer to a request that was cancelled or timed out is dropped."""
        with contextlib.suppress(InvalidStateError):
            if isinstance(outcome, Exception):
                self.future.set_exception(outcome)
            else:
                self.future.set_result(outcome)


class EdgeClient:
    """A context manager; connects on the way in, drains for ``grace_s`` on the way out.

    One worker thread encodes and sends, so the next image is encoded while the last one travels; at most ``window``
    requests travel at a time, over one long-lived stream (see `edge/uplink.py` for servers without one, and for what is
    sent again). An outage lasts from the connection's break to the next answer. Meanwhile nothing is lost: a request
    is sent again as the bytes it was, for a defense that drew anew would tell more, and its time stands still. Unless
    the caller gave it a limit, a request is late once no answer came to any for ``timeout_s``, so that a link that is
    slow but alive is no fault. Every future settles once, within its time:

    - ValueError, LookupError or RuntimeError: the encoder or the cloud refused this one request;
    - queue.Full: the cloud had no room for it, as often as it was sent in its time;
    - TimeoutError: no answer in time. It keeps its slot until the answer comes; once no slot is left the stream is cut;
    - ConnectionError: an outage was longer than ``patience_s``, or the cloud ended the stream for good. It names every
      request left without an answer, those not yet sent included. The next request opens a new stream.

    Raises:
        ConnectionError: (on entry) the cloud cannot be reached.
        LookupError: (on entry) the cloud has no such model, or the model no such input or output.
        ValueError: (on entry) the cloud's half takes other features than this encoder gives.
    """

    def __init__(self, encoder: Encoder, config: EdgeConfig) -> None:
        self.config = config
        self._agreement = Agreement("", "", ())
        self.outages = 0  # how often the connection broke while answers were owed
        self._heard = -math.inf  # when the last answer came, on the monotonic clock
        self._outage: tuple[float, str] | None = None  # since when (monotonic clock), and why
        self._encoder = encoder
        self._lock = threading.RLock()
        self._submitted = threading.Condition(self._lock)  # the worker has nothing to do until then
        self._settled = threading.Condition(self._lock)  # it is held up, or the client waits for the end
        self._waiting: deque[_Request] = deque()  # the head is the one being encoded
        self._closed = True
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            once = self.config.channel.model_copy(update={"attempts": 1})  # what is sent again is our own affair
            channel = stack.enter_context(connect(self.config.cloud, once))
            self._agreement = agree(
                channel,
                self.config.model,
                tuple(self._encoder.feature_shape),
                input_name=self.config.input_name,
                output_name=self.config.output_name,
                where=f"model {self.config.model!r} at {self.config.cloud}",
                timeout_s=self.config.channel.timeout_s,
            )
            self._requests = RequestEncoder(self.config.model, self._agreement.input_name)
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        grace_s = self.config.grace_s if kind is None else 0.0
        with self._stack:
            with self._lock:
                self._closed = True
                self._wake()
                self._settled.wait_for(lambda: not self._open(), grace_s)
                left = self._open()
                self._waiting.clear()
                self._wake()
            if left:
                _LOGGER.warning("closed the edge client with %d requests unanswered", len(left))
                self._broken(left, "the edge client was closed")
            self._worker.join(self.config.channel.timeout_s)
            self._uplink.close(0.0 if self._outage else grace_s)

    @property
    def output_name(self) -> str:
        """Of the cloud's output; empty until connected, or until the first answer where it is not announced."""
        return self._agreement.output_name

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of the output for one image; empty as long as the name may be."""
        return self._agreement.output_shape

    def submit(self, images: Images, request_id: str, timeout_s: float | None = None) -> "Future[Prediction]":
        """Queues ``(N, C, H, W)`` images in [0, 1], to be sent as one request under ``request_id``; never blocks.

        The images are not copied. Cancelling the future drops a request that is not being encoded yet. With
        ``timeout_s`` the answer comes within it or not at all; without, an outage of ``patience_s`` is waited out.

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
                raise queue.Full(f"expected at most {self.config.max_queue} requests to wait for the encoder")
            self._waiting.append(request)
            self._wake()
        return request.future

    def stream(self, batches: Iterable[tuple[str, Images]]) -> Iterator[Prediction]:
        """Sends ``(request id, images)`` one after the other and yields their predictions in that order.

        Keeps at most ``window`` + 2 under way: those that travel, one being encoded, one that waits for the encoder.
        The first failure is raised, and what was not sent by then is dropped.
        """
        under_way: deque[Future[Prediction]] = deque()
        try:
            for request_id, images in batches:
                under_way.append(self.submit(images, request_id))
                if len(under_way) > self.config.window + 1:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()

    def _wake(self) -> None:
        """Has the worker, whatever it waits for, look again; called with the lock held."""
        self._submitted.notify_all()
        self._settled.notify_all()

    def _open(self) -> list[_Request]:
        return [each for each in (*self._uplink.unanswered(), *self._waiting) if not each.future.done()]

    def _work(self) -> None:
        while True:
            self._wait_until(lambda: bool(self._waiting) or self._closed, self._submitted)
            with self._lock:
                request = self._waiting[0] if self._waiting else None
                if request is None and self._closed:
                    return
                if request is not None and not request.future.set_running_or_notify_cancel():
                    self._waiting.remove(request)
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
            if request in self._waiting:  # else a broken connection or the end of the client has settled it
                self._waiting.remove(request)
                if not request.future.done():
                    self._uplink.send(request)
            self._settled.notify_all()
        if request.call is not None:
            request.left()

    def _prepare(self, request: _Request) -> None:
        started = time.monotonic_ns()
        features = encode_images(self._encoder, request.images)
        encoded = time.monotonic_ns()
        tensor = codec.encode(features, self.config.codec)
        left_s = request.timeout_s if request.patient else request.limit - time.monotonic()
        left_us = max(int(left_s * 1e6), 1)
        request.message = self._requests.message(tensor, request_id=request.request_id, timeout_us=left_us)
        request.encode_ns, request.serialise_ns = encoded - started, time.monotonic_ns() - encoded
        request.payload_bytes = len(tensor.raw)
        limit = self.config.channel.max_message_bytes
        if len(request.message) > limit:
            raise ValueError(f"expected a message of at most {limit} bytes, got {len(request.message)}")

    def _wait_until(self, ready: Callable[[], bool], told: threading.Condition) -> None:
        """Blocks the worker until ``ready()``, of which it is told, and lets requests expire meanwhile."""
        while True:
            with self._lock:
                alive, now = self._open(), time.monotonic()
                late = [each for each in alive if self._limit(each) <= now]
                given_up = any(self._patience_ends(each) <= now for each in late)
                if not late:
                    if ready():
                        return
                    soonest = min(map(self._limit, alive), default=None)
                    told.wait(None if soonest is None else soonest - now)
                    continue
                reason = self._outage[1] if self._outage else ""
                for each in late:
                    if each in self._waiting:
                        self._waiting.remove(each)
            if given_up:
                self._broken(alive, f"no answer for {self.config.patience_s:g} s, since {reason}")
            for each in late:
                what = f"request {each.request_id!r}: expected an answer within {each.timeout_s:g} s, got none"
                each.settle(TimeoutError(f"{what}; {reason}") if reason else each.refusal or TimeoutError(what))
            travelling = self._uplink.unanswered()
            if given_up or (len(travelling) >= self.config.window and all(each.future.done() for each in travelling)):
                self._uplink.cut("the cloud left every request of the window without an answer")

    def _limit(self, request: _Request) -> float:
        """When its time is over; during an outage, when the patience is, and no caller's own limit comes earlier."""
        if not request.patient:
            return min(request.limit, self._patience_ends(request))
        if self._outage is None:
            return max(request.limit, self._heard + request.timeout_s)
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
                _LOGGER.warning("%s: %s; what is unanswered will be sent again", self.config.cloud, reason)
            self._wake()

    def _restored(self) -> None:
        """There was an answer: an outage is over, and whoever is patient waits for the next."""
        with self._lock:
            now = self._heard = time.monotonic()
            if self._outage is None:
                return
            since, _ = self._outage
            self._outage = None
        _LOGGER.warning("%s: answers again after %.1f s", self.config.cloud, now - since)

    def _answered(self, request: _Request, response: pb.ModelInferResponse) -> None:
        self._restored()
        try:
            self._settle(request, self._prediction(request, response))
        except Exception as error:  # the thread that reads answers goes on, whatever this one holds
            self._settle(request, error)

    def _failed(self, request: _Request, error: Exception) -> None:
        if not isinstance(error, ConnectionError):
            self._restored()
        self._settle(request, error)

    def _settle(self, request: _Request, outcome: Prediction | Exception) -> None:
        request.settle(outcome)
        with self._lock:
            self._settled.notify_all()

    def _broken(self, requests: list[_Request], reason: str) -> None:
        with self._lock:
            lost = [each for each in requests if not each.future.done()]
            if lost:
                lost += self._waiting
                self._waiting.clear()
            self._wake()  # slots are free, even if nobody waits for an answer any more
        names = ", ".join(repr(each.request_id) for each in lost)
        for each in lost:
            self._settle(each, ConnectionError(f"{self.config.cloud}: {reason}; without an answer: {names}"))

    def _prediction(self, request: _Request, response: pb.ModelInferResponse) -> Prediction:
        output = self._agreement.logits(response, len(request.images))
        request.left()  # its answer may be here before gRPC says so
        return Prediction.of(
            output,
            response,
            request_id=request.request_id,
            encode_us=request.encode_ns // 1000,
            serialise_us=request.serialise_ns // 1000,
            round_trip_us=(request.answered_ns - request.sent_ns) // 1000,
            sent_bytes=len(request.message),
            payload_sha256=request.payload_sha256,
            sends=request.sends,
        )
