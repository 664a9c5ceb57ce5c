import contextlib

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from splitleak.edge.client import EdgeConfig
from splitleak.edge.service import EdgeServiceConfig, edge
from splitleak.wire.client.channel import ChannelConfig
from splitleak.wire.protocol import codec
from splitleak.wire.protocol.pb import open_inference_pb2 as pb
from splitleak.wire.protocol.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub

PATIENCE_S = 20.0
IMAGES = np.random.default_rng(3).random((3, 1, 4, 4), dtype=np.float32)


@contextlib.contextmanager
def app(encoder, cloud, patience_s=PATIENCE_S, **options):
    client = EdgeConfig(cloud=cloud.address, model="toy", patience_s=patience_s)
    config = EdgeServiceConfig(client=client, **options)
    with edge(config, encoder, "camera") as port, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        stub.address = f"127.0.0.1:{port}"
        yield stub


def ask(images, request_id="holiday-17"):
    return codec.request("camera", codec.encode(images, "fp32"), request_id=request_id, input_name="images")


def test_a_caller_gets_the_logits_of_a_direct_call(encoder, start_cloud):
    cloud = start_cloud()
    with app(encoder, cloud) as stub:
        unary = stub.ModelInfer(ask(IMAGES), timeout=PATIENCE_S)
        streamed = [
            codec.response_array(each.infer_response, "logits")
            for each in stub.ModelStreamInfer(iter([ask(IMAGES[:1]), ask(IMAGES[1:])]), timeout=PATIENCE_S)
        ]
    direct = cloud.logits(encoder.encode(IMAGES))
    np.testing.assert_allclose(codec.response_array(unary, "logits"), direct, atol=1e-5)
    np.testing.assert_allclose(np.concatenate(streamed), direct, atol=1e-5)
    assert (unary.parameters["queue_us"].int64_param, unary.parameters["compute_us"].int64_param) == (5, 7)


def test_the_callers_id_is_the_id_on_the_wire(encoder, start_cloud):
    cloud = start_cloud()
    with app(encoder, cloud) as stub:
        assert stub.ModelInfer(ask(IMAGES, "holiday-17"), timeout=PATIENCE_S).id == "holiday-17"
    assert [each.id for each in cloud.arrived] == ["holiday-17"]


def test_the_metadata_say_what_the_app_takes_and_gives(encoder, start_cloud):
    with app(encoder, start_cloud()) as stub:
        model = stub.ModelMetadata(pb.ModelMetadataRequest(name="camera"), timeout=PATIENCE_S)
    assert [(each.name, list(each.shape)) for each in model.inputs] == [("images", [-1, 1, 4, 4])]
    assert [(each.name, list(each.shape)) for each in model.outputs] == [("logits", [-1, 3])]


def test_the_app_tells_its_health_and_counts_what_the_cloud_computed_for_it(encoder, start_cloud):
    with app(encoder, start_cloud()) as stub, grpc.insecure_channel(stub.address) as channel:
        check = health_pb2.HealthCheckRequest(service="camera")
        told = health_pb2_grpc.HealthStub(channel).Check(check, timeout=PATIENCE_S)
        for _ in range(2):  # an answer may come before it is counted, but not before the one before it is
            stub.ModelInfer(ask(IMAGES), timeout=PATIENCE_S)
        (counted,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name="camera"), timeout=PATIENCE_S).model_stats
    assert told.status == health_pb2.HealthCheckResponse.SERVING
    assert counted.inference_stats.success.count == 2
    requests = counted.execution_count
    assert requests in (1, 2)
    assert counted.inference_count == requests * len(IMAGES)
    assert (counted.inference_stats.queue.ns, counted.inference_stats.compute_infer.ns) == (
        requests * 5000,
        requests * 7000,
    )


@pytest.mark.parametrize(
    ("images", "expected", "came"),
    [
        (np.zeros((1, 3, 4, 4), np.float32), "1, 4, 4", "3, 4, 4"),
        (np.zeros((4, 4), np.float32), "1, 4, 4", "(4, 4)"),
        (IMAGES - 1, "[0, 1]", "values from -"),
        (IMAGES * 255, "[0, 1]", "values from "),
        (np.zeros((9, 1, 4, 4), np.float32), "8", "9"),
    ],
)
def test_wrong_images_are_an_invalid_argument_that_says_what_was_expected_and_what_came(
    encoder, start_cloud, images, expected, came
):
    with app(encoder, start_cloud(), max_batch_size=8) as stub:
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(ask(images), timeout=PATIENCE_S)
        stub.ModelInfer(ask(IMAGES), timeout=PATIENCE_S)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "expected" in caught.value.details()
    assert expected in caught.value.details()
    assert came in caught.value.details()


def test_images_that_are_not_numbers_are_an_invalid_argument(encoder, start_cloud):
    request = ask(IMAGES)
    request.raw_input_contents[0] = np.full_like(IMAGES, np.nan).tobytes()
    with app(encoder, start_cloud()) as stub, pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request, timeout=PATIENCE_S)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_cloud_that_is_gone_for_longer_than_the_apps_patience_is_unavailable_to_its_caller(encoder, start_cloud):
    cloud = start_cloud()
    with app(encoder, cloud, patience_s=0.2) as stub:
        stub.ModelInfer(ask(IMAGES), timeout=PATIENCE_S)
        cloud.server.stop(0).wait()
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(ask(IMAGES, "lost"), timeout=PATIENCE_S)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert cloud.address in caught.value.details()
    assert "'lost'" in caught.value.details()


def test_the_app_does_not_start_without_its_cloud(encoder, start_cloud):
    cloud = start_cloud()
    cloud.server.stop(0).wait()
    channel = ChannelConfig(connect_timeout_s=0.3)
    client = EdgeConfig(cloud=cloud.address, model="toy", channel=channel, patience_s=0.3)
    with (
        pytest.raises(ConnectionError, match=cloud.address),
        edge(EdgeServiceConfig(client=client), encoder, "camera"),
    ):
        pass
