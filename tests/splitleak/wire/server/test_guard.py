"""Strangers and too much are refused before a message is read; what is let in is served as without a guard."""

import contextlib
import queue
import threading
import time
import types
import weakref
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from splitleak.wire.client.channel import ChannelConfig, connect
from splitleak.wire.security import TlsClientConfig, TlsServerConfig, Tokens, make_token, read_token
from splitleak.wire.server import guard as guard_module
from splitleak.wire.server.guard import Guard, Limits, _Client
from splitleak.wire.server.health import Health
from splitleak.wire.server.server import ServerConfig, serve

WAIT_S = 10
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class Toy(grpc.GenericRpcHandler):
    """One method of each kind, which echoes; the two that hold wait for the gate."""

    def __init__(self):
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.received = threading.Semaphore(0)  # messages of a stream
        self.handlers = {
            "/toy/unary_unary": grpc.unary_unary_rpc_method_handler(lambda message, context: message),
            "/toy/unary_stream": grpc.unary_stream_rpc_method_handler(lambda message, context: iter([message] * 2)),
            "/toy/stream_unary": grpc.stream_unary_rpc_method_handler(
                lambda messages, context: b"".join(self.seen(messages))
            ),
            "/toy/stream_stream": grpc.stream_stream_rpc_method_handler(lambda messages, context: self.seen(messages)),
            "/toy/hold": grpc.unary_unary_rpc_method_handler(self.hold),
            "/toy/hold_stream": grpc.stream_stream_rpc_method_handler(self.hold_stream),
        }

    def service(self, details):
        return self.handlers.get(details.method)

    def hold(self, message, context):
        context.add_callback(self.gate.set)
        self.entered.release()
        assert self.gate.wait(WAIT_S)
        return message

    def seen(self, messages):
        for message in messages:
            self.received.release()
            yield message

    def hold_stream(self, messages, context):
        self.entered.release()
        yield from messages

    def add(self, server):
        server.add_generic_rpc_handlers((self,))
        health_pb2_grpc.add_HealthServicer_to_server(Health(()), server)
        reflection.enable_server_reflection((), server)


@contextlib.contextmanager
def toy(config=None, client=None):
    served = Toy()
    with (
        serve(served.add, config or ServerConfig()) as port,
        connect(f"127.0.0.1:{port}", client or ChannelConfig()) as channel,
    ):
        served.port = port
        yield served, channel
        served.gate.set()


@pytest.fixture
def keys(tmp_path):
    """Two clients' token files, and what the server knows of them."""
    for client in ("one", "two"):
        make_token(client, tmp_path / "tokens.json", tmp_path / f"{client}.token")
    return tmp_path


def call(channel, kind, messages=(b"a",), **options):
    given = iter(messages) if kind.startswith("stream") else messages[0]
    answer = getattr(channel, kind)(f"/toy/{kind}")(given, timeout=WAIT_S, **options)
    return list(answer) if kind.endswith("_stream") else answer


def bearer(keys, client):
    return (("authorization", f"bearer {read_token(keys / f'{client}.token')}"),)


EXPECTED = {"unary_unary": b"a", "unary_stream": [b"a", b"a"], "stream_unary": b"ab", "stream_stream": [b"a", b"b"]}


EXPECTED_OF_ONE = {"unary_unary": b"a", "unary_stream": [b"a"] * 2, "stream_unary": b"a", "stream_stream": [b"a"]}


def test_every_kind_of_method_passes():
    with toy() as (_, channel):
        assert {kind: call(channel, kind, (b"a", b"b")) for kind in KINDS} == EXPECTED


def test_a_client_with_a_token_is_served_and_one_without_is_not(keys):
    config = ServerConfig(tokens_file=keys / "tokens.json")
    with toy(config, ChannelConfig(token_file=keys / "one.token")) as (_, channel):
        assert {kind: call(channel, kind, (b"a", b"b")) for kind in KINDS} == EXPECTED
    with toy(config) as (_, channel):
        for kind in KINDS:
            with pytest.raises(grpc.RpcError, match=r"got none") as caught:
                call(channel, kind)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_whatever_is_not_the_token_is_refused_and_not_repeated(keys):
    word = read_token(keys / "one.token")
    shown = ["", "Bearer", "Bearer ", f"Basic {word}", word, f"Bearer {word}x", f"Bearer x{word}", f"Bearer  {word}"]
    with toy(ServerConfig(tokens_file=keys / "tokens.json")) as (_, channel):
        for each in shown:
            with pytest.raises(grpc.RpcError, match=r"got another") as caught:
                call(channel, "unary_unary", metadata=(("authorization", each),))
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert word not in caught.value.details()


