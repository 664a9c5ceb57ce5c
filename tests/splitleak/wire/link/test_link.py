import errno
import json
import socket
import subprocess
import sys
import threading
import time

import pytest

from splitleak.wire.link.link import PROFILES, LinkConfig, link
from splitleak.wire.link.relay import LinkDirection

PATIENCE_S = 20.0


@pytest.fixture
def echo():
    """``host:port`` of a server that sends back what it is sent, and half-closes when its client did."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection):
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
            except OSError:
                return

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    listener.close()


def dial(handle):
    client = socket.create_connection(("127.0.0.1", handle.port), PATIENCE_S)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def receive(client, size):
    got = b""
    while len(got) < size and (data := client.recv(size - len(got))):
        got += data
    return got


def round_trip_s(client, data):
    started = time.monotonic()
    client.sendall(data)
    assert receive(client, len(data)) == data
    return time.monotonic() - started


def settings(**up):
    return LinkConfig(up=LinkDirection(**up))


def test_all_bytes_arrive_in_order_and_are_counted_in_each_direction(echo):
    data = bytes(range(256)) * 4000
    both = LinkDirection(delay_ms=1, jitter_ms=3, stall_probability=0.01, stall_ms=2)
    with link(LinkConfig(up=both, down=both), echo) as handle, dial(handle) as client:
        client.settimeout(PATIENCE_S)
        writer = threading.Thread(target=client.sendall, args=(data,))
        writer.start()
        assert receive(client, len(data)) == data
        writer.join()
        assert (handle.bytes_up, handle.bytes_down) == (len(data), len(data))


def test_a_byte_takes_the_delay_of_both_directions(echo):
    config = LinkConfig(up=LinkDirection(delay_ms=30), down=LinkDirection(delay_ms=50))
    with link(config, echo) as handle, dial(handle) as client:
        round_trip_s(client, b"opens the way")
        assert round_trip_s(client, b"?") >= 0.08


def test_a_rate_is_what_bytes_a_second_get_through_and_connections_share_it(echo):
    with link(settings(rate_mbps=8), echo) as handle, dial(handle) as one, dial(handle) as two:
        started = time.monotonic()
        for client in (one, two):
            client.sendall(bytes(100_000))
        for client in (one, two):
            assert len(receive(client, 100_000)) == 100_000
        assert time.monotonic() - started >= 0.2


def test_a_stalled_packet_holds_up_what_comes_after_it(echo):
    with link(settings(stall_probability=1, stall_ms=120), echo) as handle, dial(handle) as client:
        assert round_trip_s(client, b"lost") >= 0.12


def test_who_sends_faster_than_the_link_is_held_back(echo):
    config = settings(rate_mbps=0.1, buffer_kib=1)
    with link(config, echo) as handle, dial(handle) as client:
        client.setblocking(False)
        sent = 0
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            try:
                sent += client.send(bytes(65536))
            except BlockingIOError:
                break
        assert handle.bytes_up <= config.up.in_flight_bytes + config.up.train_bytes + 0.1 * 125_000


def test_half_a_connection_may_be_closed(echo):
    with link(settings(delay_ms=5), echo) as handle, dial(handle) as client:
        client.sendall(b"last words")
        client.shutdown(socket.SHUT_WR)
        assert receive(client, 100) == b"last words"


def test_a_link_that_is_cut_drops_and_refuses_until_it_is_restored(echo):
    with link(LinkConfig(), echo) as handle:
        with dial(handle) as client:
            round_trip_s(client, b"before")
            handle.cut("refused")
            assert _ended(client)
        with pytest.raises(ConnectionRefusedError):
            dial(handle)
        handle.restore()
        with dial(handle) as client:
            assert round_trip_s(client, b"after") < PATIENCE_S


def test_a_black_hole_tells_nobody_and_gives_back_what_it_took(echo):
    with link(settings(delay_ms=5), echo) as handle, dial(handle) as client:
        round_trip_s(client, b"before")
        handle.cut("blackholed")
        with dial(handle) as second:
            for each in (client, second):
                each.sendall(b"during")
                each.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    each.recv(1)
            handle.restore()
            for each in (client, second):
                each.settimeout(PATIENCE_S)
                assert receive(each, 6) == b"during"


def test_a_black_hole_can_be_refused_and_left_without_a_thread_behind(echo):
    before = threading.active_count()
    with link(LinkConfig(), echo) as handle, dial(handle) as client:
        round_trip_s(client, b"before")
        handle.cut("blackholed")
        client.sendall(b"during")
        handle.cut("refused")
        handle.cut("refused")
        assert _ended(client)
    names = [each.name for each in threading.enumerate() if each.name.startswith("link")]
    assert names == []
    assert threading.active_count() <= before + 1  # the echo of the one connection may still end


def test_an_upstream_that_is_not_there_ends_the_connection():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        slow = LinkConfig(up=LinkDirection(delay_ms=50))  # the client is connected before the refusal arrives
        with link(slow, f"127.0.0.1:{taken.getsockname()[1]}") as handle, dial(handle) as client:
            assert _ended(client)


def test_an_address_that_is_taken_is_named(echo):
    with pytest.raises(OSError, match=f"got {echo}, which cannot be bound"), link(LinkConfig(), echo, echo):
        pass


def test_an_address_without_a_port_is_refused(echo):
    for upstream, listen in (("nowhere", "127.0.0.1:0"), (echo, "127.0.0.1")):
        with pytest.raises(ValueError, match="expected HOST:PORT"), link(LinkConfig(), upstream, listen):
            pass


def test_as_a_command_it_carries_until_sigterm_and_a_setting_is_laid_over_its_profile(echo):
    command = [sys.executable, "-P", "-m", "splitleak", "link", "--upstream", echo, "--listen", "127.0.0.1:0", "--json"]
    command += ["--profile", "geo", "--set", "up.delay_ms=0", "--set", "down.delay_ms=40"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        address = json.loads(process.stdout.readline())["address"]
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), PATIENCE_S) as client:
            assert round_trip_s(client, b"hello") >= 0.04
        process.terminate()
        assert process.wait(PATIENCE_S) == 0


def test_every_profile_is_a_link_and_an_unknown_one_is_named():
    for name in ("ethernet", "wifi", "5g", "lte", "3g", "leo", "geo"):
        profile = PROFILES.choose(name)
        assert profile.config.up.rate_mbps <= profile.config.down.rate_mbps
        assert profile.about
        assert profile.source
    with pytest.raises(ValueError, match=r"3g, leo, geo, got 'pigeon'"):
        PROFILES.choose("pigeon")


def _ended(client):
    client.settimeout(PATIENCE_S)
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


def test_a_link_outlives_a_moment_without_a_free_file_descriptor(echo, monkeypatch):
    accept, refused = socket.socket.accept, []

    def scarce(listener):
        if len(refused) < 2 and listener.getsockname()[1] == handle.port:
            refused.append(listener)
            raise OSError(errno.EMFILE, "too many open files")
        return accept(listener)

    with link(LinkConfig(), echo) as handle:
        handle.cut()
        monkeypatch.setattr(socket.socket, "accept", scarce)
        handle.restore()
        with dial(handle) as client:
            client.sendall(b"again")
            assert receive(client, 5) == b"again"
    assert len(refused) == 2
