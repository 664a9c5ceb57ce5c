"""One rule for which of the announced tensors is used; what is not announced is taken on trust."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from splitleak.wire.client.channel import ChannelConfig, connect
from splitleak.wire.client.metadata import Tensor, read_metadata, select
from splitleak.wire.protocol.pb import open_inference_pb2 as pb
from splitleak.wire.protocol.pb.open_inference_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

TWO = [
    Tensor(name="b", datatype="FP32", shape=(-1, 3)),
    Tensor(name="a", datatype="FP16", shape=(-1,)),
]


class Refusing(GRPCInferenceServiceServicer):
    def __init__(self, code, times):
        self.code, self.times = code, times

    def ModelMetadata(self, request, context):
        if self.times == 0:
            return pb.ModelMetadataResponse(name=request.name)
        self.times -= 1
        context.abort(self.code, "not now")


@contextlib.contextmanager
def serving(code, times=-1):
    server = grpc.server(ThreadPoolExecutor(1))
    add_GRPCInferenceServiceServicer_to_server(Refusing(code, times), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def test_the_named_tensor_is_used_or_the_only_one():
    assert select(TWO, "a", "x") == TWO[1]
    assert select(TWO[:1], None, "x") == select(TWO[:1], "b", "x") == TWO[0]


def test_a_name_is_taken_on_trust_where_nothing_is_announced():
    assert select([], "mine", "x") == Tensor(name="mine")
    assert select([], None, "x") == Tensor()


@pytest.mark.parametrize(
    ("name", "message"),
    [(None, r"^m: expected one input, got \['b', 'a'\]$"), ("c", r"^m: expected one input 'c', got \['b', 'a'\]$")],
)
def test_several_without_a_name_and_a_name_that_is_none_are_refused(name, message):
    with pytest.raises(LookupError, match=message):
        select(TWO, name, "m: expected one input")


@pytest.mark.parametrize(
    ("code", "error"),
    [(grpc.StatusCode.NOT_FOUND, LookupError), (grpc.StatusCode.UNAVAILABLE, ConnectionError)],
)
def test_a_failed_request_for_metadata_names_the_model(code, error):
    with (
        serving(code) as address,
        connect(address, ChannelConfig(attempts=1)) as channel,
        pytest.raises(error, match=f"metadata of model 'm': {code.name}: not now"),
    ):
        read_metadata(channel, "m", where="model 'm'", timeout_s=10)


def test_a_relay_that_is_up_before_its_server_is_waited_for():
    with (
        serving(grpc.StatusCode.UNAVAILABLE, times=2) as address,
        connect(address, ChannelConfig(attempts=1)) as channel,
    ):
        assert read_metadata(channel, "m", where="model 'm'", timeout_s=10, patience_s=60).name == "m"


def test_a_refusal_that_waiting_does_not_change_is_told_at_once():
    with (
        serving(grpc.StatusCode.NOT_FOUND, times=1) as address,
        connect(address, ChannelConfig(attempts=1)) as channel,
    ):
        with pytest.raises(LookupError):
            read_metadata(channel, "m", where="model 'm'", timeout_s=10, patience_s=60)
        assert read_metadata(channel, "m", where="model 'm'", timeout_s=10).name == "m"
