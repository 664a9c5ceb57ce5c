"""A toy split model: an encoder that tells when it runs, and a cloud, a real gRPC server, that a test can hold back."""

import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from splitleak.wire.protocol import codec
from splitleak.wire.protocol.pb import open_inference_pb2 as pb
from splitleak.wire.protocol.pb.open_inference_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

PATIENCE_S = 20.0


class ToyEncoder:
    name = "toy"
    input_shape = (1, 4, 4)
    feature_shape = (2, 4, 4)

    def __init__(self):
        self.runs = 0
        self.started = defaultdict(threading.Event)  # by number of the run, from 1
        self.sent = []
        self.hold = lambda run: None

    def encode(self, images):
        self.runs += 1
        self.started[self.runs].set()
        self.hold(self.runs)
        features = np.concatenate([images, 1 - 3 * images], axis=1)
        self.sent.append(features)
        return features


class ToyCloud(GRPCInferenceServiceServicer):
    """Answers features with `logits`. ``hold(request)`` runs before each answer and may give one of its own."""

    weights = np.random.default_rng(0).standard_normal((32, 3)).astype(np.float32)

    inputs = (("features", (-1, 2, 4, 4)),)
    outputs = (("logits", (-1, 3)),)
    properties = None

    def __init__(self, *, streams=True, hold=lambda request: None, durations=(5, 7), address="127.0.0.1:0"):
        self.streams, self.hold, self.durations = streams, hold, durations
        self.arrived = []  # requests, in order of arrival
        self.came = defaultdict(threading.Event)  # by number of the arrival, from 1
        self.methods = []
        self.timeouts = []
        self.server = grpc.server(ThreadPoolExecutor(8))
        add_GRPCInferenceServiceServicer_to_server(self, self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port(address)}"
        self.server.start()

    @classmethod
    def logits(cls, features):
        return features.reshape(len(features), -1) @ cls.weights

    def ModelMetadata(self, request, context):
        if request.name != "toy":
            context.abort(grpc.StatusCode.NOT_FOUND, f"expected model 'toy', got {request.name!r}")
        inputs, outputs = (
            [{"name": name, "datatype": "FP32", "shape": shape} for name, shape in tensors]
            for tensors in (self.inputs, self.outputs)
        )
        described = {"inputs": inputs, "outputs": outputs, "properties": self.properties}
        return pb.ModelMetadataResponse(name="toy", versions=["1"], **described)

    def ModelInfer(self, request, context):
        self._note("unary", request)
        self.timeouts.append(context.time_remaining())
        given = self.hold(request)
        if isinstance(given, pb.ModelStreamInferResponse):
            code, _, words = given.error_message.partition(": ")
            context.abort(grpc.StatusCode[code], words)
        return self.answer(request)

    def ModelStreamInfer(self, requests, context):
        if not self.streams:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "no stream here")
        for request in requests:
            self._note("stream", request)
            given = self.hold(request)
            own = isinstance(given, pb.ModelStreamInferResponse)
            yield given if own else pb.ModelStreamInferResponse(infer_response=self.answer(request))

    def _note(self, method, request):
        self.methods.append(method)
        self.arrived.append(request)
        self.came[len(self.arrived)].set()

    def answer(self, request):
        logits = self.logits(codec.decode(codec.request_tensor(request)))
        output = pb.ModelInferResponse.InferOutputTensor(name="logits", datatype="FP32", shape=logits.shape)
        answer = pb.ModelInferResponse(
            model_name="toy", id=request.id, outputs=[output], raw_output_contents=[logits.tobytes()]
        )
        for name, value in zip(("queue_us", "compute_us"), self.durations, strict=True):
            answer.parameters[name].int64_param = value
        return answer


@pytest.fixture
def encoder():
    return ToyEncoder()


@pytest.fixture
def start_cloud():
    """``start_cloud(**options)`` starts a `ToyCloud`; all are stopped at the end."""
    clouds = []

    def start(**options):
        clouds.append(ToyCloud(**options))
        return clouds[-1]

    yield start
    for cloud in clouds:
        cloud.server.stop(0).wait()


@pytest.fixture
def batches():
    """``batches(n)``: n pairs of request id and one image."""

    def make(count):
        draw = np.random.default_rng(1)
        return [(f"image-{index}", draw.random((1, 1, 4, 4), dtype=np.float32)) for index in range(count)]

    return make


@pytest.fixture
def patience_s():
    """How long a test waits for what must happen."""
    return PATIENCE_S
