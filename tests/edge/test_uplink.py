"""What the client's tests cannot see: the uplink alone, against servers that break the protocol."""

import queue
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from edge.uplink import Parcel, Uplink
from splitleak.errors import WireError
from splitleak.wire.pb import open_inference_pb2 as pb

PATIENCE_S = 20.0
GARBAGE = b"\xff\xff\xff"


class Rude(grpc.GenericRpcHandler):
    """Answers every message with ``answer``; without a stream if ``unary``."""

    def __init__(self, answer, unary=False):
        self.answer, self.unary = answer, unary

    def service(self, handler_call_details):
        if handler_call_details.method.endswith("/ModelInfer"):
            return grpc.unary_unary_rpc_method_handler(lambda message, context: self.answer)
        if self.unary:
            return None
        return grpc.stream_stream_rpc_method_handler(
            lambda messages, context: (self.answer for _ in messages if self.answer is not None)
        )


@pytest.fixture
def uplink_to():
    """``uplink_to(handler)``: an uplink to a server of that handler, and the queue of what it reports."""
    servers, channels = [], []

    def start(handler):
        server = grpc.server(ThreadPoolExecutor(4))
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        channels.append(grpc.insecure_channel(f"127.0.0.1:{port}"))
        told = queue.Queue()
        uplink = Uplink(
            channels[-1],
            answered=lambda parcel, response: told.put(("answered", parcel, response)),
            failed=lambda parcel, error: told.put(("failed", parcel, error)),
            interrupted=lambda reason: told.put(("interrupted", None, reason)),
            broken=lambda parcels, reason: told.put(("broken", parcels, reason)),
        )
        return uplink, told

    yield start
    for each in channels:
        each.close()
    for each in servers:
        each.stop(0).wait()


def parcel(name):
    return Parcel(name, time.monotonic() + PATIENCE_S, b"message")


def test_a_stream_of_bytes_that_are_no_answer_is_cut_with_the_reason(uplink_to):
    uplink, told = uplink_to(Rude(GARBAGE))
    sent = parcel("a")
    uplink.send(sent)
    kind, parcels, reason = told.get(timeout=PATIENCE_S)
    assert (kind, parcels) == ("broken", [sent])
    assert "expected a ModelStreamInferResponse, got 3 bytes" in reason
    assert len(uplink) == 0
    uplink.close(PATIENCE_S)


def test_a_single_call_answered_with_other_bytes_fails_with_a_wire_error(uplink_to):
    uplink, told = uplink_to(Rude(GARBAGE, unary=True))
    sent = parcel("a")
    uplink.send(sent)
    kind, failed, error = told.get(timeout=PATIENCE_S)
    assert (kind, failed, type(error)) == ("failed", sent, WireError)


def test_a_server_that_ends_the_stream_without_answers_leaves_them_broken(uplink_to):
    uplink, told = uplink_to(Rude(None))
    uplink.send(parcel("a"))
    uplink.close(PATIENCE_S)
    kind, parcels, reason = told.get(timeout=PATIENCE_S)
    assert (kind, [each.request_id for each in parcels]) == ("broken", ["a"])
    assert "ended the stream" in reason


def test_an_answer_without_an_id_belongs_to_the_oldest_parcel(uplink_to):
    answer = pb.ModelStreamInferResponse(infer_response=pb.ModelInferResponse(model_name="toy"))
    uplink, told = uplink_to(Rude(answer.SerializeToString()))
    first, second = parcel("a"), parcel("b")
    uplink.send(first)
    uplink.send(second)
    assert [told.get(timeout=PATIENCE_S)[:2] for _ in range(2)] == [("answered", first), ("answered", second)]
    assert first.sent_ns < first.answered_ns
    uplink.close(PATIENCE_S)
    assert told.empty()
