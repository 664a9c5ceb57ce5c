"""Every address is split by one rule, whoever takes it: what gRPC or a socket would read otherwise is refused."""

import pytest

from splitleak.attacker.blind_tap import BlindTapConfig
from splitleak.attacker.tap import TapConfig
from splitleak.edge.client import EdgeConfig
from splitleak.edge.sharing import SharingConfig
from splitleak.wire.address import (
    Address,
    bound_address,
    check_service,
    check_target,
    is_http,
    is_loopback,
    parse_address,
    parse_http,
)
from splitleak.wire.client.channel import ChannelConfig, connect, open_channel
from splitleak.wire.client.classifier import ClassifierClient
from splitleak.wire.link.link import LinkConfig, link
from splitleak.wire.server.metrics import serve_metrics
from splitleak.wire.server.server import ServerConfig, serve

GOOD = {
    "127.0.0.1:1": Address("127.0.0.1", 1),
    "cloud.example:65535": Address("cloud.example", 65535),
    "edge_1:080": Address("edge_1", 80),
    "[::1]:8001": Address("::1", 8001),
    "[fe80::1%eth0]:8001": Address("fe80::1%eth0", 8001),
}
LISTENING = {
    "127.0.0.1:0": Address("127.0.0.1", 0),
    "[::]:0": Address("::", 0),
}
BAD = (
    *(
        "",
        ":",
        ":0",
        ":8001",
        "host",
        "host:",
        "host:abc",
        "host:80x",
        "host:-1",
        "host:+1",
        "host: 80",
        "host:８０",
        "host:99999",
    ),
    *(":99999", "host:65536", "host:100000", "::1", "::1:8001", "[::1]", "[::1]:", "[::1]8001", "[]:80", "[host]:80"),
    *("[::1:80", "a b:80", "host:80\n", "http://host:80", "host/path:80", "host:80/path", "a:1,b:2"),
)
TARGETS = ("dns:host:80", "dns:///host:80", "dns://8.8.8.8/host:80", "ipv4:127.0.0.1:80", "ipv6:[::1]:80")
SOCKET_FILES = ("unix:/tmp/socket", "unix:relative", "unix-abstract:name")


@pytest.mark.parametrize("text", GOOD)
def test_host_and_port_are_split(text):
    assert parse_address(text) == parse_address(text, listening=True) == GOOD[text]
    assert check_target(text) == text


@pytest.mark.parametrize("text", LISTENING)
def test_port_0_is_for_listening_alone(text):
    assert parse_address(text, listening=True) == LISTENING[text]
    with pytest.raises(ValueError, match="expected HOST:PORT with a port of 1 to 65535, got "):
        parse_address(text)


@pytest.mark.parametrize("text", BAD)
def test_anything_else_is_refused(text):
    for refuse in (parse_address, check_target):
        for listening, lowest in ((False, 1), (True, 0)):
            with pytest.raises(ValueError, match=f"expected HOST:PORT with a port of {lowest} to 65535, got "):
                refuse(text, listening=listening)


@pytest.mark.parametrize("text", [*TARGETS, *SOCKET_FILES])
def test_targets_in_grpcs_schemes_are_for_grpc_alone(text):
    assert check_target(text) == check_target(text, listening=True) == text
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        parse_address(text)


@pytest.mark.parametrize(
    "text", ["dns:host", "dns:///host", "dns:///host:99999", "dns:53", "ipv4:127.0.0.1", "ipv6:::1:80"]
)
def test_a_scheme_stands_for_no_port(text):
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        check_target(text)


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("127.0.0.1:8001", True),
        ("127.9.9.9:1", True),
        ("localhost:0", True),
        ("[::1]:8001", True),
        ("unix:/tmp/socket", True),
        ("0.0.0.0:8001", False),
        ("[::]:8001", False),
        ("10.0.0.7:8001", False),
        ("cloud.example:8001", False),
        ("127.0.0.1.example:80", False),
        ("localhost.example:80", False),
        ("dns://8.8.8.8/localhost:80", False),
        ("127.0.0.1", False),
    ],
)
def test_loopback_is_what_no_other_machine_reaches(address, found):
    assert is_loopback(address) is found


