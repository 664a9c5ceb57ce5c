import grpc
import numpy as np
import pytest

from splitleak.cloud.service import CloudConfig, cloud
from splitleak.wire.client import pushback
from splitleak.wire.client.classifier import ClassifierClient
from splitleak.wire.client.pushback import answered
from splitleak.wire.protocol.status import RETRY_PUSHBACK
from splitleak.wire.server.server import ServerConfig


class Refusal(grpc.RpcError):
    def __init__(self, *told):
        self.told = told

    def trailing_metadata(self):
        return tuple((RETRY_PUSHBACK, each) for each in self.told)


@pytest.fixture
def slept(monkeypatch):
    waits = []
    monkeypatch.setattr(pushback.time, "sleep", waits.append)
    return waits


def refused_by(*refusals):
    left = list(refusals)

    def call():
        if left:
            raise left.pop(0)
        return "tea"

    return call


def test_a_refused_call_is_made_again_after_the_wait_that_is_told(slept):
    assert answered(refused_by(Refusal("20"), Refusal("0"), Refusal("1500")), 2) == "tea"
    assert slept == [0.02, 0.001, 1.5]


@pytest.mark.parametrize("told", [(), ("-1",), ("soon",), ("1e3",), ("9" * 400,), (b"20",)])
def test_a_refusal_without_a_wait_is_the_callers(slept, told):
    with pytest.raises(Refusal):
        answered(refused_by(Refusal(*told)), 60)
    with pytest.raises(grpc.RpcError):
        answered(refused_by(grpc.RpcError()), 60)
    assert slept == []


def test_all_waits_together_have_an_end(slept):
    with pytest.raises(Refusal):
        answered(refused_by(*[Refusal("400")] * 9), 2)
    assert len(slept) == 5
    with pytest.raises(Refusal):
        answered(refused_by(*[Refusal("0")] * 99), 0.02)
    assert len(slept) < 30


class Whole:
    name, input_shape, classes, properties = "whole", (1, 2, 2), 3, {}

    def predict(self, images):
        return images.reshape(len(images), -1)[:, :3]


def test_a_client_keeps_to_the_rate_of_a_service_and_its_waits_are_no_latency():
    limited, image = ServerConfig(limits={"requests_per_s": 5, "burst": 2}), np.full((1, 1, 2, 2), 0.5, np.float32)
    with cloud(CloudConfig(server=limited), Whole()) as port, ClassifierClient(f"127.0.0.1:{port}") as client:
        found = [client.ask(image, str(number)) for number in range(4)]
    assert [each.request_id for each in found] == ["0", "1", "2", "3"]
    assert min(each.round_trip_us for each in found[1:]) < 150_000
