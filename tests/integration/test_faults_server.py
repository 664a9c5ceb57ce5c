"""What clients and the system do to a service: each fault is bounded, and everybody else is served meanwhile."""

import contextlib
import itertools
import queue
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from splitleak.cloud.batching import BatchingConfig
from splitleak.cloud.service import CloudConfig, cloud
from splitleak.eval.campaign.processes import service
from splitleak.wire.client.channel import ChannelConfig, connect
from splitleak.wire.files import captures
from splitleak.wire.protocol import codec
from splitleak.wire.protocol.pb import open_inference_pb2 as pb
from splitleak.wire.protocol.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from splitleak.wire.server.guard import Limits
from splitleak.wire.server.server import ServerConfig

WAIT_S = 30
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


class Half:
    """Repeats one value of each row ``classes`` times; may be held up by its gate."""

    name, feature_shape, properties = "half", (2,), {}

    def __init__(self, classes=4):
        self.classes = classes
        self.values = []
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def predict(self, features):
        self.entered.set()
        assert self.gate.wait(WAIT_S)
        self.values += features[:, 0].tolist()
        return np.repeat(features[:, :1], self.classes, axis=1)


def request(value):
    tensor = codec.encode(np.full((1, 2), value, np.float32), "fp32")
    return codec.request("half", tensor, request_id=str(value))


def told(response):
    return codec.response_array(response, "logits")[0, 0].item()


@contextlib.contextmanager
def served(half, **settings):
    with cloud(CloudConfig(**settings), half) as port, connect(f"127.0.0.1:{port}", ChannelConfig()) as channel:
        yield port, GRPCInferenceServiceStub(channel)


def until(condition):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_client_that_stops_reading_holds_up_itself_alone():
    half, count = Half(classes=50_000), 200  # answers of 200 kB, of which no window takes all
    with served(half) as (port, other), contextlib.ExitStack() as stack:
        channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}", OWN_CONNECTION))
        stalled = GRPCInferenceServiceStub(channel).ModelStreamInfer(iter(map(request, range(count))), timeout=WAIT_S)
        others, sizes = itertools.count(1000), []
        while len(sizes) < 20 or len(set(sizes[-20:])) > 1:  # until it stands still
            assert told(other.ModelInfer(request(value := next(others)), timeout=WAIT_S)) == value
            sizes.append(sum(each < count for each in half.values))
        assert sizes[-1] < count
        assert [told(each.infer_response) for each in stalled] == list(range(count))


@pytest.mark.slow
def test_200_clients_that_connect_and_say_nothing_leave_room_for_one_that_asks():
    never = threading.Event()
    with (
        served(Half(), server=ServerConfig(limits=Limits(handshake_s=1))) as (port, stub),
        contextlib.ExitStack() as stack,
    ):
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(200)]
        streams = []
        for _ in range(200):
            channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}", OWN_CONNECTION))
            streams.append(GRPCInferenceServiceStub(channel).ModelStreamInfer(iter(never.wait, True)))
        stack.callback(never.set)
        for value in range(20):
            assert told(stub.ModelInfer(request(value), timeout=WAIT_S)) == value
        assert stub.ServerReady(pb.ServerReadyRequest(), timeout=WAIT_S).ready
        answers = stub.ModelStreamInfer(iter(map(request, range(20))), timeout=WAIT_S)
        assert [told(each.infer_response) for each in answers] == list(range(20))
        assert all(stream.is_active() for stream in streams)
        for each in silent:
            each.settimeout(WAIT_S)
            while each.recv(1024):  # the server's settings, and then the end
                pass


def test_more_streams_than_there_is_room_for_are_refused_and_probes_answered():
    never = threading.Event()
    with (
        served(Half(), server=ServerConfig(limits=Limits(streams=10))) as (port, stub),
        contextlib.ExitStack() as stack,
    ):
        stack.callback(never.set)
        channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}"))
        open_stream = GRPCInferenceServiceStub(channel).ModelStreamInfer
        streams = [open_stream(iter(never.wait, True)) for _ in range(40)]
        until(lambda: sum(not stream.is_active() for stream in streams) == 30)
        assert {stream.code() for stream in streams if not stream.is_active()} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert stub.ServerReady(pb.ServerReadyRequest(), timeout=WAIT_S).ready
        assert told(stub.ModelInfer(request(1), timeout=WAIT_S)) == 1