def test_a_bound_address_names_the_port_that_was_chosen():
    assert bound_address("127.0.0.1:0", 5) == "127.0.0.1:5"
    assert bound_address("[::1]:0", 5) == "[::1]:5"
    assert bound_address("unix:/tmp/socket", 1) == "unix:/tmp/socket"


CONNECTING = {
    "channel": lambda address, path: open_channel(address, ChannelConfig()),
    "connection": lambda address, path: connect(address, ChannelConfig()).__enter__(),
    "classifier": lambda address, path: ClassifierClient(address).__enter__(),
    "edge": lambda address, path: EdgeConfig(cloud=address, model="m"),
    "victims": lambda address, path: SharingConfig(service=address),
    "tap": lambda address, path: TapConfig(upstream=address, capture=path),
    "blind tap": lambda address, path: BlindTapConfig(upstream=address, record=path),
    "link": lambda address, path: link(LinkConfig(), address).__enter__(),
}
SERVING = {
    "server": lambda address, path: ServerConfig(address=address),
    "metrics": lambda address, path: ServerConfig(metrics=address),
    "prometheus": lambda address, path: serve_metrics(address, {}).__enter__(),
    "blind tap": lambda address, path: BlindTapConfig(listen=address, upstream="host:1", record=path),
    "link": lambda address, path: link(LinkConfig(), "host:1", address).__enter__(),
}


@pytest.mark.parametrize("address", [":99999", "host", "host:0", ":80", "::1:80"])
@pytest.mark.parametrize("who", CONNECTING)
def test_whoever_connects_refuses_what_is_no_address(who, address, tmp_path):
    with pytest.raises(ValueError, match=r"expected HOST:PORT with a port of 1 to 65535, got "):
        CONNECTING[who](address, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", [":99999", "127.0.0.1", "127.0.0.1:65536", "::1:0"])
@pytest.mark.parametrize("who", SERVING)
def test_whoever_listens_refuses_what_is_no_address(who, address, tmp_path):
    with pytest.raises(ValueError, match=r"expected HOST:PORT with a port of 0 to 65535, got "):
        SERVING[who](address, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["unix:{}", "127.0.0.1:0", "[::1]:0"])
def test_a_server_is_reached_where_it_says(form, tmp_path):
    listen = form.format(tmp_path / "socket")
    with (
        serve(lambda server: None, ServerConfig(address=listen)) as port,
        connect(bound_address(listen, port), ChannelConfig()),
    ):
        pass


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://host:8000", ("http", "host", 8000, "")),
        ("http://host", ("http", "host", 80, "")),
        ("https://host/", ("https", "host", 443, "")),
        ("https://[::1]:9/a/b/", ("https", "::1", 9, "/a/b")),
    ],
)
def test_a_url_has_a_host_a_port_and_perhaps_a_path(text, expected):
    assert is_http(text)
    assert parse_http(text) == expected
    assert check_service(text) == text
    assert SharingConfig(service=text).service == text


@pytest.mark.parametrize(
    "text",
    [
        "http://",
        "http://host:",
        "http://host:0",
        "http://host:99999",
        "http://user:pass@host",
        "http://host/?a=b",
        "http://host/#a",
        "http://a b",
        "ftp://host",
        "http://[host]:1",
        "http:/host",
    ],
)
def test_what_is_no_url_of_a_server_is_refused(text):
    with pytest.raises(ValueError, match="expected"):
        check_service(text)


def test_a_url_is_no_target_of_grpc_and_its_own_target_is():
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        check_target("http://host:1")
    assert parse_http("http://[::1]:9").target == "[::1]:9"
    assert parse_http("http://host:9").target == "host:9"