def test_health_and_reflection_are_behind_the_token_too(keys):
    with toy(ServerConfig(tokens_file=keys / "tokens.json")) as (_, channel):
        health = health_pb2_grpc.HealthStub(channel)
        for probe in (health.Check, lambda *given, **kept: list(health.Watch(*given, **kept))):
            with pytest.raises(grpc.RpcError) as caught:
                probe(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_stranger_is_refused_before_it_has_sent_anything(keys):
    with toy(ServerConfig(tokens_file=keys / "tokens.json")) as (_, channel):
        never = threading.Event()
        with pytest.raises(grpc.RpcError) as caught:
            channel.stream_unary("/toy/unary_unary")(iter(lambda: never.wait(WAIT_S), None), timeout=WAIT_S)
        never.set()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_call_above_the_limit_is_refused_and_a_probe_is_still_answered():
    with toy(ServerConfig(limits=Limits(calls=2))) as (served, channel):
        held = [channel.unary_unary("/toy/hold").future(b"a", timeout=WAIT_S) for _ in range(2)]
        for _ in held:
            assert served.entered.acquire(timeout=WAIT_S)
        with pytest.raises(grpc.RpcError, match="expected at most 2 calls at once, got one more") as caught:
            call(channel, "unary_unary")
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=WAIT_S).status == 1
        served.gate.set()
        assert [each.result(WAIT_S) for each in held] == [b"a", b"a"]
        assert call(channel, "unary_unary") == b"a"


def test_one_clients_streams_leave_room_for_anothers(keys):
    config = ServerConfig(tokens_file=keys / "tokens.json", limits=Limits(streams=9, streams_per_client=3))
    silent = threading.Event()
    with toy(config) as (served, channel):
        shown = {client: {"metadata": bearer(keys, client)} for client in ("one", "two")}
        held = []
        for _ in range(3):
            waits = iter(lambda: silent.wait(WAIT_S), True)
            held.append(channel.stream_stream("/toy/hold_stream")(waits, **shown["one"]))
            assert served.entered.acquire(timeout=WAIT_S)
        with pytest.raises(grpc.RpcError, match="at most 3 streams of one client at once"):
            call(channel, "stream_stream", **shown["one"])
        assert call(channel, "stream_stream", **shown["two"]) == [b"a"]
        silent.set()


def test_a_stream_that_ended_makes_room():
    with toy(ServerConfig(limits=Limits(streams=1))) as (_, channel):
        for _ in range(20):
            assert call(channel, "stream_stream") == [b"a"]


def test_a_call_above_the_rate_is_told_when_to_try_again():
    limits = Limits(requests_per_s=0.01, burst=3)
    with toy(ServerConfig(limits=limits)) as (_, channel):
        assert [call(channel, "unary_unary") for _ in range(3)] == [b"a"] * 3
        with pytest.raises(grpc.RpcError, match=r"expected at most 0.01 requests a second") as caught:
            call(channel, "unary_unary")
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        hint = dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"]
        assert 90_000 < int(hint) <= 100_001


def test_a_stream_above_the_rate_is_held_up_and_loses_nothing():
    messages = [b"%d" % number for number in range(12)]
    with toy(ServerConfig(limits=Limits(requests_per_s=50, burst=2))) as (_, channel):
        started = time.monotonic()
        assert call(channel, "stream_stream", messages) == messages
        assert time.monotonic() - started > 0.9 * (len(messages) - 2) / 50


def test_the_rate_is_each_clients_own(keys):
    config = ServerConfig(tokens_file=keys / "tokens.json", limits=Limits(requests_per_s=0.01, burst=1))
    with toy(config) as (_, channel):
        for client in ("one", "two"):
            assert call(channel, "unary_unary", metadata=bearer(keys, client)) == b"a"
            with pytest.raises(grpc.RpcError, match="requests a second"):
                call(channel, "unary_unary", metadata=bearer(keys, client))


