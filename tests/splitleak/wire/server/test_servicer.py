"""The servicer refuses with Triton's codes and full sentences, answers streams in order, and lets nothing leak."""

import contextlib
import queue
import threading
from concurrent.futures import Future

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from splitleak.wire.client.channel import ChannelConfig, connect
from splitleak.wire.protocol import codec
from splitleak.wire.protocol.answer import Answer
from splitleak.wire.protocol.paths import MODEL_INFER, SERVICE
from splitleak.wire.protocol.pb import open_inference_pb2 as pb
from splitleak.wire.protocol.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from splitleak.wire.server.model import ServedModel
from splitleak.wire.server.server import ServerConfig, serve
from splitleak.wire.server.servicer import OpenInferenceServicer
from splitleak.wire.server.statistics import Statistics

WAIT_S = 10
IN_FLIGHT = 3
FEATURES = np.arange(12, dtype=np.float32).reshape(2, 2, 3)


class Submissions:
    """Takes requests the way a worker does; the test answers them, or asks for answers at once."""

    def __init__(self):
        self.futures = queue.SimpleQueue()
        self.all = []
        self.timeouts = []
        self.at_once = True
        self.full = 0
        self.most_unanswered = 0

    def submit(self, batch, request_id, timeout_s):
        self.timeouts.append(timeout_s)
        if self.full > 0:
            self.full -= 1
            raise queue.Full("expected at most 0 waiting requests, got one more")
        future = Future()
        self.all.append(future)
        self.most_unanswered = max(self.most_unanswered, sum(not each.done() for each in self.all))
        if self.at_once:
            answer(future, batch.sum())
        self.futures.put(future)
        return future

    def taken(self):
        return self.futures.get(timeout=WAIT_S)


def answer(future, value):
    future.set_result(Answer(np.full((1, 1), value, np.float32), 5, 7))


class Endings(Statistics):
    """Tells the test of each request that is counted."""

    def __init__(self):
        super().__init__()
        self.told = queue.SimpleQueue()

    def ended(self, method, status, duration_ns):
        super().ended(method, status, duration_ns)
        self.told.put((method, status))


class Server:
    def __init__(self, observe=None, timeout_s=WAIT_S, max_message_bytes=1_000_000, held_bytes=10**6):
        self.work = Submissions()
        model = ServedModel(
            name="m",
            platform="test",
            input_name="features",
            input_shape=(2, 3),
            output_name="logits",
            output_shape=(1,),
            max_batch_size=4,
            submit=self.work.submit,
            properties={"cut": "2"},
            statistics=Endings(),
        )
        self.servicer = OpenInferenceServicer(
            [model],
            server_name="test-server",
            in_flight=IN_FLIGHT,
            timeout_s=timeout_s,
            held_bytes=held_bytes,
            observe=observe,
        )
        self.config = ServerConfig(max_message_bytes=max_message_bytes)

    @contextlib.contextmanager
    def run(self):
        with (
            serve(
                self.servicer.add_to,
                self.config,
                drain=self.servicer.drain,
                statistics=self.servicer.statistics,
                request_bytes=self.servicer.request_bytes,
            ) as port,
            connect(f"127.0.0.1:{port}", ChannelConfig()) as self.channel,
        ):
            self.stub = GRPCInferenceServiceStub(self.channel)
            yield self
            for future in self.work.all:
                future.cancel()


@pytest.fixture
def server():
    with Server().run() as running:
        yield running


@pytest.fixture(scope="module")
def shared_server():
    with Server().run() as running:
        yield running


def good(request_id="1", **changes):
    request = codec.request("m", codec.encode(FEATURES, "fp32"), request_id=request_id)
    request.MergeFrom(pb.ModelInferRequest(**changes))
    return request


def changed(change):
    request = good()
    change(request)
    return request


def logits(response):
    return codec.response_array(response, "logits").item()


def reshape(request, *shape):
    request.inputs[0].shape[:] = shape


