"""tritonclient, which knows nothing of us, is served by our cloud: unary, stream, and every refusal."""

import functools
import json
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch

from splitleak.cloud.service import CloudConfig, cloud
from splitleak.defenses.artifact import CloudHalf, HalfConfig
from splitleak.defenses.training import TargetConfig, assemble
from splitleak.models.split import ModelConfig

pytestmark = pytest.mark.slow

CLIENT = Path(__file__).with_name("foreign_client.py")
CONFIG = TargetConfig(model=ModelConfig(width=1 / 16, channels=1, size=32, classes=4))
FEATURES = np.random.default_rng(1).random((7, 8, 8, 8), dtype=np.float32)


@functools.cache
def half() -> CloudHalf:
    """The cloud's half of a VGG11, as `splitleak cloud` serves it."""
    model, _ = assemble(CONFIG, "builtin")
    facts = {"half": "cloud", "name": "half", "dataset": "builtin", "classes": list("abcd")}
    config = HalfConfig(format=1, target=CONFIG, feature_shape=model.feature_shape, **facts)
    return CloudHalf(config, model.head.eval(), torch.device("cpu"))


def run_client(port, folder, *arguments):
    np.save(folder / "features.npy", FEATURES)
    command = [sys.executable, CLIENT, str(port), folder, *arguments]
    return subprocess.run(command, timeout=60, capture_output=True, text=True)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """What a foreign client found, after another one had vanished in the middle of a stream."""
    pytest.importorskip("tritonclient")
    folder = tmp_path_factory.mktemp("foreign")
    with cloud(CloudConfig(), half()) as port:
        assert run_client(port, folder, "vanish").returncode == -signal.SIGKILL
        ended = run_client(port, folder)
    assert ended.returncode == 0, ended.stderr
    return folder, json.loads((folder / "report.json").read_text())


def test_a_foreign_client_finds_the_server_live_ready_and_described(served):
    _, report = served
    assert (report["live"], report["ready"], report["model ready"], report["unknown ready"]) == (
        True,
        True,
        [True, True],
        False,
    )
    assert report["server"]["name"] == "splitleak-cloud"
    assert report["model"]["inputs"] == [{"name": "features", "datatype": "FP32", "shape": ["-1", "8", "8", "8"]}]
    assert report["model"]["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": ["-1", "4"]}]


def test_its_own_messages_read_our_configuration_and_index(served):
    _, report = served
    assert report["config"] == {
        "name": "half",
        "platform": "splitleak_cloud",
        "backend": "splitleak",
        "max_batch_size": 64,
        "input": [{"name": "features", "data_type": "TYPE_FP32", "dims": ["8", "8", "8"]}],
        "output": [{"name": "logits", "data_type": "TYPE_FP32", "dims": ["4"]}],
    }
    assert report["index"] == [{"name": "half", "version": "1", "state": "READY"}]


def test_its_own_messages_read_our_statistics(served):
    """All that it sent was one batch, a stream of single rows, and a good batch after each of five faults."""
    _, report = served
    told = report["statistics"]
    rows = len(FEATURES)
    vanished = int(told["inference_count"]) - (rows + rows + 5 * rows)
    assert 1 <= vanished <= rows
    durations = told["inference_stats"]
    assert 1 + rows + 5 < int(durations["success"]["count"]) <= 1 + rows + 5 + vanished
    assert int(durations["fail"]["count"]) >= 1 + 4  # on the stream, and unary; an unknown model's are nobody's
    computed = 1 + rows + 5 + vanished
    assert {name: int(each["count"]) for name, each in durations.items() if name not in ("success", "fail")} == {
        name: computed for name in ("queue", "compute_input", "compute_infer", "compute_output")
    }
    assert int(durations["compute_infer"]["ns"]) > 0


@pytest.mark.parametrize("way", ["unary", "stream"])
def test_its_logits_are_those_of_the_model_in_this_process(served, way):
    folder, report = served
    np.testing.assert_allclose(np.load(folder / f"{way}.npy"), half().predict(FEATURES), atol=1e-5)
    assert report["unary"] == ["u/1", "1"]
    assert report["ids"] == [str(number) for number in range(len(FEATURES))]


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        (
            "wrong shape",
            "INVALID_ARGUMENT",
            "expected shape (N, 8, 8, 8) with N from 1 to 64 for 'features', got (7, 3, 2)",
        ),
        ("wrong dtype", "INVALID_ARGUMENT", "expected datatype FP32, FP16, UINT8, got 'FP64'"),
        ("unknown model", "NOT_FOUND", "expected a model of ['half'], got 'nobody'"),
        ("truncated", "INVALID_ARGUMENT", "expected 14336 bytes for FP32 of shape [7, 8, 8, 8], got 14335"),
        ("oversized", "INVALID_ARGUMENT", "expected 14336 bytes for FP32 of shape [7, 8, 8, 8], got 14341"),
    ],
)
def test_a_bad_request_is_refused_in_words_and_the_next_one_served(served, fault, code, message):
    _, report = served
    assert report["refusals"][fault] == [f"StatusCode.{code}", message]
    assert report["refusals"][f"after {fault}"] == len(FEATURES)


def test_a_bad_request_on_a_stream_is_an_error_of_that_request_alone(served):
    _, report = served
    assert report["stream errors"] == ["INVALID_ARGUMENT: expected 2048 bytes for FP32 of shape [1, 8, 8, 8], got 2046"]


BESIDE = """
import sys
for name in sys.argv[2:]:
    __import__(name)
import numpy as np
import tritonclient.grpc as triton
from splitleak.wire.protocol import codec
from splitleak.wire.protocol.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
import grpc
features = np.zeros((1, 8, 8, 8), np.float32)
with grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}") as channel:
    request = codec.request("half", codec.encode(features, "fp32"), request_id="ours")
    ours = codec.response_array(GRPCInferenceServiceStub(channel).ModelInfer(request), "logits")
given = triton.InferInput("features", features.shape, "FP32")
given.set_data_from_numpy(features)
with triton.InferenceServerClient(f"127.0.0.1:{sys.argv[1]}") as client:
    theirs = client.infer("half", [given]).as_numpy("logits")
assert np.array_equal(ours, theirs)
"""


@pytest.mark.parametrize(
    "order",
    [
        ("tritonclient.grpc", "splitleak.edge.client", "splitleak.cloud.service"),
        ("splitleak.edge.client", "splitleak.cloud.service", "tritonclient.grpc"),
    ],
    ids=["theirs first", "ours first"],
)
def test_both_clients_work_in_one_process(order):
    pytest.importorskip("tritonclient")
    with cloud(CloudConfig(), half()) as port:
        command = [sys.executable, "-c", BESIDE, str(port), *order]
        ended = subprocess.run(command, timeout=60, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_reflection_describes_our_services_and_no_others(served):
    from google.protobuf.descriptor_pb2 import FileDescriptorProto
    from grpc_reflection.v1alpha import reflection_pb2 as asked
    from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

    names = ("inference.GRPCInferenceService", "grpc.health.v1.Health", "onnx.ModelProto", "google.protobuf.Any")
    with cloud(CloudConfig(), half()) as port, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        requests = [asked.ServerReflectionRequest(file_containing_symbol=name) for name in names]
        answers = list(ServerReflectionStub(channel).ServerReflectionInfo(iter(requests), timeout=30))
    found = [
        [FileDescriptorProto.FromString(each).package for each in answer.file_descriptor_response.file_descriptor_proto]
        for answer in answers
    ]
    assert found == [["inference"], ["grpc.health.v1"], [], []]
