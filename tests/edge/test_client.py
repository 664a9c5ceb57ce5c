import hashlib
import logging
import queue
import socket
import threading
import time

import numpy as np
import pytest

from splitleak.attacker.tap import TapConfig, tap
from splitleak.edge.client import EdgeClient, EdgeConfig
from splitleak.edge.device import EmulatedHalf
from splitleak.edge.profiles import DeviceProfile
from splitleak.wire.client.channel import ChannelConfig
from splitleak.wire.files import captures
from splitleak.wire.protocol import codec
from splitleak.wire.protocol.pb import open_inference_pb2 as pb

IMAGE = np.full((1, 1, 4, 4), 0.5, np.float32)


NAMES = ("good", "bad", "better")


def config(cloud, **options):
    return EdgeConfig(**{"cloud": getattr(cloud, "address", cloud), "model": "toy", **options})


def refuse(text):
    def answer(request):
        if request.id == "bad":
            return pb.ModelStreamInferResponse(error_message=text, infer_response=pb.ModelInferResponse(id="bad"))
        return None

    return answer


@pytest.mark.parametrize(("name", "tolerance"), [("fp32", 0), ("fp16", 2e-3), ("uint8", 2e-2)])
def test_through_a_tap_answers_come_in_order_and_the_capture_holds_the_bytes_sent(
    tmp_path, encoder, start_cloud, batches, name, tolerance
):
    cloud, capture = start_cloud(), tmp_path / "wire.capture"
    with (
        tap(TapConfig(upstream=cloud.address, capture=capture)) as port,
        EdgeClient(encoder, config(f"127.0.0.1:{port}", codec=name)) as client,
    ):
        predictions = list(client.stream(batches(24)))
    assert [each.request_id for each in predictions] == [f"image-{index}" for index in range(24)]
    for sent, prediction in zip(encoder.sent, predictions, strict=True):
        np.testing.assert_allclose(prediction.output, cloud.logits(sent), atol=60 * tolerance + 1e-5)
    seen = list(captures.inference_requests(captures.read(capture)))
    assert [request_id for request_id, _ in seen] == [each.request_id for each in predictions]
    assert [tensor.raw for _, tensor in seen] == [codec.encode(sent, name).raw for sent in encoder.sent]
    assert [hashlib.sha256(tensor.raw).hexdigest() for _, tensor in seen] == [p.payload_sha256 for p in predictions]
    records = [each for each in captures.read(capture) if each.method.endswith("/ModelStreamInfer")]
    lengths = [len(each.message) for each in records if each.direction == "request"]
    assert lengths == [each.sent_bytes for each in predictions]


def test_an_emulated_device_is_slow_to_pack_as_it_is_to_encode(encoder, start_cloud, monkeypatch):
    plain = codec.encode

    def slow(values, name):
        time.sleep(0.02)
        return plain(values, name)

    cloud, device = start_cloud(), DeviceProfile(name="slow", factor=3, threads=1, basis="a test")
    monkeypatch.setattr(codec, "encode", slow)
    with EdgeClient(EmulatedHalf(encoder, device), config(cloud)) as client:
        prediction = client.submit(IMAGE, "one").result(30)
    assert prediction.serialise_us >= 3 * 20_000
    np.testing.assert_allclose(prediction.output, cloud.logits(encoder.sent[0]), atol=1e-5)


def test_the_callers_request_id_arrives_with_its_time_limit(encoder, start_cloud):
    cloud = start_cloud()
    with EdgeClient(encoder, config(cloud)) as client:
        client.submit(IMAGE, "holiday-17", timeout_s=12).result()
    (request,) = cloud.arrived
    assert request.id == "holiday-17"
    assert 11e6 < request.parameters["timeout"].int64_param <= 12e6


def test_the_next_image_is_encoded_while_the_last_travels(encoder, start_cloud, batches, patience_s):
    def until_the_next_is_encoded(request):
        number = int(request.id.split("-")[1]) + 1
        assert number == 6 or encoder.started[number + 1].wait(patience_s)

    cloud = start_cloud(hold=until_the_next_is_encoded)
    with EdgeClient(encoder, config(cloud, window=1)) as client:
        assert len(list(client.stream(batches(6)))) == 6


