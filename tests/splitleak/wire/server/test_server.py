"""A service binds or says why not, finishes what is in flight, cuts off what outlasts its grace, and obeys signals."""

import contextlib
import signal
import socket
import threading

import grpc
import pytest

from splitleak.wire.client.channel import ChannelConfig, connect
from splitleak.wire.server.server import ServerConfig, run_until_stopped, serve

WAIT_S = 10


class Gate(grpc.GenericRpcHandler):
    """Holds every call until the gate opens or the call is cut off."""

    def __init__(self):
        self.entered = threading.Event()
        self.open = threading.Event()

    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(self.hold)

    def hold(self, message, context):
        context.add_callback(self.open.set)
        self.entered.set()
        self.open.wait(WAIT_S)
        return message

    def add(self, server):
        server.add_generic_rpc_handlers((self,))


def call(port, stack):
    channel = stack.enter_context(connect(f"127.0.0.1:{port}", ChannelConfig()))
    return channel.unary_unary("/any/Hold").future(b"x", timeout=WAIT_S)


def test_a_taken_address_is_an_error_that_names_it():
    with (
        serve(Gate().add, ServerConfig()) as port,
        pytest.raises(OSError, match=f"got 127.0.0.1:{port}, which cannot be bound"),
    ):
        serve(Gate().add, ServerConfig(address=f"127.0.0.1:{port}")).__enter__()


def has_ipv6():
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


@pytest.mark.parametrize(
    "host", ["127.0.0.1", pytest.param("[::1]", marks=pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6"))]
)
def test_localhost_is_taken_where_one_of_its_addresses_is(host):
    with (
        serve(Gate().add, ServerConfig(address=f"{host}:0")) as port,
        pytest.raises(OSError, match=f"got localhost:{port}, which cannot be bound"),
    ):
        serve(Gate().add, ServerConfig(address=f"localhost:{port}")).__enter__()
    with serve(Gate().add, ServerConfig(address=f"localhost:{port}")):
        pass


def test_the_file_of_a_socket_is_taken_from_nobody_who_listens_and_from_whoever_is_gone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the names of sockets are short
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind("s")
    for address in ("unix:s", f"unix://{tmp_path}/s"):
        with serve(Gate().add, ServerConfig(address=address)):
            with pytest.raises(OSError, match=f"got {address}, which cannot be bound"):
                serve(Gate().add, ServerConfig(address=address)).__enter__()
            with connect(f"unix:{tmp_path}/s", ChannelConfig()):
                pass


def test_a_port_is_free_again_after_the_stop():
    with serve(Gate().add, ServerConfig()) as port:
        pass
    with serve(Gate().add, ServerConfig(address=f"127.0.0.1:{port}")) as again:
        assert again == port


def test_a_call_in_flight_is_finished_at_the_stop():
    gate = Gate()
    with contextlib.ExitStack() as stack:
        with serve(gate.add, ServerConfig(), drain=lambda _: gate.open.set()) as port:
            held = call(port, stack)
            assert gate.entered.wait(WAIT_S)
        assert held.result(WAIT_S) == b"x"


def test_a_call_that_outlasts_the_grace_is_cut_off_and_counted(caplog):
    gate = Gate()
    with contextlib.ExitStack() as stack:
        with serve(gate.add, ServerConfig(grace_s=0.05)) as port:
            held = call(port, stack)
            assert gate.entered.wait(WAIT_S)
        with pytest.raises(grpc.RpcError):
            held.result(WAIT_S)
    assert "cancelling 1 calls" in caplog.text


@contextlib.contextmanager
def recorded(events, *, on_enter=None, on_exit=None):
    if on_enter:
        signal.raise_signal(on_enter)
    events.append("up")
    try:
        yield 7
    finally:
        if on_exit:
            signal.raise_signal(on_exit)
        events.append("down")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_service_and_the_handlers_come_back(number):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    events = []

    def announce(port):
        events.append(port)
        signal.raise_signal(number)

    run_until_stopped(recorded(events), announce)
    assert events == ["up", 7, "down"]
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_signal_does_not_wait_for_the_drain():
    events = []
    with pytest.raises(KeyboardInterrupt):
        run_until_stopped(recorded(events, on_exit=signal.SIGTERM), lambda port: signal.raise_signal(signal.SIGINT))
    assert events == ["up"]


def test_a_signal_while_the_service_starts_ends_it_at_once():
    events = []
    with pytest.raises(KeyboardInterrupt):
        run_until_stopped(recorded(events, on_enter=signal.SIGTERM), events.append)
    assert events == []
