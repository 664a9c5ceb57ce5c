"""The cloud over a real connection: every codec, many clients, the curious cloud, and a clean stop."""

import contextlib
import queue
import re
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from splitleak.cloud.batching import BatchingConfig
from splitleak.cloud.policy import PolicyConfig
from splitleak.cloud.service import CloudConfig, cloud
from splitleak.errors import WireError
from splitleak.wire.client.channel import ChannelConfig, connect
from splitleak.wire.files.captures import CaptureWriter, inference_requests, read
from splitleak.wire.protocol import CODECS, codec
from splitleak.wire.protocol.pb import open_inference_pb2 as pb
from splitleak.wire.protocol.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from splitleak.wire.server.server import ServerConfig

WAIT_S = 10


class Half:
    """One matrix in the place of a network; may be held up by its gate."""

    name, feature_shape, classes, properties = "half", (2, 3), 4, {"cut": "1"}

    def __init__(self):
        self.weights = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def predict(self, features):
        self.entered.set()
        assert self.gate.wait(WAIT_S)
        return features.reshape(len(features), -1) @ self.weights


@contextlib.contextmanager
def stub_of(half, **settings):
    with (
        cloud(CloudConfig(**settings), half) as port,
        connect(f"127.0.0.1:{port}", ChannelConfig()) as channel,
    ):
        yield GRPCInferenceServiceStub(channel)


def features(seed, rows=3):
    return np.random.default_rng(seed).normal(size=(rows, 2, 3)).astype(np.float32)


def request(values, request_id="1", how="fp32"):
    return codec.request("half", codec.encode(values, how), request_id=request_id)


def logits(response):
    return codec.response_array(response, "logits")


@pytest.mark.parametrize(
    ("how", "tolerance"),
    [("fp32", 1e-6), ("fp16", 2e-2), ("fp16+deflate", 2e-2), ("uint8", 2e-1), ("uint8+deflate", 2e-1)],
)
def test_logits_are_those_of_the_half_under_each_codec(how, tolerance):
    half = Half()
    with stub_of(half) as stub:
        answered = logits(stub.ModelInfer(request(features(0), how=how), timeout=WAIT_S))
    arrived = codec.decode(codec.encode(features(0), how))
    np.testing.assert_allclose(answered, half.predict(arrived), atol=1e-6)
    np.testing.assert_allclose(answered, half.predict(features(0)), atol=tolerance)


def test_an_answer_tells_of_which_artifact_it_is_where_the_half_does():
    half = Half()
    with stub_of(half) as stub:
        assert set(stub.ModelInfer(request(features(0))).parameters) == {"queue_us", "compute_us"}
    half.properties = {"cut": "1", "pair": "0123456789ab"}
    with stub_of(half) as stub:
        for _ in range(2):
            told = stub.ModelInfer(request(features(0))).parameters
            assert told["pair"].string_param == "0123456789ab"
            assert set(told) == {"pair", "queue_us", "compute_us"}


def plain(datatype, dtype):
    """A stranger's tensor of another datatype than the announced FP32, as bytes alone."""
    values = np.ones((3, 2, 3), dtype)
    return codec.request("half", codec.WireTensor(datatype, values.shape, values.tobytes()), request_id="1")


def typed_uint8():
    message = plain("UINT8", np.uint8)
    del message.raw_input_contents[:]
    message.inputs[0].contents.uint_contents[:] = [1] * 18
    return message


@pytest.mark.parametrize(
    ("message", "got"),
    [
        (plain("FP16", np.float16), "FP32 for 'features', or FP16 with parameter encoding 'fp16', got FP16 without"),
        (plain("UINT8", np.uint8), "FP32 for 'features', or UINT8 quantised with scale and zero_point, got UINT8"),
        (typed_uint8(), "FP32 for 'features', or UINT8 quantised with scale and zero_point, got UINT8 without"),
        (plain("FP64", np.float64), "got 'FP64'"),
        (plain("BF16", np.float16), "got 'BF16'"),
        (plain("INT8", np.int8), "got 'INT8'"),
        (plain("INT32", np.int32), "got 'INT32'"),
    ],
)
def test_a_strangers_tensor_of_another_datatype_is_an_invalid_argument_and_never_taken_for_fp32(message, got):
    with stub_of(Half()) as stub:
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(message, timeout=WAIT_S)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert got in refused.value.details()
        answers = list(stub.ModelStreamInfer(iter([message, request(features(0))]), timeout=WAIT_S))
    assert got in answers[0].error_message
    np.testing.assert_allclose(logits(answers[1].infer_response), Half().predict(features(0)), atol=1e-6)