def test_the_worker_encodes_and_never_the_caller(encoder, start_cloud):
    threads = []
    encoder.hold = lambda run: threads.append(threading.current_thread())
    with EdgeClient(encoder, config(start_cloud())) as client:
        client.submit(IMAGE, "a").result()
    assert threads[0] is not threading.current_thread()


def test_the_window_bounds_what_travels_and_waiting_for_it_is_in_no_duration(encoder, start_cloud, batches, patience_s):
    window, answered, waited_s = 3, [], 0.4

    def hold(request):
        if not answered:
            assert encoder.started[window + 1].wait(patience_s)
            assert not encoder.started[window + 2].wait(waited_s)  # one more is encoded; then the window is full
        answered.append(request.id)

    cloud = start_cloud(hold=hold)
    encoder.hold = lambda run: run <= window + 1 or _wait_until(lambda: len(answered) >= run - window - 1)
    with EdgeClient(encoder, config(cloud, window=window)) as client:
        futures = [client.submit(images, name) for name, images in batches(8)]
        predictions = [each.result() for each in futures]
    assert predictions[0].total_us >= 1e6 * waited_s
    assert max(each.total_us for each in predictions[window:]) < 1e6 * waited_s


def _wait_until(condition):
    while not condition():
        threading.Event().wait(0.001)


def test_durations_add_up_and_the_clouds_are_its_own(encoder, start_cloud):
    with EdgeClient(encoder, config(start_cloud(durations=(11, 13)))) as client:
        started = time.monotonic_ns()
        prediction = client.submit(IMAGE, "a").result()
        whole_us = (time.monotonic_ns() - started) // 1000
    assert (prediction.queue_us, prediction.compute_us) == (11, 13)
    parts = prediction.encode_us + prediction.serialise_us + prediction.network_us + 11 + 13
    assert 0 < prediction.total_us == parts <= whole_us


def test_a_cloud_that_claims_more_time_than_passed_leaves_the_network_none(encoder, start_cloud):
    with EdgeClient(encoder, config(start_cloud(durations=(10**9, 1)))) as client:
        prediction = client.submit(IMAGE, "a").result()
    assert prediction.network_us == 0
    assert prediction.total_us < 10**9


