"""What the client's tests cannot see: the uplink alone, against servers that break the protocol."""

import queue
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from splitleak.edge.uplink import Parcel, Uplink
from splitleak.errors import WireError
from splitleak.wire.protocol.pb import open_inference_pb2 as pb

PATIENCE_S = 20.0
GARBAGE = b"\xff\xff\xff"
PASSING = [
    grpc.StatusCode.OK,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
]


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


class Moody(grpc.GenericRpcHandler):
    """Answers messages by their ids, each ``copies`` times; stream k ends after ``plan[k]``, answers and status."""

    def __init__(self, plan=(), copies=1):
        self.plan, self.copies = iter(plan), copies
        self.streams = []

    def service(self, handler_call_details):
        return grpc.stream_stream_rpc_method_handler(self._answer)

    def _answer(self, messages, context):
        left, status = next(self.plan, (None, None))
        self.streams.append([])
        for message in messages:
            if left == 0:
                if status is not grpc.StatusCode.OK:
                    context.abort(status, "not now")
                return
            left = None if left is None else left - 1
            self.streams[-1].append(message)
            response = pb.ModelInferResponse(id=message.decode())
            yield from [pb.ModelStreamInferResponse(infer_response=response).SerializeToString()] * self.copies


@pytest.fixture
def uplink_to():
    """``uplink_to(handler)``: an uplink to a server of that handler, and the queue of what it reports."""
    servers, channels = [], []

    def start(handler, options=()):
        server = grpc.server(ThreadPoolExecutor(4), options=options)
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        channels.append(grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_retries", 0)]))
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


@given(
    count=st.integers(1, 12),
    plan=st.lists(st.tuples(st.integers(0, 4), st.sampled_from(PASSING)), max_size=4),
)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_streams_break_each_parcel_is_answered_once_in_order_from_the_same_bytes(uplink_to, count, plan):
    server = Moody(plan)
    uplink, told = uplink_to(server)
    parcels = [Parcel(f"p{index}", time.monotonic() + PATIENCE_S, b"p%d" % index) for index in range(count)]
    for each in parcels:
        uplink.send(each)
    answered = []
    while len(answered) < count:
        kind, each, _ = told.get(timeout=PATIENCE_S)
        assert kind in ("answered", "interrupted")
        answered += [each] if kind == "answered" else []
    assert answered == parcels
    assert len(uplink) == 0
    uplink.close(PATIENCE_S)
    assert [kind for kind, *_ in told.queue if kind != "interrupted"] == []
    for messages in server.streams:
        assert messages == sorted(messages, key=lambda message: int(message[1:]))


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.PERMISSION_DENIED])
def test_a_stream_that_ends_for_good_is_not_tried_again(uplink_to, code):
    server = Moody([(1, code)])
    uplink, told = uplink_to(server)
    parcels = [parcel("a"), parcel("b")]
    for each in parcels:
        each.message = each.request_id.encode()
        uplink.send(each)
    assert told.get(timeout=PATIENCE_S)[:2] == ("answered", parcels[0])
    assert told.get(timeout=PATIENCE_S) == ("broken", [parcels[1]], f"{code.name}: not now")
    assert len(server.streams) == 1
    uplink.close(PATIENCE_S)


@pytest.mark.parametrize("streams", [True, False])
def test_a_message_larger_than_the_server_takes_is_not_sent_again(uplink_to, streams):
    server = Moody() if streams else Rude(b"", unary=True)
    uplink, told = uplink_to(server, [("grpc.max_receive_message_length", 100)])
    large = Parcel("a", time.monotonic() + PATIENCE_S, bytes(101))
    uplink.send(large)
    kind, _, why = told.get(timeout=PATIENCE_S)
    assert kind == ("broken" if streams else "failed")
    assert "larger than max (101 vs. 100)" in str(why)
    assert large.sends == 1
    uplink.close(PATIENCE_S)


def test_an_answer_that_comes_twice_is_dropped_the_second_time(uplink_to):
    uplink, told = uplink_to(Moody(copies=2))
    for name in "ab":
        uplink.send(Parcel(name, time.monotonic() + PATIENCE_S, name.encode()))
    assert [told.get(timeout=PATIENCE_S)[1].request_id for _ in range(2)] == ["a", "b"]
    uplink.close(PATIENCE_S)
    assert told.empty()


def test_what_nobody_waits_for_is_not_sent_again(uplink_to):
    server = Moody([(1, grpc.StatusCode.UNAVAILABLE)])
    uplink, told = uplink_to(server)
    for name in ("a", "regretted", "c"):
        each = Parcel(name, time.monotonic() + PATIENCE_S, name.encode())
        each.abandoned = lambda name=name: name == "regretted"
        uplink.send(each)
    kinds = [told.get(timeout=PATIENCE_S)[0] for _ in range(3)]
    assert kinds == ["answered", "interrupted", "answered"]
    assert server.streams[-1] == [b"c"]
    uplink.close(PATIENCE_S)


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
