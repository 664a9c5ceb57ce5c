"""The gRPC servicer of the Open Inference Protocol for any model: validate, submit, encode the response.

Cloud (features to logits) and edge (images to logits) serve with it. Nothing is computed here: a request is checked
against the model's shapes and submitted to the model's worker, and its future is awaited. Status codes are Triton's.
"""

import contextlib
import functools
import importlib.metadata
import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from grpc import ServicerContext as Context
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection, reflection_pb2  # type: ignore[import-untyped]

from splitleak.errors import WireError
from splitleak.wire.files.captures import Direction
from splitleak.wire.protocol import codec, paths
from splitleak.wire.protocol.answer import Answer
from splitleak.wire.protocol.pb import open_inference_pb2 as pb
from splitleak.wire.protocol.pb.open_inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from splitleak.wire.protocol.status import mapped, status
from splitleak.wire.server.health import Health
from splitleak.wire.server.model import ServedModel
from splitleak.wire.server.statistics import OK, Statistics

Observer = Callable[[str, int, Direction, bytes], None]  # method path, call number, direction, serialised message

_Observe = Callable[[Direction, Message], None]
_INFER, _STREAM = "ModelInfer", "ModelStreamInfer"
_ROOM_S = 0.005  # between a stream's attempts to submit to a full queue


@dataclass(frozen=True)
class _Accepted:
    """A request of a stream that awaits its response; its tensor is not kept here."""

    model: str
    request_id: str
    answer: Future[Answer]
    arrived: float  # on the monotonic clock, as the deadline
    deadline: float