def test_an_unreachable_cloud_is_named(encoder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        short = config(address, channel=ChannelConfig(connect_timeout_s=0.3), patience_s=0.3)
        with pytest.raises(ConnectionError, match=address), EdgeClient(encoder, short):
            pass


def test_a_cloud_that_dies_mid_stream_names_every_image_without_an_answer(encoder, start_cloud, batches, patience_s):
    dying = threading.Event()
    cloud = start_cloud(hold=lambda request: request.id == "image-2" and dying.wait(patience_s))
    with EdgeClient(encoder, config(cloud, window=2, patience_s=0.3)) as client:
        futures = [client.submit(images, name) for name, images in batches(8)]
        assert encoder.started[5].wait(patience_s)  # two answered, two travel, one waits for a slot
        stopped = cloud.server.stop(0)
        errors = [future.exception(patience_s) for future in futures]
        dying.set()
        assert stopped.wait(patience_s)
    assert errors[:2] == [None, None]
    assert [type(error) for error in errors[2:]] == [ConnectionError] * 6
    for index in range(2, 8):
        assert f"'image-{index}'" in str(errors[2])
    assert "'image-1'" not in str(errors[2])


@pytest.mark.parametrize("streams", [True, False])
def test_a_cloud_that_dies_and_comes_back_costs_no_image_and_no_second_encoding(
    encoder, start_cloud, batches, patience_s, streams
):
    dying = threading.Event()
    first = start_cloud(hold=lambda request: request.id == "image-2" and dying.wait(patience_s))
    with EdgeClient(encoder, config(first, window=3, streams=streams)) as client:
        futures = [client.submit(images, name) for name, images in batches(12)]
        assert first.came[3].wait(patience_s)
        stopped = first.server.stop(0)
        _wait_until(lambda: client.outages)
        dying.set()
        assert stopped.wait(patience_s)
        second = start_cloud(address=first.address)
        predictions = [each.result(patience_s) for each in futures]
    assert client.outages >= 1
    assert encoder.runs == 12
    assert [each.request_id for each in predictions] == [f"image-{index}" for index in range(12)]
    for sent, prediction in zip(encoder.sent, predictions, strict=True):
        np.testing.assert_allclose(prediction.output, first.logits(sent), atol=1e-5)
    before = {each.id: each for each in first.arrived}
    again = {each.id: each for each in second.arrived}
    assert {each.request_id for each in predictions if each.sends > 1} & again.keys()
    assert len(again) == len(second.arrived)
    assert all(before[name] == again[name] for name in before.keys() & again.keys())


@pytest.mark.slow
@pytest.mark.parametrize("streams", [True, False])
def test_an_outage_stops_the_clock_of_a_request_unless_its_caller_set_it(encoder, start_cloud, patience_s, streams):
    first, channel = start_cloud(hold=lambda request: stuck.wait(patience_s)), ChannelConfig(timeout_s=1)
    stuck = threading.Event()
    with EdgeClient(encoder, config(first, channel=channel, streams=streams)) as client:
        patient, hasty = client.submit(IMAGE, "patient"), client.submit(IMAGE, "hasty", timeout_s=3)
        assert first.came[1].wait(patience_s)
        stopped = first.server.stop(0)
        with pytest.raises(TimeoutError, match=r"'hasty'.*within 3 s, got none; (UNAVAILABLE|CANCELLED)"):
            hasty.result(patience_s)
        stuck.set()
        assert stopped.wait(patience_s)
        start_cloud(address=first.address)
        assert patient.result(patience_s).request_id == "patient"


@pytest.mark.slow
def test_a_deadline_that_grpc_notices_first_is_told_alike_and_ends_no_outage(
    encoder, start_cloud, patience_s, monkeypatch
):
    expires = EdgeClient._expires
    monkeypatch.setattr(EdgeClient, "_expires", lambda self, request: expires(self, request) + 0.5)  # a busy machine
    first, channel = start_cloud(hold=lambda request: stuck.wait(patience_s)), ChannelConfig(timeout_s=0.1)
    stuck = threading.Event()
    with EdgeClient(encoder, config(first, channel=channel, streams=False)) as client:
        patient = client.submit(IMAGE, "patient")
        assert first.came[1].wait(patience_s)
        stopped = first.server.stop(0)
        hasty = client.submit(IMAGE, "hasty", timeout_s=0.5)
        with pytest.raises(TimeoutError, match=r"'hasty'.*within 0.5 s, got none"):
            hasty.result(patience_s)
        stuck.set()
        assert stopped.wait(patience_s)
        time.sleep(0.8)
        assert not patient.done()
        start_cloud(address=first.address)
        assert patient.result(patience_s).request_id == "patient"


@pytest.mark.slow
def test_a_request_is_not_late_while_others_are_answered_unless_its_caller_said_when(encoder, start_cloud, batches):
    cloud = start_cloud(hold=lambda request: threading.Event().wait(0.15))
    with EdgeClient(encoder, config(cloud, channel=ChannelConfig(timeout_s=0.6))) as client:
        futures = [client.submit(images, name) for name, images in batches(8)]
        hasty = client.submit(IMAGE, "hasty", timeout_s=0.6)
        with pytest.raises(TimeoutError, match="'hasty'"):
            hasty.result()
        assert [each.result().request_id for each in futures] == [f"image-{index}" for index in range(8)]
    assert {each.parameters["timeout"].int64_param for each in cloud.arrived if each.id != "hasty"} == {600_000}


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("code", ["RESOURCE_EXHAUSTED", "UNAVAILABLE"])
def test_a_request_that_is_refused_for_now_is_sent_again_and_holds_up_no_other(encoder, start_cloud, streams, code):
    refusals = []

    def busy(request):
        if request.id == "a" and len(refusals) < 3:
            refusals.append(request)
            return pb.ModelStreamInferResponse(
                error_message=f"{code}: no room", infer_response=pb.ModelInferResponse(id="a")
            )
        return None

    cloud = start_cloud(hold=busy)
    with EdgeClient(encoder, config(cloud, streams=streams, channel=ChannelConfig(attempts=2))) as client:
        futures = [client.submit(IMAGE, name) for name in "ab"]
        assert [each.result().request_id for each in futures] == ["a", "b"]
        assert futures[0].result().sends > 1
    assert all(each == refusals[0] for each in refusals)


def test_a_cloud_that_comes_back_without_its_model_fails_the_request_and_the_outage_is_over(
    encoder, start_cloud, patience_s
):
    first = start_cloud(hold=lambda request: stuck.wait(patience_s))
    stuck = threading.Event()
    with EdgeClient(encoder, config(first)) as client:
        future = client.submit(IMAGE, "bad")
        assert first.came[1].wait(patience_s)
        stopped = first.server.stop(0)
        _wait_until(lambda: client.outages)
        stuck.set()
        assert stopped.wait(patience_s)
        start_cloud(address=first.address, hold=refuse("NOT_FOUND: gone"))
        with pytest.raises(LookupError, match="gone"):
            future.result(patience_s)
        with pytest.raises(TimeoutError, match=r"got none$"):
            client.submit(IMAGE, "late", timeout_s=0).result(patience_s)


def test_a_server_without_the_stream_gets_single_calls(encoder, start_cloud, batches):
    cloud = start_cloud(streams=False)
    with EdgeClient(encoder, config(cloud, window=3)) as client:
        predictions = list(client.stream(batches(9)))
        late = client.submit(IMAGE, "slow", timeout_s=7).result()
    assert [each.request_id for each in predictions] == [f"image-{index}" for index in range(9)]
    assert late.request_id == "slow"
    for sent, prediction in zip(encoder.sent, predictions, strict=False):
        np.testing.assert_allclose(prediction.output, cloud.logits(sent), atol=1e-5)
    assert set(cloud.methods) == {"unary"}
    assert len(cloud.arrived) == 10
    assert cloud.timeouts[-1] < 7.1


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("INVALID_ARGUMENT: expected tea", ValueError),
        ("NOT_FOUND: expected tea", LookupError),
        ("RESOURCE_EXHAUSTED: expected tea", queue.Full),
        ("UNAVAILABLE: expected tea", ConnectionError),
        ("expected tea", RuntimeError),
    ],
)
def test_a_refused_request_fails_alone_and_the_stream_goes_on(encoder, start_cloud, text, kind):
    with EdgeClient(encoder, config(start_cloud(hold=refuse(text)))) as client:
        futures = [client.submit(IMAGE, name, timeout_s=0.3 if name == "bad" else None) for name in NAMES]
        assert type(futures[1].exception()) is kind
        assert "'bad'" in str(futures[1].exception())
        assert "expected tea" in str(futures[1].exception())
        assert futures[2].result().request_id == "better"


