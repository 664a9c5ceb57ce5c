"""A client for classifiers behind any Open Inference Protocol server: images in, scores out."""

import contextlib
import hashlib
import itertools
import json
import math
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

import grpc
import numpy as np
from numpy.typing import NDArray

from splitleak.errors import WireError
from splitleak.wire.address import is_http
from splitleak.wire.client import SCORES
from splitleak.wire.client.batches import Batches
from splitleak.wire.client.channel import ChannelConfig, connect
from splitleak.wire.client.metadata import read_metadata, select
from splitleak.wire.client.probabilities import probabilities
from splitleak.wire.client.pushback import answered
from splitleak.wire.client.rest import HttpStub, connect_http
from splitleak.wire.protocol import codec
from splitleak.wire.protocol.answer import Prediction, server_durations
from splitleak.wire.protocol.checks import check_images
from splitleak.wire.protocol.codec import WireTensor
from splitleak.wire.protocol.pb import open_inference_pb2 as pb
from splitleak.wire.protocol.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from splitleak.wire.protocol.status import error_of, too_large

Floats = NDArray[np.float32]

_DIGITS = 9  # of a batch size, at most
_BATCH = 32  # where the server announces no batch size
_INPUTS = {"FP32": "<f4", "FP16": "<f2", "FP64": "<f8"}
_HINTS = ("prob", "score", "softmax", "logit")