BAD = {
    "unknown model": (lambda r: setattr(r, "model_name", "x"), "NOT_FOUND", r"expected a model of \['m'\], got 'x'"),
    "unknown version": (
        lambda r: setattr(r, "model_version", "2"),
        "NOT_FOUND",
        "expected version '1' of 'm', got '2'",
    ),
    "no input": (lambda r: r.ClearField("inputs"), "INVALID_ARGUMENT", r"expected one input 'features', got \[\]"),
    "two inputs": (lambda r: r.inputs.add(name="b"), "INVALID_ARGUMENT", r"got \['features', 'b'\]"),
    "wrong input name": (lambda r: setattr(r.inputs[0], "name", "b"), "INVALID_ARGUMENT", r"got \['b'\]"),
    "wrong dtype": (
        lambda r: setattr(r.inputs[0], "datatype", "INT64"),
        "INVALID_ARGUMENT",
        "expected datatype FP32, FP16, UINT8, got 'INT64'",
    ),
    "wrong shape": (
        lambda r: reshape(r, 2, 3, 2),
        "INVALID_ARGUMENT",
        r"expected shape \(N, 2, 3\) with N from 1 to 4 for 'features', got \(2, 3, 2\)",
    ),
    "wrong rank": (lambda r: reshape(r, 12), "INVALID_ARGUMENT", r"got \(12,\)"),
    "no shape": (lambda r: reshape(r), "INVALID_ARGUMENT", r"got \(\)"),
    "empty batch": (lambda r: reshape(r, 0, 2, 3), "INVALID_ARGUMENT", r"N from 1 to 4 .* got \(0, 2, 3\)"),
    "too many rows": (lambda r: reshape(r, 5, 2, 3), "INVALID_ARGUMENT", r"N from 1 to 4 .* got \(5, 2, 3\)"),
    "truncated bytes": (
        lambda r: r.raw_input_contents.__setitem__(0, r.raw_input_contents[0][:-1]),
        "INVALID_ARGUMENT",
        r"expected 48 bytes for FP32 of shape \[2, 2, 3\], got 47",
    ),
    "oversized bytes": (
        lambda r: r.raw_input_contents.__setitem__(0, r.raw_input_contents[0] + b"1234"),
        "INVALID_ARGUMENT",
        "expected 48 bytes .* got 52",
    ),
    "no bytes": (lambda r: r.ClearField("raw_input_contents"), "INVALID_ARGUMENT", "expected 48 bytes .* got 0"),
    "unknown output": (
        lambda r: r.outputs.add(name="boxes"),
        "INVALID_ARGUMENT",
        "expected output 'logits' without parameters, got 'boxes'",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_request_is_refused_by_its_right_code_and_the_next_good_one_served(shared_server, fault):
    change, code, message = BAD[fault]
    with pytest.raises(grpc.RpcError, match=message) as caught:
        shared_server.stub.ModelInfer(changed(change), timeout=WAIT_S)
    assert caught.value.code().name == code
    assert logits(shared_server.stub.ModelInfer(good(), timeout=WAIT_S)) == FEATURES.sum()


def test_a_stream_goes_on_after_each_bad_request(server):
    requests = []
    for number, (change, _, _) in enumerate(BAD.values()):
        requests += [changed(change), good(f"good-{number}")]
        requests[-2].id = f"bad-{number}"
    answers = list(server.stub.ModelStreamInfer(iter(requests), timeout=WAIT_S))
    assert [each.infer_response.id for each in answers] == [each.id for each in requests]
    for bad, (_, code, message) in zip(answers[::2], BAD.values(), strict=True):
        with pytest.raises(ValueError, match=f"{code}: .*{message}"):
            raise ValueError(bad.error_message)
    assert all(not each.error_message and logits(each.infer_response) == FEATURES.sum() for each in answers[1::2])
    assert all(each.infer_response.parameters["triton_final_response"].bool_param for each in answers)


def test_an_answer_echoes_the_id_and_carries_version_and_durations(server):
    response = server.stub.ModelInfer(good("a/7", outputs=[{"name": "logits"}]), timeout=WAIT_S)
    assert (response.model_name, response.model_version, response.id) == ("m", "1", "a/7")
    assert response.parameters["queue_us"].int64_param == 5
    assert response.parameters["compute_us"].int64_param == 7
    assert len(response.raw_output_contents) == 1


def test_liveness_readiness_and_metadata(server):
    stub = server.stub
    assert stub.ServerLive(pb.ServerLiveRequest()).live
    assert stub.ServerReady(pb.ServerReadyRequest()).ready
    assert stub.ServerMetadata(pb.ServerMetadataRequest()).name == "test-server"
    asked = [pb.ModelReadyRequest(name=name, version=version) for name, version in (("m", ""), ("m", "1"))]
    assert all(stub.ModelReady(request).ready for request in asked)
    asked = [pb.ModelReadyRequest(name=name, version=version) for name, version in (("x", ""), ("m", "2"))]
    assert not any(stub.ModelReady(request).ready for request in asked)
    metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name="m"))
    assert (list(metadata.versions), metadata.platform) == (["1"], "test")
    assert [(each.name, each.datatype, list(each.shape)) for each in metadata.inputs] == [
        ("features", "FP32", [-1, 2, 3])
    ]
    assert [(each.name, each.datatype, list(each.shape)) for each in metadata.outputs] == [("logits", "FP32", [-1, 1])]
    assert {"cut": "2", "max_batch_size": "4"}.items() <= dict(metadata.properties).items()
    with pytest.raises(grpc.RpcError, match="got 'x'") as caught:
        stub.ModelMetadata(pb.ModelMetadataRequest(name="x"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_model_configuration_and_repository_index(server):
    stub = server.stub
    config = stub.ModelConfig(pb.ModelConfigRequest(name="m", version="1")).config
    assert (config.name, config.max_batch_size, list(config.input[0].dims)) == ("m", 4, [2, 3])
    (only,) = stub.RepositoryIndex(pb.RepositoryIndexRequest()).models
    assert (only.name, only.version, only.state) == ("m", "1", "READY")
    refused = [
        (stub.ModelConfig, pb.ModelConfigRequest(name="x")),
        (stub.ModelStatistics, pb.ModelStatisticsRequest(name="x")),
        (stub.ModelStatistics, pb.ModelStatisticsRequest(name="m", version="2")),
        (stub.RepositoryIndex, pb.RepositoryIndexRequest(repository_name="x")),
    ]
    for call, request in refused:
        with pytest.raises(grpc.RpcError, match=r"expected .*, got '[x2]'") as caught:
            call(request)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    server.servicer.stop()
    (only,) = stub.RepositoryIndex(pb.RepositoryIndexRequest()).models
    assert (only.state, only.reason) == ("UNAVAILABLE", "stopping")
    assert not stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True)).models