@pytest.mark.slow
def test_a_call_that_never_sends_its_message_is_cut_off_when_others_come():
    limits = Limits(message_s=0.01)
    with toy(ServerConfig(limits=limits)) as (_, channel):
        never = threading.Event()
        silent = channel.stream_unary("/toy/unary_unary").future(iter(lambda: never.wait(WAIT_S), None))
        deadline = time.monotonic() + WAIT_S
        while not silent.done() and time.monotonic() < deadline:
            call(channel, "unary_unary")
        never.set()
        assert silent.code() is grpc.StatusCode.CANCELLED


def test_a_call_without_a_message_is_an_invalid_one():
    with toy() as (_, channel):
        with pytest.raises(grpc.RpcError, match="expected one message, got none") as caught:
            channel.stream_unary("/toy/unary_unary")(iter(()), timeout=WAIT_S)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_bytes_that_are_no_message_are_invalid_in_every_kind_of_method():
    with toy() as (_, channel):
        for method in ("Check", "Watch"):
            with pytest.raises(grpc.RpcError, match="expected a message of the protocol, got 2 bytes") as caught:
                list(channel.unary_stream(f"/grpc.health.v1.Health/{method}")(b"\xff\xff", timeout=WAIT_S))
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def wait_for(condition):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def own_connection(port):
    return grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)])


@pytest.mark.parametrize("kind", ["stream_stream", "stream_unary", "unary_unary"])
def test_the_idle_calls_of_one_connection_leave_room_for_others(kind):
    never = threading.Event()
    limits = Limits(calls=16, streams=16)
    with toy(ServerConfig(limits=limits)) as (served, channel):
        if kind.endswith("unary"):
            method = channel.stream_unary(f"/toy/{kind}").future
        else:
            method = channel.stream_stream(f"/toy/{kind}")
        held = [method(iter(never.wait, True)) for _ in range(40)]
        wait_for(lambda: sum(each.done() for each in held) == 32)
        with own_connection(served.port) as other:
            assert call(other, kind) == EXPECTED_OF_ONE[kind]
        never.set()


def test_idle_reflection_and_health_streams_do_not_count_as_inference():
    never = threading.Event()
    with serve(Toy().add, ServerConfig(limits=Limits(calls=16, streams=16))) as port, contextlib.ExitStack() as stack:
        stack.callback(never.set)
        for _ in range(5):
            channel = stack.enter_context(own_connection(port))
            for _ in range(30):
                ServerReflectionStub(channel).ServerReflectionInfo(iter(never.wait, True))
                health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        with own_connection(port) as other:
            assert [call(other, kind) for _ in range(3) for kind in KINDS] == [
                EXPECTED_OF_ONE[kind] for kind in KINDS
            ] * 3
            assert health_pb2_grpc.HealthStub(other).Check(health_pb2.HealthCheckRequest(), timeout=WAIT_S)


