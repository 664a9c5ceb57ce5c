import contextlib
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitleak.attacker.tap import TapConfig, relayed_timeout, tap
from splitleak.wire.files import captures

PATIENCE_S = 20.0
CENTURY_S = 3e9


class Upstream(grpc.GenericRpcHandler):
    """A real server of raw bytes; what its handlers saw lands in ``seen``."""

    def __init__(self):
        self.seen = queue.Queue()
        self.ended = threading.Event()
        self.handlers = {
            "/toy/Echo": grpc.unary_unary_rpc_method_handler(self.echo),
            "/toy/Refuse": grpc.unary_unary_rpc_method_handler(self.refuse),
            "/toy/Stream": grpc.stream_stream_rpc_method_handler(self.stream),
            "/toy/Hang": grpc.stream_stream_rpc_method_handler(self.hang),
        }

    def service(self, handler_call_details):
        return self.handlers.get(handler_call_details.method)

    def echo(self, message, context):
        self.seen.put((dict(context.invocation_metadata()), context.time_remaining()))
        context.send_initial_metadata((("first", "1"), ("first-bin", b"\x00\xff")))
        context.set_trailing_metadata((("last", "2"), ("last-bin", b"\x01\xfe")))
        return message

    def refuse(self, message, context):
        context.set_trailing_metadata((("why", "because"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "expected tea, got coffee: ü")

    def stream(self, messages, context):
        """Answers each message twice, and says goodbye after the client's half-close."""
        for message in messages:
            yield message
            yield message.upper()
        yield b"bye"

    def hang(self, messages, context):
        context.add_callback(self.ended.set)
        yield b"here"
        for message in messages:
            self.seen.put(message)
        self.ended.wait(2 * PATIENCE_S)


@contextlib.contextmanager
def serving(handler):
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


class Tapped:
    def __init__(self, upstream, channel, capture):
        self.upstream, self.channel, self.capture = upstream, channel, capture

    def unary(self, method, message=b"hello", **options):
        return self.channel.unary_unary(method).with_call(message, **{"timeout": PATIENCE_S, **options})

    def stream(self, method, messages, **options):
        return self.channel.stream_stream(method)(messages, **{"timeout": PATIENCE_S, **options})

    def records(self):
        return [(each.call, each.direction, each.message) for each in captures.read(self.capture)]


@pytest.fixture
def tapped(tmp_path):
    upstream = Upstream()
    with (
        serving(upstream) as address,
        tap(TapConfig(upstream=address, capture=tmp_path / "wire.capture")) as port,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield Tapped(upstream, channel, tmp_path / "wire.capture")


def test_a_unary_call_passes_with_its_metadata_both_ways(tapped):
    answer, call = tapped.unary("/toy/Echo", metadata=(("who", "me"), ("who-bin", b"\x00\x80")))
    metadata, _ = tapped.upstream.seen.get(timeout=PATIENCE_S)
    assert answer == b"hello"
    assert metadata["who"] == "me"
    assert metadata["who-bin"] == b"\x00\x80"
    assert dict(call.initial_metadata()) == {"first": "1", "first-bin": b"\x00\xff"}
    assert dict(call.trailing_metadata()) == {"last": "2", "last-bin": b"\x01\xfe"}


def test_an_empty_message_is_a_message(tapped):
    assert tapped.unary("/toy/Echo", b"")[0] == b""
    assert tapped.records() == [(0, "request", b""), (0, "response", b"")]


def test_a_stream_passes_with_its_half_close_and_every_message_is_captured_in_order(tapped):
    outbox = queue.SimpleQueue()
    answers = tapped.stream("/toy/Stream", iter(outbox.get, None))
    expected = []
    for message in (b"a", b"b", b"c"):
        outbox.put(message)
        assert [next(answers), next(answers)] == [message, message.upper()]
        expected += [(0, "request", message), (0, "response", message), (0, "response", message.upper())]
    outbox.put(None)
    assert list(answers) == [b"bye"]
    assert answers.code() is grpc.StatusCode.OK
    assert tapped.records() == [*expected, (0, "response", b"bye")]


def test_calls_at_the_same_time_keep_their_messages_apart_in_the_capture(tapped):
    messages = [[b"%d-%d" % (caller, index) for index in range(20)] for caller in range(4)]
    with ThreadPoolExecutor(4) as callers:
        answers = list(callers.map(lambda own: list(tapped.stream("/toy/Stream", iter(own))), messages))
    by_call = {}
    for call, direction, message in tapped.records():
        by_call.setdefault(call, {"request": [], "response": []})[direction].append(message)
    assert sorted(each["request"] for each in by_call.values()) == sorted(messages)
    assert sorted(each["response"] for each in by_call.values()) == sorted(answers)


def test_an_error_passes_with_code_details_and_trailing_metadata(tapped):
    with pytest.raises(grpc.RpcError) as caught:
        tapped.unary("/toy/Refuse")
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "expected tea, got coffee: ü"
    assert dict(caught.value.trailing_metadata()) == {"why": "because"}


def test_an_unknown_method_is_refused_by_the_cloud_and_not_by_the_tap(tapped):
    with pytest.raises(grpc.RpcError) as caught:
        tapped.unary("/nobody/Knows")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("timeout_s", [0.873, 1.001, 10.0, 12.34])
def test_the_cloud_is_given_no_more_time_than_the_client_gave(tapped, timeout_s):
    tapped.unary("/toy/Echo", timeout=timeout_s)
    _, remaining_s = tapped.upstream.seen.get(timeout=PATIENCE_S)
    assert 0.5 * timeout_s < remaining_s <= timeout_s


def test_without_a_deadline_the_cloud_sees_none(tapped):
    tapped.unary("/toy/Echo", timeout=None)
    assert tapped.upstream.seen.get(timeout=PATIENCE_S)[1] > CENTURY_S


def test_a_deadline_that_passes_ends_the_call_on_both_sides(tapped):
    with pytest.raises(grpc.RpcError) as caught:
        list(tapped.stream("/toy/Hang", iter([b"x"]), timeout=0.5))
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert tapped.upstream.ended.wait(PATIENCE_S)


def test_a_client_that_cancels_reaches_the_cloud(tapped):
    outbox = queue.SimpleQueue()
    answers = tapped.stream("/toy/Hang", iter(outbox.get, None), timeout=10 * PATIENCE_S)
    outbox.put(b"one")
    assert next(answers) == b"here"
    assert tapped.upstream.seen.get(timeout=PATIENCE_S) == b"one"
    answers.cancel()
    outbox.put(None)
    assert tapped.upstream.ended.wait(PATIENCE_S)
    assert tapped.unary("/toy/Echo")[0] == b"hello"


@pytest.mark.slow
def test_with_the_cloud_down_calls_are_unavailable_until_it_is_up_again(tmp_path):
    upstream = Upstream()
    with serving(upstream) as address:
        pass
    with (
        tap(TapConfig(upstream=address, capture=tmp_path / "wire.capture")) as port,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/toy/Echo")(b"x", timeout=PATIENCE_S)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert address in caught.value.details()
        server = grpc.server(ThreadPoolExecutor(2))
        server.add_generic_rpc_handlers((upstream,))
        server.add_insecure_port(address)
        server.start()
        try:
            assert _until_available(channel.unary_unary("/toy/Echo")) == b"x"
        finally:
            server.stop(0).wait()


def _until_available(call):
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return call(b"x", timeout=PATIENCE_S)
        except grpc.RpcError:
            if time.monotonic() > deadline:
                raise


def test_a_second_tap_appends_to_the_capture_of_the_first(tmp_path):
    upstream, capture = Upstream(), tmp_path / "wire.capture"
    with serving(upstream) as address:
        for message in (b"one", b"two"):
            with (
                tap(TapConfig(upstream=address, capture=capture)) as port,
                grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
            ):
                channel.unary_unary("/toy/Echo")(message, timeout=PATIENCE_S)
    records = list(captures.read(capture))
    assert [each.message for each in records] == [b"one", b"one", b"two", b"two"]
    first, answer, second, last = (each.call for each in records)
    assert first == answer != second == last


def test_traffic_goes_on_where_the_capture_ends(tmp_path):
    upstream, capture = Upstream(), tmp_path / "wire.capture"
    with (
        serving(upstream) as address,
        tap(TapConfig(upstream=address, capture=capture, max_bytes=5000)) as port,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        for number in range(20):
            assert channel.unary_unary("/toy/Echo")(bytes([number] * 300), timeout=PATIENCE_S) == bytes([number] * 300)
    kept = [each.message[0] for each in captures.read(capture)]
    assert kept == [number // 2 for number in range(len(kept))]
    assert 8 < len(kept) < 15
    assert capture.stat().st_size <= 5000


def test_a_tap_on_a_capture_that_another_tap_writes_is_refused(tapped):
    config = TapConfig(upstream="127.0.0.1:1", capture=tapped.capture)
    with pytest.raises(OSError, match="only writer"), tap(config):
        pass


@settings(max_examples=30)
@given(remaining_s=st.floats(0.002, 1e6))
def test_a_relayed_timeout_is_shorter_by_little_more_than_a_hundredth(remaining_s):
    relayed = relayed_timeout(remaining_s)
    assert 0 <= relayed < remaining_s
    assert remaining_s - relayed <= 0.01 * remaining_s + 0.0031