class OpenInferenceServicer:
    """Serves ``models``; give ``serve`` its `add_to`, `drain`, ``statistics`` and ``request_bytes``.

    Args:
        models: The served models, names unique.
        server_name: For ServerMetadata.
        in_flight: Most unanswered requests of a stream; beyond it the stream is not read (back-pressure).
        timeout_s: Longest deadline of a request, in seconds, whatever its client allows.
        held_bytes: Most bytes of decoded inputs that wait for their answers, of all clients; one more is refused.
        observe: Called with each serialised inference message: the curious server.
        first_call: Number of the first call that it is told of.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        *,
        server_name: str,
        in_flight: int = 8,
        timeout_s: float = 30.0,
        held_bytes: int = 512 * 2**20,
        observe: Observer | None = None,
        first_call: int = 0,
    ) -> None:
        self._models = {model.name: model for model in models}
        self._unknown_models = Statistics()
        self.statistics = {"": self._unknown_models, **{model.name: model.statistics for model in models}}
        self._health = Health(self._models)
        self._server_name = server_name
        self._in_flight = in_flight
        self._timeout_s = timeout_s
        self._held_bytes = _Budget(held_bytes)
        self.request_bytes = max((model.request_bytes for model in models), default=None)
        self._observer = observe
        self._templates: dict[tuple[str, tuple[int, ...]], pb.ModelInferResponse] = {}
        self._layouts: dict[str, codec.Layout] = {}  # by model, of the last request decoded in full
        self._calls = itertools.count(first_call)
        self._lock = threading.Lock()
        self._streams: set[_Stream] = set()  # all whose call is not over
        self._stream_over = threading.Condition(self._lock)
        self._stopping = False

    def add_to(self, server: grpc.Server) -> None:
        """Registers the protocol, ``grpc.health.v1`` and reflection."""
        add_GRPCInferenceServiceServicer_to_server(self, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        pool = DescriptorPool()  # of what is served alone: other projects' stubs may be in the default one
        for file in (pb.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
            pool.AddSerializedFile(file.serialized_pb)
        services = (paths.SERVICE, "grpc.health.v1.Health", reflection.SERVICE_NAME)
        reflection.enable_server_reflection(services, server, pool)

    def stop(self) -> None:
        """Reports not ready from now on, and ends every stream once its accepted requests are answered."""
        self._health.stop()
        with self._lock:
            self._stopping = True
            for stream in self._streams:
                stream.close()

    def drain(self, within_s: float) -> None:
        """Stops, and waits up to ``within_s`` seconds until the status of every stream is sent to its client."""
        self.stop()
        with self._stream_over:
            self._stream_over.wait_for(lambda: not self._streams, within_s)

    def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=not self._stopping)

    def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        with contextlib.suppress(LookupError):
            self._model(request.name, request.version)
            return pb.ModelReadyResponse(ready=not self._stopping)
        return pb.ModelReadyResponse(ready=False)

    def ServerMetadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(
            name=self._server_name,
            version=importlib.metadata.version("splitleak"),
            extensions=[f"model:{name}" for name in self._models],  # the protocol has no list of models
        )

    def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        with mapped(context):
            return self._model(request.name, request.version).metadata()

    def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        with mapped(context):
            return pb.ModelConfigResponse(config=self._model(request.name, request.version).config())

    def ModelStatistics(self, request: pb.ModelStatisticsRequest, context: Context) -> pb.ModelStatisticsResponse:
        with mapped(context):
            names = [request.name] if request.name else list(self._models)
            return pb.ModelStatisticsResponse(
                model_stats=[self._model(name, request.version).model_statistics() for name in names]
            )

    def RepositoryIndex(self, request: pb.RepositoryIndexRequest, context: Context) -> pb.RepositoryIndexResponse:
        with mapped(context):
            if request.repository_name:
                raise LookupError(f"expected no repository's name, for there is one, got {request.repository_name!r}")
            if self._stopping and request.ready:
                return pb.RepositoryIndexResponse()
            state = {"state": "UNAVAILABLE", "reason": "stopping"} if self._stopping else {"state": "READY"}
            return pb.RepositoryIndexResponse(
                models=[{"name": model.name, "version": model.version, **state} for model in self._models.values()]
            )

    def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        arrived = time.monotonic()
        observe = self._observe(_INFER)
        with mapped(context, functools.partial(self._count, _INFER, request.model_name, arrived)):
            if self._stopping:
                raise ConnectionError("expected a server that takes requests, got one that is stopping")
            observe("request", request)
            deadline = self._deadline(request, context)
            answer = self._submit(request, deadline)
            if not context.add_callback(functools.partial(_cancel, answer)):
                _cancel(answer)
            response, name, request_id = pb.ModelInferResponse(), request.model_name, request.id
            del request  # while the answer is waited for
            self._respond(name, request_id, _result(answer, arrived, deadline), response)
            observe("response", response)
            return response

    def ModelStreamInfer(
        self, requests: Iterator[pb.ModelInferRequest], context: Context
    ) -> Iterator[pb.ModelStreamInferResponse]:
        stream = _Stream(self._in_flight, self._timeout_s)
        observe = self._observe(_STREAM)
        with self._lock:
            self._streams.add(stream)
            if self._stopping:
                stream.close()
        over = functools.partial(self._over, stream)
        if not context.add_callback(over):
            over()
        reader = threading.Thread(
            target=self._read_requests, args=(requests, context, stream, observe), name="stream-reader", daemon=True
        )
        reader.start()
        try:
            while (accepted := stream.next_answered()) is not None:
                response = self._stream_response(accepted)
                observe("response", response)
                yield response
                stream.slots.put(None)
        finally:
            stream.left.set()
            self._count_dropped(stream)

    def _over(self, stream: "_Stream") -> None:
        """The call of a stream is over: its status is sent, or its client is gone."""
        stream.end()
        with self._stream_over:
            self._streams.discard(stream)
            self._stream_over.notify_all()

    def _read_requests(
        self, requests: Iterator[pb.ModelInferRequest], context: Context, stream: "_Stream", observe: _Observe
    ) -> None:
        """Submits a stream's requests as they come, at most ``in_flight`` at a time, until the call ends."""
        try:
            while stream.slots.get() is None and not stream.ended.is_set():
                request = next(requests, None)
                if request is None or not stream.begin():
                    break
                arrived = time.monotonic()
                observe("request", request)
                deadline = self._deadline(request, context)
                try:
                    answer = self._submit(request, deadline, functools.partial(stream.waits_for_room, deadline))
                except Exception as error:
                    answer = Future()
                    answer.set_exception(error)
                stream.accept(_Accepted(request.model_name, request.id, answer, arrived, deadline))
                del request  # while the next one is waited for
        except grpc.RpcError:
            stream.end()  # the client is gone
        except WireError as error:  # malformed: the requests before it are answered, then the stream ends
            code, message = status(error)
            context.set_code(code)
            context.set_details(message)
        finally:
            stream.finish()
            if stream.left.is_set():
                self._count_dropped(stream)

    def _count_dropped(self, stream: "_Stream") -> None:
        """Cancels and counts accepted requests whose client is gone."""
        with contextlib.suppress(IndexError):
            while True:
                accepted = stream.accepted.popleft()
                _cancel(accepted.answer)
                self._count(_STREAM, accepted.model, accepted.arrived, grpc.StatusCode.CANCELLED.name)

    def _submit(
        self, request: pb.ModelInferRequest, deadline: float, room: Callable[[], bool] = lambda: False
    ) -> Future[Answer]:
        """Validates and submits the request; with a full queue it tries again while ``room()`` is true."""
        model = self._model(request.model_name, request.model_version)
        batch = self._batch(model, request)
        self._held_bytes.take(batch.nbytes)
        give_back = functools.partial(self._held_bytes.give_back, batch.nbytes)
        try:
            while True:
                try:
                    answer = model.submit(batch, request.id, max(deadline - time.monotonic(), 0.0))
                    break
                except queue.Full:
                    if not room():
                        raise
        except BaseException:
            give_back()
            raise
        answer.add_done_callback(give_back)
        return answer

    def _batch(self, model: ServedModel, request: pb.ModelInferRequest) -> codec.FloatArray:
        """Decodes the request's features: without a full check where the description is that of the last request."""
        known, raw = self._layouts.get(model.name), request.raw_input_contents
        if known is not None and len(raw) == 1 and len(request.inputs) == 1 and not request.outputs:
            values = known.read(request.inputs[0], raw[0])
            if values is not None:
                model.statistics.received(values.nbytes)
                return values
        tensor = model.tensor(request)
        batch = codec.decode(tensor)
        model.statistics.received(len(tensor.raw))
        layout = codec.Layout.of(request.inputs[0], batch)
        if layout is not None:
            self._layouts[model.name] = layout
        return batch

    def _stream_response(self, accepted: _Accepted) -> pb.ModelStreamInferResponse:
        try:
            answer = _result(accepted.answer, accepted.arrived, accepted.deadline)
            response, ended = pb.ModelStreamInferResponse(), OK
            self._respond(accepted.model, accepted.request_id, answer, response.infer_response)
        except Exception as error:
            code, message = status(error)
            ended = code.name
            response = pb.ModelStreamInferResponse(
                error_message=f"{ended}: {message}", infer_response=pb.ModelInferResponse(id=accepted.request_id)
            )
        self._count(_STREAM, accepted.model, accepted.arrived, ended)
        response.infer_response.parameters["triton_final_response"].bool_param = True
        return response

    def _respond(self, name: str, request_id: str, answer: Answer, response: pb.ModelInferResponse) -> None:
        """Fills an empty response, from a template kept for each output shape."""
        model, shape = self._models[name], answer.output.shape
        template = self._templates.get((model.name, shape))
        if template is None:
            pair = model.properties.get("pair")  # of which artifact: another may be served after a restart
            template = self._templates[model.name, shape] = pb.ModelInferResponse(
                model_name=model.name,
                model_version=model.version,
                parameters={"pair": pb.InferParameter(string_param=pair)} if pair else {},
                outputs=[{"name": model.output_name, "datatype": "FP32", "shape": shape}],
            )
        raw = answer.output.astype("<f4", copy=False).tobytes()
        model.statistics.sent(len(raw))
        response.CopyFrom(template)
        response.id = request_id
        response.raw_output_contents.append(raw)
        parameters = response.parameters
        parameters["queue_us"].int64_param = answer.queue_us
        parameters["compute_us"].int64_param = answer.compute_us

    def _model(self, name: str, version: str) -> ServedModel:
        model = self._models.get(name)
        if model is None:
            raise LookupError(f"expected a model of {sorted(self._models)}, got {name!r}")
        if version not in ("", model.version):
            raise LookupError(f"expected version {model.version!r} of {name!r}, got {version!r}")
        return model

    def _count(self, method: str, model: str, arrived: float, ended: str) -> None:
        """Counts a request by its status; unknown models share one count, since clients can invent names."""
        statistics = self.statistics.get(model, self._unknown_models)
        statistics.ended(method, ended, round((time.monotonic() - arrived) * 1e9))

    def _deadline(self, request: pb.ModelInferRequest, context: Context) -> float:
        """The earliest, on the monotonic clock, of server limit, gRPC deadline and the request's ``timeout``."""
        limits = [self._timeout_s]
        left = context.time_remaining()
        if left is not None:
            limits.append(left)
        parameters = request.parameters
        if "timeout" in parameters and (timeout_us := parameters["timeout"].int64_param) > 0:
            limits.append(timeout_us / 1e6)
        return time.monotonic() + min(limits)

    def _observe(self, method: str) -> _Observe:
        observer, call, path = self._observer, next(self._calls), paths.method_path(method)

        def observe(direction: Direction, message: Message) -> None:
            if observer is not None:
                observer(path, call, direction, message.SerializeToString())

        return observe