def test_many_clients_at_once_each_get_their_own_logits():
    half = Half()
    with stub_of(half) as stub, ThreadPoolExecutor(4) as pool:

        def stream(client):
            requests = [request(features(client * 100 + number), str(number)) for number in range(25)]
            return list(stub.ModelStreamInfer(iter(requests), timeout=WAIT_S))

        for client, answers in enumerate(pool.map(stream, range(4))):
            assert [each.infer_response.id for each in answers] == [str(number) for number in range(25)]
            for number, each in enumerate(answers):
                expected = half.predict(features(client * 100 + number))
                np.testing.assert_allclose(logits(each.infer_response), expected, atol=1e-5)


def test_an_overloaded_cloud_refuses_inference_and_still_answers_that_it_is_ready():
    half = Half()
    half.gate.clear()
    with stub_of(half, batching=BatchingConfig(max_queue=2)) as stub:
        held = [stub.ModelInfer.future(request(features(0)), timeout=WAIT_S)]
        assert half.entered.wait(WAIT_S)
        held += [stub.ModelInfer.future(request(features(0)), timeout=WAIT_S) for _ in range(3)]
        refused = queue.SimpleQueue()
        for call in held:
            call.add_done_callback(refused.put)
        assert refused.get(timeout=WAIT_S).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert stub.ServerReady(pb.ServerReadyRequest(), timeout=WAIT_S).ready
        half.gate.set()
        assert sorted(call.exception(WAIT_S) is None for call in held) == [False, True, True, True]


def test_health_readiness_and_statistics_answer_within_a_second_while_the_model_computes():
    half = Half()
    half.gate.clear()
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(cloud(CloudConfig(batching=BatchingConfig(max_queue=16)), half))
        channel = stack.enter_context(connect(f"127.0.0.1:{port}", ChannelConfig()))
        stub, health = GRPCInferenceServiceStub(channel), health_pb2_grpc.HealthStub(channel)
        held = [stub.ModelInfer.future(request(features(0)), timeout=3 * WAIT_S)]
        assert half.entered.wait(WAIT_S)
        held += [stub.ModelInfer.future(request(features(0)), timeout=3 * WAIT_S) for _ in range(16)]
        for name in ("", "half"):
            told = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=1)
            assert told.status == health_pb2.HealthCheckResponse.SERVING
        assert stub.ServerReady(pb.ServerReadyRequest(), timeout=1).ready
        assert stub.ModelReady(pb.ModelReadyRequest(name="half"), timeout=1).ready
        assert stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True), timeout=1).models[0].name == "half"
        assert (
            stub.ModelStatistics(pb.ModelStatisticsRequest(name="half"), timeout=1).model_stats[0].inference_count == 0
        )
        half.gate.set()
        assert all(call.result(WAIT_S).model_name for call in held)
        (counted,) = stub.ModelStatistics(pb.ModelStatisticsRequest(), timeout=1).model_stats
    assert (counted.inference_count, counted.inference_stats.success.count) == (17 * 3, 17)
    assert 2 <= counted.execution_count <= 17
    spent = counted.inference_stats
    parts = (spent.queue, spent.compute_input, spent.compute_infer, spent.compute_output)
    assert [part.count for part in parts] == [17] * 4
    assert 0 < sum(part.ns for part in parts) <= spent.success.ns < 17 * 3 * WAIT_S * 10**9


def test_metrics_are_off_unless_asked_for_and_then_tell_what_was_served(caplog):
    caplog.set_level("INFO")
    with stub_of(Half()):
        assert "metrics" not in caplog.text
    with stub_of(Half(), server=ServerConfig(metrics="127.0.0.1:0")) as stub:
        (address,) = re.findall(r"metrics at (http://127\.0\.0\.1:\d+/metrics)", caplog.text)
        stub.ModelInfer(request(features(0)), timeout=WAIT_S)
        with urllib.request.urlopen(address, timeout=WAIT_S) as page:
            told = page.read().decode()
    assert 'splitleak_requests_total{method="ModelInfer",model="half",status="OK"} 1.0' in told
    assert 'splitleak_received_bytes_total{model="half"} 72.0' in told
    assert 'splitleak_queue_depth{model="half"} 0.0' in told