def test_reflection_names_the_services_and_tells_their_methods(server):
    database = ProtoReflectionDescriptorDatabase(server.channel)
    assert {SERVICE, "grpc.health.v1.Health"} <= set(database.get_services())
    told = DescriptorPool(database).FindServiceByName(SERVICE)
    assert {"ModelInfer", "ModelStatistics"} <= set(told.methods_by_name)


def test_each_request_is_counted_once_by_method_and_status_and_a_strangers_name_is_not_kept(server):
    server.stub.ModelInfer(good(), timeout=WAIT_S)
    bad = changed(lambda request: reshape(request, 2, 3))
    nobodys = changed(lambda request: setattr(request, "model_name", "x"))
    for request in (bad, nobodys):
        with pytest.raises(grpc.RpcError):
            server.stub.ModelInfer(request, timeout=WAIT_S)
    assert len(list(server.stub.ModelStreamInfer(iter([good(), bad, good()]), timeout=WAIT_S))) == 3
    counts = server.servicer.statistics["m"].snapshot()
    assert counts.requests == {
        ("ModelInfer", "OK"): 1,
        ("ModelInfer", "INVALID_ARGUMENT"): 1,
        ("ModelStreamInfer", "OK"): 2,
        ("ModelStreamInfer", "INVALID_ARGUMENT"): 1,
    }
    assert (counts.bytes_in, counts.bytes_out) == (3 * FEATURES.nbytes, 3 * 4)
    assert set(server.servicer.statistics) == {"", "m"}
    assert server.servicer.statistics[""].snapshot().requests == {("ModelInfer", "NOT_FOUND"): 1}
    (told,) = server.stub.ModelStatistics(pb.ModelStatisticsRequest()).model_stats
    assert (told.inference_stats.success.count, told.inference_stats.fail.count) == (3, 2)
    assert 0 < told.inference_stats.success.ns < 10**9 * WAIT_S


def test_bytes_that_are_no_message_are_refused_and_the_next_good_request_served(server):
    with pytest.raises(grpc.RpcError) as caught:
        server.channel.unary_unary(MODEL_INFER)(b"\xff\xff", timeout=WAIT_S)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert logits(server.stub.ModelInfer(good(), timeout=WAIT_S)) == FEATURES.sum()