def test_more_calls_than_may_wait_are_refused_at_once_and_the_others_answered():
    half = Half()
    half.gate.clear()
    with served(half, batching=BatchingConfig(max_queue=4, max_batch_size=1)) as (_, stub):
        first = stub.ModelInfer.future(request(0), timeout=WAIT_S)
        assert half.entered.wait(WAIT_S)
        calls = [stub.ModelInfer.future(request(value), timeout=WAIT_S) for value in range(1, 101)]
        until(lambda: sum(call.done() for call in calls) == 96)
        assert stub.ServerReady(pb.ServerReadyRequest(), timeout=WAIT_S).ready
        refused = [call for call in calls if call.done()]
        assert {call.code() for call in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        half.gate.set()
        assert told(first.result(WAIT_S)) == 0
        assert len({told(call.result(WAIT_S)) for call in calls if call not in refused}) == 4
        assert len(half.values) == 5


@pytest.mark.parametrize("streamed", [False, True])
def test_what_expires_in_the_queue_is_not_computed(streamed):
    half = Half()
    half.gate.clear()
    with served(half, in_flight=20) as (_, stub):
        first = stub.ModelInfer.future(request(-1), timeout=WAIT_S)
        assert half.entered.wait(WAIT_S)
        if streamed:
            late = [request(value) for value in range(10)]
            for each in late:
                each.parameters["timeout"].int64_param = 200_000  # microseconds
            answers = list(stub.ModelStreamInfer(iter(late), timeout=WAIT_S))
            assert len(answers) == 10
            assert all(each.error_message.startswith("DEADLINE_EXCEEDED") for each in answers)
        else:
            calls = [stub.ModelInfer.future(request(value), timeout=0.2) for value in range(10)]
            assert {call.exception(WAIT_S).code() for call in calls} == {grpc.StatusCode.DEADLINE_EXCEEDED}
            time.sleep(0.5)  # a request that came late expires for the service after it has for its client
        half.gate.set()
        assert told(first.result(WAIT_S)) == -1
        assert told(stub.ModelInfer(request(99), timeout=WAIT_S)) == 99
    assert half.values == [-1, 99]


SERVE = """
import json, sys, time
from pathlib import Path
from splitleak.cloud.batching import BatchingConfig
from splitleak.cloud.service import CloudConfig, cloud
from splitleak.wire.server.server import run_until_stopped

class Half:
    name, feature_shape, classes, properties = "half", (2,), 4, {}
    def predict(self, features):
        time.sleep(0.02)
        return features[:, [0, 0, 0, 0]]

config = CloudConfig(capture=Path(sys.argv[1]), batching=BatchingConfig(max_batch_size=4))
run_until_stopped(cloud(config, Half()), lambda port: print(port, flush=True))
"""


@pytest.mark.slow
def test_sigterm_under_load_leaves_no_accepted_request_without_its_answer(tmp_path):
    capture, over, answered, codes = tmp_path / "cloud.capture", threading.Event(), queue.Queue(), queue.Queue()
    numbers = itertools.count()
    with contextlib.ExitStack() as stack:
        command = [sys.executable, "-c", SERVE, str(capture)]
        process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
        stack.callback(process.kill)
        address = f"127.0.0.1:{int(process.stdout.readline())}"

        def calls():
            with connect(address, ChannelConfig()) as channel:
                infer = GRPCInferenceServiceStub(channel).ModelInfer
                while not over.is_set():
                    try:
                        answered.put(infer(request(next(numbers)), timeout=WAIT_S).id)
                    except grpc.RpcError as error:
                        codes.put(error.code())
                        return

        def stream():
            with connect(address, ChannelConfig()) as channel:
                requests = (request(next(numbers)) for _ in iter(over.is_set, True))
                answers = GRPCInferenceServiceStub(channel).ModelStreamInfer(requests, timeout=WAIT_S)
                for each in answers:
                    assert not each.error_message
                    answered.put(each.infer_response.id)
                codes.put(answers.code())

        pool = stack.enter_context(ThreadPoolExecutor(12))
        stack.callback(over.set)
        clients = [pool.submit(each) for each in (calls,) * 8 + (stream,) * 4]
        until(lambda: answered.qsize() > 100)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0
        for client in clients:
            client.result(WAIT_S)
    taken = {name for name, _ in captures.inference_requests(captures.read(capture))}
    got = [answered.get() for _ in range(answered.qsize())]
    assert len(got) == len(set(got))
    assert taken == set(got)
    # gRPC itself cancels a call that reaches it while it shuts down; such a call was never accepted.
    refused = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert {codes.get() for _ in range(codes.qsize())} <= {grpc.StatusCode.OK, *refused}


@pytest.mark.slow
def test_a_full_disk_under_the_tap_stops_no_stream_and_the_loss_is_told(tmp_path):
    half, capture = Half(), tmp_path / "tap.capture"
    with cloud(CloudConfig(), half) as port, contextlib.ExitStack() as stack:
        options = ("--upstream", f"127.0.0.1:{port}", "--capture", str(capture), "--listen", "127.0.0.1:0")
        tap = stack.enter_context(service(["tap", *options], tmp_path / "tap.log"))
        address = tap.wait_for("listening", WAIT_S)["address"]
        channel = stack.enter_context(connect(address, ChannelConfig()))
        outbox = queue.SimpleQueue()
        answers = GRPCInferenceServiceStub(channel).ModelStreamInfer(iter(outbox.get, None), timeout=WAIT_S)

        def ask(value):
            outbox.put(request(value))
            return told(next(answers).infer_response)

        assert [ask(value) for value in range(10)] == list(range(10))
        limit = capture.stat().st_size + 200
        resource.prlimit(tap.process.pid, resource.RLIMIT_FSIZE, (limit, limit))
        assert [ask(value) for value in range(10, 60)] == list(range(10, 60))
        outbox.put(None)
        assert list(answers) == []
        tap.process.send_signal(signal.SIGTERM)
        tap.process.wait(WAIT_S)
    kept = [name for name, _ in captures.inference_requests(captures.read(capture))]
    assert kept == [str(value) for value in range(len(kept))]
    assert 10 <= len(kept) < 15
    log = (tmp_path / "tap.log").read_text()
    assert "a message was not captured: [Errno 27] File too large" in log
    lost = 2 * 60 - sum(1 for _ in captures.read(capture))
    assert f"{lost} messages were not captured" in log