def test_the_curious_cloud_keeps_the_features_as_they_were_sent(tmp_path):
    sparse = np.maximum(features(0, 32), 0)
    sent = [codec.encode(sparse, how) for how in CODECS]
    assert [tensor.encoding for tensor in sent] == [None, "fp16", None, "deflate", "deflate"]
    with stub_of(Half(), capture=tmp_path / "seen.cap") as stub:
        requests = [codec.request("half", tensor, request_id=str(number)) for number, tensor in enumerate(sent)]
        answers = list(stub.ModelStreamInfer(iter(requests), timeout=WAIT_S))
    records = list(read(tmp_path / "seen.cap"))
    assert list(inference_requests(records)) == [(str(number), tensor) for number, tensor in enumerate(sent)]
    seen = [codec.decode(tensor) for _, tensor in inference_requests(records)]
    for plain, packed in zip(seen[1:3], seen[3:], strict=True):
        np.testing.assert_array_equal(packed, plain)
    responses = [pb.ModelStreamInferResponse.FromString(r.message) for r in records if r.direction == "response"]
    assert responses == answers


def test_the_calls_of_a_curious_cloud_that_is_started_again_keep_apart(tmp_path):
    sent = codec.encode(np.ones((1, *Half.feature_shape), np.float32), "fp32")
    for _ in range(2):
        with stub_of(Half(), capture=tmp_path / "seen.cap") as stub:
            stub.ModelInfer(codec.request("half", sent, request_id=""))
    first, answer, second, last = (record.call for record in read(tmp_path / "seen.cap"))
    assert first == answer != second == last


def test_a_capture_that_cannot_be_kept_is_an_error_at_the_start(tmp_path):
    path = tmp_path / "seen.cap"
    with CaptureWriter(path), pytest.raises(BlockingIOError, match="only writer"):
        cloud(CloudConfig(capture=path), Half()).__enter__()
    path.write_bytes(b"a text, and no capture")
    with pytest.raises(WireError, match="expected a capture"):
        cloud(CloudConfig(capture=path), Half()).__enter__()


def test_a_taken_address_is_an_error_and_leaves_no_worker_behind():
    with cloud(CloudConfig(), Half()) as port:
        before = threading.active_count()
        with pytest.raises(OSError, match=f"127.0.0.1:{port}"):
            cloud(CloudConfig(server=ServerConfig(address=f"127.0.0.1:{port}")), Half()).__enter__()
        assert threading.active_count() <= before


def test_a_request_in_flight_at_the_stop_is_answered():
    half = Half()
    half.gate.clear()
    opened = threading.Thread(target=lambda: half.entered.wait(WAIT_S) and half.gate.set())
    with contextlib.ExitStack() as stack:
        with cloud(CloudConfig(), half) as port:
            channel = stack.enter_context(connect(f"127.0.0.1:{port}", ChannelConfig()))
            held = GRPCInferenceServiceStub(channel).ModelInfer.future(request(features(0)), timeout=WAIT_S)
            assert half.entered.wait(WAIT_S)
            opened.start()
        np.testing.assert_allclose(logits(held.result(WAIT_S)), half.predict(features(0)), atol=1e-6)
    opened.join(WAIT_S)


def test_an_idle_stream_does_not_hold_up_the_stop():
    ended = threading.Event()
    with contextlib.ExitStack() as stack:
        with cloud(CloudConfig(server=ServerConfig(grace_s=WAIT_S)), Half()) as port:
            channel = stack.enter_context(connect(f"127.0.0.1:{port}", ChannelConfig()))

            def sending():
                yield request(features(0))
                ended.wait(WAIT_S)

            call = GRPCInferenceServiceStub(channel).ModelStreamInfer(sending())
            next(call)
        assert list(call) == []
        assert call.code() is grpc.StatusCode.OK
        ended.set()