def test_one_id_used_twice_gets_two_answers(encoder, start_cloud):
    cloud = start_cloud()
    with EdgeClient(encoder, config(cloud)) as client:
        futures = [client.submit(np.full_like(IMAGE, value), "same") for value in (0.25, 0.75)]
        for future, sent in zip(futures, [f.result() and encoder.sent[i] for i, f in enumerate(futures)], strict=True):
            np.testing.assert_allclose(future.result().output, cloud.logits(sent), atol=1e-5)


@pytest.mark.parametrize("name", ["same", ""])
def test_of_two_requests_of_one_id_each_gets_its_answer_though_the_first_was_refused_for_now(
    encoder, start_cloud, patience_s, name
):
    cloud = start_cloud()

    def busy(request):
        if len(cloud.arrived) == 1:
            refused = pb.ModelInferResponse(id=request.id)
            return pb.ModelStreamInferResponse(error_message="RESOURCE_EXHAUSTED: no room", infer_response=refused)
        if len(cloud.arrived) == 2:
            _wait_until(lambda: any(each.sends > 1 for each in client._uplink.unanswered()))
        return None

    cloud.hold = busy
    with EdgeClient(encoder, config(cloud)) as client:
        futures = [client.submit(np.full_like(IMAGE, value), name) for value in (0.25, 0.75)]
        outputs = [each.result(patience_s).output for each in futures]
    for output, sent in zip(outputs, encoder.sent, strict=True):
        np.testing.assert_allclose(output, cloud.logits(sent), atol=1e-5)