def test_a_message_over_the_limit_is_refused_with_both_sizes():
    with Server(max_message_bytes=1000).run() as server:
        large = changed(lambda request: request.raw_input_contents.append(bytes(2000)))
        with pytest.raises(grpc.RpcError, match=r"\(\d+ vs\. 1000\)") as caught:
            server.stub.ModelInfer(large, timeout=WAIT_S)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert logits(server.stub.ModelInfer(good(), timeout=WAIT_S)) == FEATURES.sum()


def test_a_stream_is_answered_in_order_even_when_the_last_is_done_first(server):
    server.work.at_once = False
    call = server.stub.ModelStreamInfer(iter([good(str(number)) for number in range(IN_FLIGHT)]), timeout=WAIT_S)
    futures = [server.work.taken() for _ in range(IN_FLIGHT)]
    for number in reversed(range(IN_FLIGHT)):
        answer(futures[number], number)
    assert [(each.infer_response.id, logits(each.infer_response)) for each in call] == [
        (str(number), number) for number in range(IN_FLIGHT)
    ]


def test_a_stream_is_read_no_further_than_its_unanswered_requests_allow(server):
    server.work.at_once = False
    call = server.stub.ModelStreamInfer(iter([good(str(number)) for number in range(20)]), timeout=WAIT_S)
    for _ in range(20):
        answer(server.work.taken(), 1)
        next(call)
    assert server.work.most_unanswered <= IN_FLIGHT


def test_a_full_queue_refuses_a_unary_call_and_holds_up_a_stream(server):
    server.work.full = 1
    with pytest.raises(grpc.RpcError, match="expected at most 0 waiting requests") as caught:
        server.stub.ModelInfer(good(), timeout=WAIT_S)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    server.work.full = 3
    answers = list(server.stub.ModelStreamInfer(iter([good("1"), good("2")]), timeout=WAIT_S))
    assert [(each.error_message, each.infer_response.id) for each in answers] == [("", "1"), ("", "2")]


def test_a_queue_that_stays_full_fails_a_streams_request_at_its_timeout(server):
    server.work.full = 10**9
    slow = good(parameters={"timeout": pb.InferParameter(int64_param=20_000)})
    (only,) = server.stub.ModelStreamInfer(iter([slow]), timeout=WAIT_S)
    assert only.error_message.startswith("RESOURCE_EXHAUSTED: expected at most 0")


def test_the_timeout_parameter_ends_a_request_unary_and_on_a_stream(server):
    server.work.at_once = False
    slow = good(parameters={"timeout": pb.InferParameter(int64_param=20_000)})
    with pytest.raises(grpc.RpcError, match=r"expected an answer within 0\.0\d\d s, got none") as caught:
        server.stub.ModelInfer(slow, timeout=WAIT_S)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    (only,) = server.stub.ModelStreamInfer(iter([slow]), timeout=WAIT_S)
    assert only.error_message.startswith("DEADLINE_EXCEEDED: expected an answer within")
    assert all(was_cancelled(server.work.taken()) for _ in range(2))


def test_a_stream_that_slept_keeps_the_shorter_deadline_of_what_comes_next():
    with Server(timeout_s=100 * WAIT_S).run() as server:
        sending = queue.SimpleQueue()
        call = server.stub.ModelStreamInfer(iter(sending.get, None), timeout=WAIT_S)
        sending.put(good("1"))
        assert logits(next(call).infer_response) == FEATURES.sum()
        server.work.at_once = False
        sending.put(good("2", parameters={"timeout": pb.InferParameter(int64_param=20_000)}))
        late = next(call)
        sending.put(None)
    assert late.error_message.startswith("DEADLINE_EXCEEDED: expected an answer within 0.020 s")
    assert late.infer_response.id == "2"


def test_an_answer_that_came_before_its_turn_follows_the_request_that_timed_out(server):
    server.work.at_once = False
    late = good("1", parameters={"timeout": pb.InferParameter(int64_param=200_000)})
    call = server.stub.ModelStreamInfer(iter([late, good("2")]), timeout=WAIT_S)
    server.work.taken()
    answer(server.work.taken(), 4)
    first, second = call
    assert first.error_message.startswith("DEADLINE_EXCEEDED")
    assert first.infer_response.id == "1"
    assert logits(second.infer_response) == 4