@pytest.mark.parametrize("kind", ["stream_stream", "stream_unary"])
def test_a_stream_is_ended_once_it_is_idle_and_no_sooner(kind, monkeypatch):
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(guard_module, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(guard_module, "_SWEEP_S", 0.005)
    with toy(ServerConfig(limits=Limits(streams=1, stream_idle_s=300))) as (served, channel):
        outbox = queue.SimpleQueue()
        method = getattr(channel, kind)(f"/toy/{kind}")
        stream = method.future(iter(outbox.get, None)) if kind == "stream_unary" else method(iter(outbox.get, None))
        for _ in range(10):  # never silent for as long
            outbox.put(b"a")
            assert served.received.acquire(timeout=WAIT_S)
            clock.now += 200
            time.sleep(0.02)  # for some sweeps
            assert not stream.done()
        clock.now += 200
        with pytest.raises(grpc.RpcError) as caught:
            list(stream) if kind == "stream_stream" else stream.result(WAIT_S)
        assert caught.value.code() is grpc.StatusCode.CANCELLED
        assert answered_once_free(channel, kind) == EXPECTED_OF_ONE[kind]
        outbox.put(None)


def answered_once_free(channel, kind):
    """The answer, once the place of a stream that has ended is free: its client hears of the end a little earlier."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            return call(channel, kind)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def test_a_streams_message_is_let_go_while_the_next_is_waited_for():
    """The handler alone holds it: what it refuses is freed at once."""

    class Message:
        pass

    raw = [Message(), Message()]
    known = [weakref.ref(message) for message in raw]
    guard = Guard(Limits())
    handler = types.SimpleNamespace(request_deserializer=None)
    idle = types.SimpleNamespace(since=0.0, context=None)
    messages = guard._messages(handler, iter(raw.pop, None), _Client(1.0, 0.0), idle)
    received = next(messages)
    assert known[1]() is received
    del received
    assert known[1]() is None
    messages.close()


@pytest.mark.slow
def test_a_client_that_went_away_is_forgotten(keys):
    guard = Guard(Limits(requests_per_s=1000, burst=1), Tokens.read(keys / "tokens.json"))
    server = grpc.server(ThreadPoolExecutor(4), interceptors=(guard,))
    Toy().add(server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with guard.sweeping(), connect(f"127.0.0.1:{port}", ChannelConfig()) as channel:
        call(channel, "unary_unary", metadata=bearer(keys, "one"))
        assert set(guard._clients) == {"one"}
        deadline = time.monotonic() + WAIT_S
        while "one" in guard._clients and time.monotonic() < deadline:
            call(channel, "unary_stream", metadata=bearer(keys, "two"))
        assert "one" not in guard._clients
    server.stop(0).wait()


def secure(certificates, name="server", client_ca=None):
    return TlsServerConfig(
        certificate=certificates / f"{name}.pem",
        key=certificates / f"{name}.key",
        client_ca=client_ca and certificates / client_ca,
    )


def trusting(certificates, ca="ca.pem", shown=None, **channel):
    pair = {"certificate": certificates / f"{shown}.pem", "key": certificates / f"{shown}.key"} if shown else {}
    return ChannelConfig(tls=TlsClientConfig(ca=certificates / ca, **pair), **channel)


def test_a_trusted_server_is_served_over_tls(certificates):
    with toy(ServerConfig(tls=secure(certificates)), trusting(certificates)) as (_, channel):
        assert {kind: call(channel, kind, (b"a", b"b")) for kind in KINDS} == EXPECTED


@pytest.mark.parametrize(
    ("server", "client"),
    [
        ({}, {"ca": "other-ca.pem"}),  # the server's authority is a stranger
        ({"name": "stranger"}, {}),  # the server is
        ({"client_ca": "ca.pem"}, {}),  # the client shows nothing
        ({"client_ca": "ca.pem"}, {"shown": "stranger"}),  # the client is a stranger
    ],
)
def test_with_a_wrong_certificate_nothing_is_served(certificates, server, client):
    with (
        pytest.raises(ConnectionError, match=r"certificate|TLS"),
        toy(
            ServerConfig(tls=secure(certificates, **server)),
            trusting(certificates, connect_timeout_s=0.5, **client),
        ),
    ):
        pytest.fail("connected")


def test_in_clear_a_tls_server_answers_nobody(certificates):
    with (
        pytest.raises(ConnectionError, match="expected a server at"),
        toy(ServerConfig(tls=secure(certificates)), ChannelConfig(connect_timeout_s=0.5)),
    ):
        pytest.fail("connected")


def test_a_certificate_is_for_one_name(certificates):
    tls = TlsClientConfig(ca=certificates / "ca.pem", server_name="elsewhere.example")
    with (
        pytest.raises(ConnectionError),
        toy(ServerConfig(tls=secure(certificates)), ChannelConfig(tls=tls, connect_timeout_s=0.5)),
    ):
        pytest.fail("connected")


def test_a_clients_certificate_says_whose_rate_it_is(certificates):
    config = ServerConfig(
        tls=secure(certificates, client_ca="ca.pem"), limits=Limits(requests_per_s=0.01, burst=1, calls=5)
    )
    with toy(config, trusting(certificates, shown="camera")) as (_, channel):
        assert call(channel, "unary_unary") == b"a"
        with pytest.raises(grpc.RpcError, match="requests a second"):
            call(channel, "unary_unary")


def test_clients_whose_certificates_are_for_one_name_have_a_rate_each(certificates):
    config = ServerConfig(
        tls=secure(certificates, client_ca="ca.pem"), limits=Limits(requests_per_s=0.01, burst=1, calls=5)
    )
    with toy(config, trusting(certificates, shown="camera")) as (served, channel):
        assert call(channel, "unary_unary") == b"a"
        with connect(f"127.0.0.1:{served.port}", trusting(certificates, shown="server")) as other:
            assert call(other, "unary_unary") == b"a"
            with pytest.raises(grpc.RpcError, match="requests a second"):
                call(other, "unary_unary")