class _Budget:
    """Bytes of inputs that are held at once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Counts ``size`` bytes; more than there may be are `queue.Full`, unless they are the only ones."""
        with self._lock:
            if self._taken and self._taken + size > self._most:
                raise queue.Full(f"expected at most {self._most} bytes of requests at once, got {size} more")
            self._taken += size

    def give_back(self, size: int, _: Future[Answer] | None = None) -> None:
        with self._lock:
            self._taken -= size


class _Stream:
    """The queue of accepted requests between a stream's reader thread and its writer, answered in order.

    The writer sleeps until the oldest request is answered. A new request does not wake it, which would cost a context
    switch for each, unless its deadline comes before the end of the writer's sleep.
    """

    def __init__(self, in_flight: int, idle_s: float) -> None:
        self.accepted: deque[_Accepted] = deque()
        self.slots: queue.SimpleQueue[None] = queue.SimpleQueue()  # a semaphore, five times as fast as `threading`'s
        for _ in range(in_flight):
            self.slots.put(None)
        self.ended = threading.Event()  # the call is over
        self.left = threading.Event()  # the writer is gone
        self._idle_s = idle_s
        self._wakeups: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._asleep_until = 0.0  # on the monotonic clock; 0 while the writer is awake
        self._complete = False  # no more requests will be accepted
        self._lock = threading.Lock()
        self._accepting = False  # a request is being submitted
        self._closing = False

    def begin(self) -> bool:
        """Whether to accept one more request, which is then answered even if the server stops."""
        with self._lock:
            self._accepting = not self._closing
            return self._accepting

    def accept(self, accepted: _Accepted) -> None:
        self.accepted.append(accepted)
        with self._lock:
            self._accepting = False
            self._complete = self._closing
        accepted.answer.add_done_callback(self._wake)
        if accepted.deadline < self._asleep_until:
            self._wake()
        if self.ended.is_set():
            _cancel(accepted.answer)

    def next_answered(self) -> _Accepted | None:
        """Waits for the oldest request to be answered or to time out; None at the end of the stream."""
        while not self.ended.is_set():
            last = self._complete  # read before ``accepted``, so that the last request is not missed
            oldest = self.accepted[0] if self.accepted else None
            now = time.monotonic()
            if oldest is None and last:
                break
            if oldest is not None and (oldest.answer.done() or oldest.deadline <= now):
                return self.accepted.popleft()
            until = now + self._idle_s if oldest is None else oldest.deadline
            asleep_until = self._asleep_until
            if not 0 < asleep_until <= until:
                self._asleep_until = until
                continue  # checks once more, now that others see that they must wake it
            with contextlib.suppress(queue.Empty):
                self._wakeups.get(timeout=asleep_until - now)
            self._asleep_until = 0.0
        return None

    def close(self) -> None:
        """Accepts no more requests, and ends the stream after those accepted."""
        with self._lock:
            self._closing = True
            self._complete = not self._accepting
        self._wake()

    def finish(self) -> None:
        """The client has sent its last request."""
        self._complete = True
        self._wake()

    def waits_for_room(self, deadline: float) -> bool:
        """Waits a moment; False once the call has ended or the deadline has passed."""
        return not self.ended.wait(_ROOM_S) and time.monotonic() < deadline

    def end(self) -> None:
        """The call has ended: cancels what is unanswered and wakes both sides."""
        self.ended.set()
        for accepted in self.accepted.copy():
            _cancel(accepted.answer)
        self.slots.put(None)
        self._wake()

    def _wake(self, _: Future[Answer] | None = None) -> None:
        """Wakes the writer if it sleeps."""
        if self._asleep_until:
            self._asleep_until = 0.0
            self._wakeups.put(None)


def _cancel(answer: Future[Answer]) -> None:
    answer.cancel()


def _result(answer: Future[Answer], arrived: float, deadline: float) -> Answer:
    try:
        return answer.result(max(deadline - time.monotonic(), 0.0))
    except TimeoutError as error:
        answer.cancel()
        within = f"expected an answer within {deadline - arrived:.3f} s, got none"
        raise TimeoutError(str(error) or within) from None