class Whole:
    """Four pixels are four logits; notes the thread that computes."""

    name, input_shape, classes, properties = "whole", (1, 2, 2), 4, {}

    def __init__(self):
        self.threads = set()

    def predict(self, images):
        self.threads.add(threading.current_thread().name)
        return 5 * images.reshape(len(images), -1)


IMAGES = np.array([[[[0.1, 0.9], [0.9, 0.3]]]], np.float32)


def asked(stub, images, request_id="1"):
    message = codec.request("whole", codec.encode(images, "fp32"), request_id=request_id, input_name="images")
    return codec.response_array(stub.ModelInfer(message, timeout=WAIT_S), "probabilities")


def test_a_whole_model_answers_everybody_with_what_its_policy_lets_out():
    whole = Whole()
    with stub_of(whole, policy=PolicyConfig(top=2, rounding=0.1)) as stub:
        np.testing.assert_array_equal(asked(stub, IMAGES), np.array([[0, 0.5, 0.5, 0]], np.float32))
        told = stub.ModelMetadata(pb.ModelMetadataRequest(name="whole"))
        assert stub.ServerMetadata(pb.ServerMetadataRequest()).extensions == ["model:whole"]
    assert told.properties["policy"] == '{"rounding": 0.1, "top": 2}'
    assert whole.threads == {"compute"}


def test_without_a_policy_a_whole_model_answers_plain_probabilities():
    with stub_of(Whole()) as stub:
        expected = np.exp(5 * IMAGES.reshape(1, -1))
        np.testing.assert_allclose(asked(stub, IMAGES), expected / expected.sum(), atol=1e-6)


def test_a_policy_acts_on_features_of_the_edge_too():
    half = Half()
    with stub_of(half, policy=PolicyConfig(label_only=True)) as stub:
        answer = stub.ModelInfer(request(features(0)), timeout=WAIT_S)
    told = codec.response_array(answer, "probabilities")
    np.testing.assert_array_equal(told, np.eye(4)[half.predict(features(0)).argmax(1)])


def test_all_that_is_told_beside_an_answer_is_the_same_whatever_the_model_says():
    """Two models that answer alike under the policy, and otherwise differ, cannot be told apart by the other calls."""

    class Other(Whole):
        def predict(self, images):
            return 50 * images.reshape(len(images), -1)

    def told(model):
        with stub_of(model, policy=PolicyConfig(label_only=True)) as stub:
            answer = asked(stub, IMAGES)
            config = stub.ModelConfig(pb.ModelConfigRequest(name="whole")).config
            (counted,) = stub.ModelStatistics(pb.ModelStatisticsRequest()).model_stats
            fields = {field.name for field, _ in counted.ListFields()}
            stats = {field.name: value.count for field, value in counted.inference_stats.ListFields()}
            return answer.tolist(), config, fields, stats, counted.inference_count

    plain, other = told(Whole()), told(Other())
    assert plain == other
    answer, config, fields, stats, _ = plain
    assert answer == [[0, 1, 0, 0]]
    assert {field.name for field, _ in config.ListFields()} == {
        "name",
        "platform",
        "backend",
        "max_batch_size",
        "input",
        "output",
    }
    assert {field.name for field, _ in config.output[0].ListFields()} == {"name", "data_type", "dims"}
    assert config.output[0].name == "probabilities"
    assert fields == {"name", "version", "last_inference", "inference_count", "execution_count", "inference_stats"}
    assert stats == dict.fromkeys(
        ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"), 1
    ) | {"fail": 0}


def test_what_is_no_image_is_the_clients_fault():
    with stub_of(Whole()) as stub, pytest.raises(grpc.RpcError, match="expected image values in") as caught:
        asked(stub, 255 * IMAGES)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_noise_repeats_under_one_seed():
    def told(**settings):
        with stub_of(Whole(), policy=PolicyConfig(sigma=0.1), **settings) as stub:
            return [asked(stub, IMAGES).tolist() for _ in range(2)]

    assert told(noise_seed=1) == told(noise_seed=1) != told()
    assert len(set(map(str, told()))) == 2


def test_a_policy_that_does_not_fit_the_model_is_an_error_at_the_start():
    with pytest.raises(ValueError, match="top of at most the model's 4 classes, got 5"):
        cloud(CloudConfig(policy=PolicyConfig(top=5)), Whole()).__enter__()