def test_an_answer_to_nobody_is_dropped(encoder, start_cloud, caplog):
    cloud = start_cloud()

    def someone_elses_first(request):
        answer = cloud.answer(request)
        answer.id = "stranger"
        return pb.ModelStreamInferResponse(infer_response=answer) if request.id == "a" else None

    cloud.hold = someone_elses_first
    with caplog.at_level(logging.WARNING), EdgeClient(encoder, config(cloud)) as client:
        lost = client.submit(IMAGE, "a", timeout_s=0.3)
        assert client.submit(IMAGE, "b").result().request_id == "b"
        with pytest.raises(TimeoutError, match=r"'a'.*within 0\.3 s"):
            lost.result()
    assert "stranger" in caplog.text


def test_an_answer_of_another_shape_is_refused(encoder, start_cloud):
    cloud = start_cloud()

    def half_an_answer(request):
        answer = cloud.answer(request)
        answer.outputs[0].shape[:] = [3, 1]
        return pb.ModelStreamInferResponse(infer_response=answer)

    cloud.hold = half_an_answer
    with EdgeClient(encoder, config(cloud)) as client, pytest.raises(ValueError, match=r"\(1, 3\), got \(3, 1\)"):
        client.submit(IMAGE, "a").result()


def test_a_cloud_that_goes_silent_times_out_and_a_fresh_stream_follows(encoder, start_cloud, patience_s):
    silent = threading.Event()
    cloud = start_cloud(hold=lambda request: request.id == "lost" and silent.wait(patience_s))
    with EdgeClient(encoder, config(cloud, window=1)) as client:
        with pytest.raises(TimeoutError, match="'lost'"):
            client.submit(IMAGE, "lost", timeout_s=0.2).result()
        assert client.submit(IMAGE, "next", timeout_s=patience_s / 2).result().request_id == "next"
        silent.set()


def test_no_patience_is_longer_than_a_thread_can_wait():
    with pytest.raises(ValueError, match=r"patience_s: .*less than or equal to 2000000"):
        EdgeConfig.parse({"cloud": "127.0.0.1:1", "model": "toy", "patience_s": 1e10}, source="edge")


def test_requests_beyond_the_queue_are_refused_at_once(encoder, start_cloud, patience_s):
    go = threading.Event()
    encoder.hold = lambda run: go.wait(patience_s)
    with EdgeClient(encoder, config(start_cloud(), max_queue=2)) as client:
        futures = [client.submit(IMAGE, name) for name in "ab"]
        with pytest.raises(queue.Full, match="2"):
            client.submit(IMAGE, "c")
        go.set()
        assert [each.result().request_id for each in futures] == ["a", "b"]


def test_a_request_that_was_cancelled_takes_no_room_in_the_queue(encoder, start_cloud, patience_s):
    go = threading.Event()
    encoder.hold = lambda run: go.wait(patience_s)
    with EdgeClient(encoder, config(start_cloud(), max_queue=3)) as client:
        first, *gone = (client.submit(IMAGE, name) for name in "abc")
        assert encoder.started[1].wait(patience_s)
        assert [each.cancel() for each in (first, *gone)] == [False, True, True]
        futures = [client.submit(IMAGE, name) for name in "de"]
        with pytest.raises(queue.Full, match="3"):
            client.submit(IMAGE, "f")
        go.set()
        assert [each.result(patience_s).request_id for each in (first, *futures)] == ["a", "d", "e"]
    assert encoder.runs == 3


@pytest.mark.parametrize(("window", "max_queue"), [(8, 1), (30, 4), (1024, 128)])
def test_a_stream_waits_for_a_slow_encoder_whatever_its_window(encoder, start_cloud, batches, window, max_queue):
    encoder.hold = lambda run: threading.Event().wait(0.001)
    with EdgeClient(encoder, config(start_cloud(), window=window, max_queue=max_queue)) as client:
        names = [each.request_id for each in client.stream(batches(150))]
    assert names == [f"image-{index}" for index in range(150)]


