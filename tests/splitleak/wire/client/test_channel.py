"""A channel says whom it did not reach, carries large messages, and tries again while a server is unavailable."""

import socket

import grpc
import pytest

from splitleak.wire.client.channel import MEBIBYTE, ChannelConfig, connect
from splitleak.wire.link.link import PROFILES, link
from splitleak.wire.server.guard import Limits
from splitleak.wire.server.server import ServerConfig, serve


class Echo(grpc.GenericRpcHandler):
    """Answers any unary call with its own bytes, after refusing it ``refusals`` times."""

    def __init__(self, refusals=0):
        self.refusals = refusals

    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(self.echo)

    def echo(self, message, context):
        self.refusals -= 1
        if self.refusals >= 0:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        return message


def echo(handler, message, config, served=None):
    with (
        serve(lambda server: server.add_generic_rpc_handlers((handler,)), served or ServerConfig()) as port,
        connect(f"127.0.0.1:{port}", config) as channel,
    ):
        return channel.unary_unary("/any/Echo")(message, timeout=config.timeout_s)


def test_a_message_above_grpcs_own_limit_passes():
    assert echo(Echo(), bytes(5 * MEBIBYTE), ChannelConfig()) == bytes(5 * MEBIBYTE)


def test_the_longest_duration_works_on_both_sides_and_a_longer_one_is_refused_by_its_name():
    longest = {}
    for kind in (ChannelConfig, ServerConfig, Limits):
        names = [name for name, field in kind.model_fields.items() if name.endswith("_s") and field.annotation is float]
        for name in names:
            with pytest.raises(ValueError, match=f"settings: .*{name}: .*less than or equal to 2000000, got 1"):
                kind.parse({name: 1e7}, source="settings")
        longest[kind] = dict.fromkeys(names, 2e6)
    server = ServerConfig(limits=Limits(**longest[Limits]), **longest[ServerConfig])
    channel = ChannelConfig(reconnect_max_ms=2**31 - 1, **longest[ChannelConfig])
    assert echo(Echo(), b"late", channel, server) == b"late"


def test_a_message_above_our_limit_is_refused_with_both_sizes():
    with pytest.raises(grpc.RpcError, match=r"larger than max \(2000\d* vs\. 1000\)") as caught:
        echo(Echo(), bytes(2000), ChannelConfig(max_message_bytes=1000))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_large_request_is_sent_again_while_the_server_is_unavailable():
    handler = Echo(refusals=2)
    assert len(echo(handler, bytes(2 * MEBIBYTE), ChannelConfig())) == 2 * MEBIBYTE
    assert handler.refusals == -1


def test_a_single_attempt_is_not_repeated():
    handler = Echo(refusals=1)
    with pytest.raises(grpc.RpcError, match="not yet"):
        echo(handler, b"", ChannelConfig(attempts=1))
    assert handler.refusals == 0


@pytest.mark.slow
def test_a_server_behind_a_link_of_a_satellites_delay_is_reached():
    with (
        serve(lambda server: server.add_generic_rpc_handlers((Echo(),)), ServerConfig()) as port,
        link(PROFILES["geo"].config, f"127.0.0.1:{port}") as slow,
        connect(slow.address, ChannelConfig()) as channel,
    ):
        assert channel.unary_unary("/any/Echo")(b"far away", timeout=20) == b"far away"


def test_a_server_that_is_not_there_is_named_within_the_timeout():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(ConnectionError, match=f"expected a server at {address} within 0.2 s"),
            connect(address, ChannelConfig(connect_timeout_s=0.2)),
        ):
            pytest.fail("connected to nobody")