class ClassifierClient:
    """A context manager that connects and reads the model's metadata on entry.

    The model has one input of floating-point images ``(N, C, H, W)`` and an output of scores ``(N, K)``. Metadata that
    the server does not announce, as MLServer and KServe may not, is taken on trust. Scores may come as raw or typed
    contents, in FP32, FP16 or FP64, as probabilities or as logits, to which the client applies softmax. A request that
    is refused for the client's rate is sent again when the server says, within the channel's ``timeout_s``.

    Args:
        address: ``host:port``, or ``http://host:port`` or ``https://host:port`` for the protocol over HTTP.
        model: Its name; None: the only one, if the server lists its models, as ours does.
        scores: Kind of the output; ``auto``: logits if its name contains "logit", else probabilities.
        output: Its name; None: the only floating-point one with two axes, or one whose name suggests scores.
        prefix: Of the request ids; None: random.
        channel: Timeouts, retries and security.

    Raises:
        ConnectionError: (on entry) the server cannot be reached.
        LookupError: (on entry) it has no such model, or the model no such output, or several inputs or outputs.
        ValueError: (on entry) it does not list its models and none was named, or the model takes no images.
    """

    def __init__(
        self,
        address: str,
        model: str | None = None,
        *,
        scores: str = "auto",
        output: str | None = None,
        prefix: str | None = None,
        channel: ChannelConfig | None = None,
    ) -> None:
        SCORES.known(scores)
        self.address = address
        self.model = model or ""
        self.images = 0  # answered ones, and the requests for them
        self.requests = 0
        self.prefix = prefix or f"{secrets.token_hex(6)}-"
        self.input_shape: tuple[int, ...] | None = None  # (C, H, W), -1 for any size; None if not announced
        self.digest: str | None = None  # of the model, if announced
        self.classes: tuple[str, ...] = ()  # names of the scores, if announced
        self._scores, self._output = scores, output
        self._config = channel or ChannelConfig()
        self._numbers = itertools.count()
        self._stack = contextlib.ExitStack()
        self._stub: GRPCInferenceServiceStub | HttpStub
        self._input_name, self._datatype = "images", "FP32"
        self._batches, self._batch_announced = Batches(_BATCH), False

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            server: grpc.Channel | HttpStub
            if is_http(self.address):
                self._stub = server = stack.enter_context(connect_http(self.address, self._config))
            else:
                server = stack.enter_context(connect(self.address, self._config))
                self._stub = GRPCInferenceServiceStub(server)
            self.model = self.model or self._only_model()
            patience_s = self._config.connect_timeout_s
            where, timeout_s = self._where, self._config.timeout_s
            self._agree(read_metadata(server, self.model, where=where, timeout_s=timeout_s, patience_s=patience_s))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def predict(self, images: Floats, heard: Callable[[int], None] = lambda place: None) -> Floats:
        """Scores ``(N, K)`` of images ``(N, C, H, W)`` in [0, 1], in requests of at most the server's batch size.

        The batch size is halved whenever a message is too large, and whenever the server refuses a request if it
        announces none. Before each request, ``heard`` is told how many images were answered.

        Raises:
            ConnectionError, TimeoutError: The server cannot be reached, or does not answer in time.
            ValueError: The images do not fit, or the server refuses them.
            WireError: The response is malformed, or holds no scores.
        """
        check_images(images, self.input_shape or (-1, -1, -1))

        def ask(part: Floats) -> Floats:
            return self.ask(part, f"{self.prefix}{next(self._numbers)}").output

        def smaller_may_pass(error: Exception) -> bool:
            return not isinstance(error, WireError) and (too_large(error) or not self._batch_announced)

        rows = [output for _, output in self._batches.answers(images, ask, smaller_may_pass, heard)]
        return np.concatenate(rows)

    def ask(self, images: Floats, request_id: str) -> Prediction:
        """Sends ``images`` as one request; see `predict`."""
        check_images(images, self.input_shape or (-1, -1, -1))
        started = time.monotonic_ns()
        tensor = WireTensor(self._datatype, images.shape, images.astype(_INPUTS[self._datatype]).tobytes())
        request = codec.request(self.model, tensor, request_id=request_id, input_name=self._input_name)
        ready = time.monotonic_ns()
        response, sent, came = self._timed("ModelInfer", request)
        sent_bytes, packing_ns = request.ByteSize(), 0
        if isinstance(self._stub, HttpStub):
            sent_bytes, packing_ns = self._stub.sent_bytes, self._stub.packing_ns
        scores = self._read(response, len(images))
        self.images += len(images)
        self.requests += 1
        return Prediction(
            output=scores,
            **server_durations(response),
            request_id=request_id,
            serialise_us=(ready - started + packing_ns) // 1000,
            round_trip_us=(came - sent - packing_ns) // 1000,
            sent_bytes=sent_bytes,
            payload_sha256=hashlib.sha256(tensor.raw).hexdigest(),
        )

    def _call(self, method: str, request: Any) -> Any:  # noqa: ANN401  # any of the protocol's messages
        return self._timed(method, request)[0]

    def _timed(self, method: str, request: Any) -> tuple[Any, int, int]:  # noqa: ANN401  # as above
        """The answer, and when it was asked for last and came, in nanoseconds on the monotonic clock."""
        timeout_s = self._config.timeout_s

        def call() -> tuple[Any, int, int]:
            sent = time.monotonic_ns()
            return getattr(self._stub, method)(request, timeout=timeout_s), sent, time.monotonic_ns()

        try:
            return answered(call, timeout_s)
        except grpc.RpcError as error:
            raise error_of(error, f"{method} of {self.model or 'the server'!r} at {self.address}") from None

    def _only_model(self) -> str:
        extensions = self._call("ServerMetadata", pb.ServerMetadataRequest()).extensions
        names = [entry.removeprefix("model:") for entry in extensions if entry.startswith("model:")]
        if len(names) != 1:
            listed = f"it lists {names}" if names else "it does not list its models"
            raise ValueError(f"expected the name of a model of the server at {self.address}, since {listed}")
        return str(names[0])

    def _agree(self, metadata: pb.ModelMetadataResponse) -> None:
        """Adopts the announced input, output and batch size, or refuses the model."""
        tensor = select(metadata.inputs, None, f"{self._where}: expected one input")
        if metadata.inputs:
            name, datatype, shape = tensor.name, tensor.datatype, tuple(tensor.shape)
            expected = f"{self._where}: expected input {name!r} of images"
            if datatype not in _INPUTS:
                raise ValueError(f"{expected} in [0, 1] as {', '.join(_INPUTS)}, got {datatype}")
            last = len(shape) in (3, 4) and shape[-1] in (1, 3) and shape[-3] not in (-1, 1, 3)
            if shape and (len(shape) not in (3, 4) or last or (len(shape) == 3 and shape[0] < 1)):
                raise ValueError(f"{expected} (N, C, H, W), got shape {shape}{', channels last' if last else ''}")
            self._input_name, self._datatype, self.input_shape = name, datatype, shape[-3:] or None
            if len(shape) == 4 and shape[0] > 0:
                self._batches.most, self._batch_announced = shape[0], True
        self.digest = metadata.properties.get("digest") or None
        self.classes = _names(metadata.properties.get("classes", ""))
        most = metadata.properties.get("max_batch_size", "")
        if most.isdecimal() and len(most) <= _DIGITS:
            self._batches.most, self._batch_announced = max(int(most), 1), True
        if metadata.outputs:
            self._output = self._score_output(metadata.outputs)

    def _score_output(self, outputs: Sequence[Any]) -> str:
        """The name of the output with the scores."""
        if self._output is not None:
            return select(outputs, self._output, f"{self._where}: expected output").name
        floating = [entry for entry in outputs if entry.datatype in _INPUTS]
        rows = [entry for entry in floating if len(entry.shape) == 2] or floating
        hinted = [entry for hint in _HINTS for entry in rows if hint in entry.name.lower()]
        if len(rows) != 1 and not hinted:
            described = {entry.name: (entry.datatype, tuple(entry.shape)) for entry in outputs}
            raise LookupError(f"{self._where}: expected one output of scores (N, K), or its name, got {described}")
        return str((hinted or rows)[0].name)

    def _read(self, response: pb.ModelInferResponse, count: int) -> Floats:
        if self._output is None:
            self._output = self._score_output(response.outputs)
        values = _array(response, self._output)
        logits = self._scores == "logits" or (self._scores == "auto" and "logit" in self._output.lower())
        expected = f"{self._where}: expected scores of output {self._output!r}"
        return probabilities(values, count, logits=logits, expected=expected)

    @property
    def _where(self) -> str:
        return f"model {self.model!r} at {self.address}"


def _names(text: str) -> tuple[str, ...]:
    """The strings of a list in JSON, as our services announce classes; none, where it is something else."""
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _array(response: pb.ModelInferResponse, name: str) -> Floats:
    """The output ``name`` in float32, from FP64 too, which our codecs do not have."""
    for index, entry in enumerate(response.outputs):
        if entry.name == name and entry.datatype == "FP64":
            raw = response.raw_output_contents[index : index + 1]
            typed = np.asarray(entry.contents.fp64_contents, "<f8").tobytes()
            values = raw[0] if raw else typed
            if any(size < 0 for size in entry.shape) or len(values) != 8 * math.prod(entry.shape):
                got = f"{len(values)} bytes"
                raise WireError(f"expected FP64 of shape {list(entry.shape)} in output {name!r}, got {got}")
            wide: Floats = np.frombuffer(values, "<f8").reshape(tuple(entry.shape)).astype(np.float32)
            return wide
    return codec.response_array(response, name)