def test_a_cancelled_request_is_never_encoded_or_sent(encoder, start_cloud, patience_s):
    go, cloud = threading.Event(), start_cloud()
    encoder.hold = lambda run: go.wait(patience_s)
    with EdgeClient(encoder, config(cloud)) as client:
        client.submit(IMAGE, "first")
        assert encoder.started[1].wait(patience_s)
        assert client.submit(IMAGE, "regretted").cancel()
        last = client.submit(IMAGE, "last")
        go.set()
        last.result()
    assert [each.id for each in cloud.arrived] == ["first", "last"]


def test_an_encoder_that_fails_fails_only_that_request(encoder, start_cloud):
    def stumble(run):
        if run == 1:
            raise ArithmeticError("expected luck")

    encoder.hold = stumble
    with EdgeClient(encoder, config(start_cloud())) as client:
        futures = [client.submit(IMAGE, name) for name in "ab"]
        assert isinstance(futures[0].exception(), ArithmeticError)
        assert futures[1].result().request_id == "b"


def test_a_message_over_the_limit_is_refused_before_it_is_sent(encoder, start_cloud):
    channel = ChannelConfig(max_message_bytes=200)
    with EdgeClient(encoder, config(start_cloud(), channel=channel)) as client:
        error = client.submit(np.repeat(IMAGE, 2, axis=0), "a").exception()
    assert isinstance(error, ValueError)
    assert "at most 200 bytes, got" in str(error)


def test_leaving_the_block_waits_for_what_is_under_way(encoder, start_cloud, batches):
    cloud = start_cloud()
    with EdgeClient(encoder, config(cloud)) as client:
        futures = [client.submit(images, name) for name, images in batches(6)]
    assert [each.result(0).request_id for each in futures] == [f"image-{index}" for index in range(6)]
    with pytest.raises(RuntimeError, match="closed"):
        client.submit(IMAGE, "late")


def test_leaving_the_block_by_an_error_fails_what_is_under_way_at_once(encoder, start_cloud, batches, patience_s):
    stuck = threading.Event()
    cloud = start_cloud(hold=lambda request: stuck.wait(patience_s))
    futures = []

    def interrupted():
        with EdgeClient(encoder, config(cloud, window=2)) as client:
            futures.extend(client.submit(images, name) for name, images in batches(6))
            assert cloud.came[1].wait(patience_s)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    for future in futures:
        with pytest.raises(ConnectionError, match="'image-5'"):
            future.result(0)
    stuck.set()


def test_the_first_failure_ends_the_iteration_and_drops_the_rest(encoder, start_cloud, batches):
    cloud = start_cloud(hold=refuse("NOT_FOUND: gone"))
    images = [("good", IMAGE), ("bad", IMAGE), *batches(50)]
    with EdgeClient(encoder, config(cloud, window=2)) as client:
        answers = client.stream(images)
        assert next(answers).request_id == "good"
        with pytest.raises(LookupError, match="'bad'"):
            next(answers)
    assert len(cloud.arrived) < 10


def test_a_model_the_cloud_does_not_have_is_named_at_the_start(encoder, start_cloud):
    other = config(start_cloud(), model="other")
    with pytest.raises(LookupError, match="'other'"), EdgeClient(encoder, other):
        pass


def test_a_half_that_does_not_fit_the_clouds_is_refused_at_the_start(encoder, start_cloud):
    encoder.feature_shape = (7, 4, 4)
    with (
        pytest.raises(ValueError, match=r"\(7, 4, 4\), got \(2, 4, 4\)"),
        EdgeClient(encoder, config(start_cloud())),
    ):
        pass


def test_images_that_do_not_fit_are_refused_by_the_caller_s_own_call(encoder, start_cloud):
    with EdgeClient(encoder, config(start_cloud())) as client, pytest.raises(ValueError, match=r"\(N, 1, 4, 4\)"):
        client.submit(IMAGE[0], "a")


def test_no_thread_is_left_behind(encoder, start_cloud, batches):
    before = set(threading.enumerate())
    with EdgeClient(encoder, config(start_cloud())) as client:
        list(client.stream(batches(3)))
    mine = [each for each in set(threading.enumerate()) - before if each.name.startswith("edge-")]
    assert mine == []