def test_the_earliest_limit_is_what_the_worker_is_told(server):
    server.stub.ModelInfer(good(), timeout=2)
    server.stub.ModelInfer(good(), timeout=100)
    server.stub.ModelInfer(good(parameters={"timeout": pb.InferParameter(int64_param=10**6)}))
    by_deadline, by_server, by_parameter = server.work.timeouts
    assert 1 < by_deadline < 2.1  # gRPC rounds deadlines up
    assert WAIT_S - 1 < by_server <= WAIT_S
    assert 0 < by_parameter <= 1


def test_a_failing_model_is_an_internal_error_for_its_request_only(server, caplog):
    server.work.at_once = False
    call = server.stub.ModelStreamInfer(iter([good("1"), good("2")]), timeout=WAIT_S)
    server.work.taken().set_exception(RuntimeError("the model failed: no"))
    answer(server.work.taken(), 4)
    first, second = call
    assert (first.error_message, first.infer_response.id) == ("INTERNAL: RuntimeError: the model failed: no", "1")
    assert logits(second.infer_response) == 4
    assert "a request failed" in caplog.text


def was_cancelled(future):
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    return done.wait(WAIT_S) and future.cancelled()


def readers():
    return [thread for thread in threading.enumerate() if thread.name == "stream-reader"]


def test_a_client_that_vanishes_mid_stream_leaves_nothing_behind(server):
    server.work.at_once = False
    sending = queue.SimpleQueue()
    call = server.stub.ModelStreamInfer(iter(sending.get, None), timeout=WAIT_S)
    sending.put(good("1"))
    sending.put(good("2"))
    answered, pending = server.work.taken(), server.work.taken()
    answer(answered, 1)
    next(call)
    call.cancel()
    sending.put(None)
    assert was_cancelled(pending)
    for reader in readers():
        reader.join(WAIT_S)
    assert readers() == []
    server.work.at_once = True
    assert logits(server.stub.ModelInfer(good(), timeout=WAIT_S)) == FEATURES.sum()


def test_a_client_that_vanishes_with_its_window_full_leaves_nothing_behind(server):
    server.work.at_once = False
    call = server.stub.ModelStreamInfer(iter([good(str(number)) for number in range(20)]), timeout=WAIT_S)
    pending = [server.work.taken() for _ in range(IN_FLIGHT)]
    call.cancel()
    assert all(was_cancelled(future) for future in pending)
    endings = server.servicer.statistics["m"].told
    told = [endings.get(timeout=WAIT_S) for _ in range(IN_FLIGHT)]
    assert told == [("ModelStreamInfer", "CANCELLED")] * IN_FLIGHT
    for reader in readers():
        reader.join(WAIT_S)
    assert readers() == []


def test_a_unary_client_that_vanishes_cancels_its_request(server):
    server.work.at_once = False
    call = server.stub.ModelInfer.future(good(), timeout=WAIT_S)
    pending = server.work.taken()
    call.cancel()
    assert was_cancelled(pending)


def test_stopping_answers_what_was_accepted_ends_the_stream_and_is_not_ready(server):
    server.work.at_once = False
    sending = queue.SimpleQueue()
    call = server.stub.ModelStreamInfer(iter(sending.get, None), timeout=WAIT_S)
    sending.put(good("1"))
    accepted = server.work.taken()
    answer(accepted, 1)
    next(call)
    for number in (2, 3, 4):
        sending.put(good(str(number)))
    second, third, fourth = (server.work.taken() for _ in range(3))  # the fourth is read after two others are accepted
    answer(third, 3)
    answer(fourth, 4)
    server.servicer.stop()
    assert not server.stub.ServerReady(pb.ServerReadyRequest()).ready
    assert not server.stub.ModelReady(pb.ModelReadyRequest(name="m")).ready
    with pytest.raises(grpc.RpcError, match="got one that is stopping") as caught:
        server.stub.ModelInfer(good(), timeout=WAIT_S)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    answer(second, 2)
    assert [logits(each.infer_response) for each in call][:2] == [2, 3]
    assert call.code() is grpc.StatusCode.OK
    assert list(server.stub.ModelStreamInfer(iter([good()]), timeout=WAIT_S)) == []
    sending.put(None)


def test_draining_waits_until_the_end_of_every_stream_is_sent_and_no_longer_than_it_may(server):
    server.work.at_once = False
    sending = queue.SimpleQueue()  # the client never ends its side
    call = server.stub.ModelStreamInfer(iter(sending.get, None), timeout=WAIT_S)
    sending.put(good("1"))
    accepted = server.work.taken()
    server.servicer.drain(0.01)
    assert call.is_active()
    draining = threading.Thread(target=server.servicer.drain, args=(WAIT_S,))
    draining.start()
    answer(accepted, 1)
    draining.join(WAIT_S / 2)
    assert not draining.is_alive()
    assert [logits(each.infer_response) for each in call] == [1]
    assert call.code() is grpc.StatusCode.OK
    sending.put(None)


def test_the_curious_server_sees_each_inference_message():
    seen = queue.SimpleQueue()
    with Server(observe=lambda *entry: seen.put(entry)).run() as server:
        unary = server.stub.ModelInfer(good("1"), timeout=WAIT_S)
        (streamed,) = server.stub.ModelStreamInfer(iter([good("2")]), timeout=WAIT_S)
    entries = [seen.get(timeout=WAIT_S) for _ in range(4)]
    assert [(method.rsplit("/")[-1], call, direction) for method, call, direction, _ in entries] == [
        ("ModelInfer", 0, "request"),
        ("ModelInfer", 0, "response"),
        ("ModelStreamInfer", 1, "request"),
        ("ModelStreamInfer", 1, "response"),
    ]
    assert pb.ModelInferRequest.FromString(entries[0][3]) == good("1")
    assert pb.ModelInferResponse.FromString(entries[1][3]) == unary
    assert pb.ModelInferRequest.FromString(entries[2][3]) == good("2")
    assert pb.ModelStreamInferResponse.FromString(entries[3][3]) == streamed


def test_requests_that_wait_hold_a_limited_number_of_bytes_whatever_their_way():
    with Server(held_bytes=2 * FEATURES.nbytes).run() as server:
        server.work.at_once = False
        waiting, held = [], []
        for number in range(2):  # one after the other: of two at once, either may come first
            waiting.append(server.stub.ModelInfer.future(good(str(number)), timeout=WAIT_S))
            held.append(server.work.taken())
        with pytest.raises(grpc.RpcError, match=f"expected at most {2 * FEATURES.nbytes} bytes of requests") as caught:
            server.stub.ModelInfer(good(), timeout=WAIT_S)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        (only,) = server.stub.ModelStreamInfer(iter([good()]), timeout=WAIT_S)
        assert only.error_message.startswith("RESOURCE_EXHAUSTED: expected at most")
        answer(held[0], 1)
        held[1].set_exception(ValueError("broken"))
        assert logits(waiting[0].result()) == 1
        assert waiting[1].exception().details() == "broken"
        server.work.at_once = True
        server.work.full = 1  # what a full queue refuses is not held either
        with pytest.raises(grpc.RpcError, match="waiting requests"):
            server.stub.ModelInfer(good(), timeout=WAIT_S)
        for _ in range(5):
            assert logits(server.stub.ModelInfer(good(), timeout=WAIT_S)) == 66


def test_one_request_above_what_may_be_held_is_served_alone():
    with Server(held_bytes=1).run() as server:
        assert logits(server.stub.ModelInfer(good(), timeout=WAIT_S)) == 66


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
def test_a_messages_limit_follows_from_the_models_served(method):
    with Server(max_message_bytes=2**26).run() as server:
        most = server.servicer.request_bytes
        assert 2 * 4 * 4 * 6 < most < 2**21
        for size, said in ((most - 1000, "expected one input"), (most + 1000, "larger than max")):
            request = pb.ModelInferRequest(model_name="m", raw_input_contents=[bytes(size)])
            assert said in refusal(server, method, request)


def refusal(server, method, request):
    try:
        if method == "ModelInfer":
            return server.stub.ModelInfer(request, timeout=WAIT_S)
        return next(server.stub.ModelStreamInfer(iter([request]), timeout=WAIT_S)).error_message
    except grpc.RpcError as error:
        return error.details()


def test_a_large_answer_is_not_bound_by_the_limit_of_requests():
    """What a model gives may be larger than what it takes."""
    options = dict(ServerConfig(max_message_bytes=2**26).options(1000))
    assert options["grpc.max_receive_message_length"] == 1000
    assert options["grpc.max_send_message_length"] == 2**26
