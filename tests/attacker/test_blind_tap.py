"""A blind tap passes every byte on and knows sizes and times alone; whatever its file holds, a reader survives it."""

import contextlib
import gc
import json
import re
import socket
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitleak.attacker.blind_tap import BlindTapConfig, Sighting, blind_tap, bursts, sightings
from splitleak.errors import WireError

WAIT_S = 10


@contextlib.contextmanager
def echoing():
    """A server that answers each connection with what it is sent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = listener.accept()
                    threading.Thread(target=echo, args=(peer,), daemon=True).start()

        def echo(peer):
            with peer:
                while piece := peer.recv(65536):
                    peer.sendall(piece)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def tapped(record):
    with echoing() as address, blind_tap(BlindTapConfig(upstream=address, record=record)) as port:
        yield port


def asked(peer, message):
    peer.sendall(message)
    answer = b""
    while len(answer) < len(message):
        answer += peer.recv(65536)
    return answer


def test_every_byte_passes_and_only_its_size_is_kept(tmp_path):
    record, secret = tmp_path / "sizes.jsonl", b"correct-horse-battery-staple" * 10_000
    with tapped(record) as port, socket.create_connection(("127.0.0.1", port), WAIT_S) as peer:
        assert asked(peer, secret) == secret
        peer.shutdown(socket.SHUT_WR)
        assert peer.recv(1) == b""
    seen = list(sightings(record))
    for direction in ("request", "response"):
        assert sum(each.size for each in seen if each.direction == direction) == len(secret)
    assert b"horse" not in record.read_bytes()
    assert [each.time_ns for each in seen] == sorted(each.time_ns for each in seen)


def test_questions_that_wait_for_their_answers_can_be_counted(tmp_path):
    with tapped(tmp_path / "sizes.jsonl") as port, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(socket.create_connection(("127.0.0.1", port), WAIT_S)) for _ in range(2)]
        for size in (10, 70_000, 30):
            for peer in peers:
                asked(peer, bytes(size))
    found = bursts(sightings(tmp_path / "sizes.jsonl"))
    for connection in {each.connection for each in found}:
        up = [each.size for each in found if (each.connection, each.direction) == (connection, "request")]
        assert (up[0], up[-1], sum(up)) == (10, 30, 70_040)


def test_an_answer_that_comes_after_the_question_s_end_passes(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        address = f"127.0.0.1:{upstream.getsockname()[1]}"
        with (
            blind_tap(BlindTapConfig(upstream=address, record=tmp_path / "sizes.jsonl")) as port,
            socket.create_connection(("127.0.0.1", port), WAIT_S) as peer,
            upstream.accept()[0] as far,
        ):
            peer.sendall(b"question")
            peer.shutdown(socket.SHUT_WR)
            while far.recv(16):
                pass
            time.sleep(0.2)  # until the tap has seen the end
            gc.collect()  # what its own tasks alone know is gone then
            far.sendall(b"answer")
            assert peer.recv(16) == b"answer"


def test_with_nobody_upstream_a_connection_ends(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        config = BlindTapConfig(upstream=f"127.0.0.1:{taken.getsockname()[1]}", record=tmp_path / "sizes.jsonl")
        with blind_tap(config) as port, socket.create_connection(("127.0.0.1", port), WAIT_S) as peer:
            assert peer.recv(1) == b""
    assert list(sightings(config.record)) == []


def test_its_end_closes_what_it_carries(tmp_path):
    with contextlib.ExitStack() as stack:
        with tapped(tmp_path / "sizes.jsonl") as port:
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", port), WAIT_S))
            assert asked(peer, b"hello") == b"hello"
        assert peer.recv(1) == b""


def test_a_record_ends_at_its_limit_and_no_connection_does(tmp_path, caplog):
    record, most = tmp_path / "sizes.jsonl", 2000
    with echoing() as address:
        config = BlindTapConfig(upstream=address, record=record, max_bytes=most)
        for _ in range(2):  # the second goes on with what the first left
            with blind_tap(config) as port, socket.create_connection(("127.0.0.1", port), WAIT_S) as peer:
                for _ in range(20):
                    assert asked(peer, b"hello") == b"hello"
            seen = list(sightings(record))
            assert 10 < len(seen) < 30
            assert {each.connection for each in seen} == {seen[0].connection}
            assert most - 150 < record.stat().st_size <= most
    assert "the record has reached its limit, and ends at" in caplog.text
    for lost in (40 - len(seen), 40):
        assert f"{record}: {lost} sightings could not be written" in caplog.text


def test_a_full_disk_ends_no_connection_and_the_loss_is_told(tmp_path, caplog):
    record = tmp_path / "sizes.jsonl"
    with tapped(record) as port, socket.create_connection(("127.0.0.1", port), WAIT_S) as peer:
        assert asked(peer, b"before") == b"before"
        with full_disk(record):
            assert asked(peer, b"meanwhile") == b"meanwhile"
        assert asked(peer, b"after") == b"after"
    assert [each.size for each in sightings(record)] == [6, 6, 5, 5]
    assert "2 sightings could not be written" in caplog.text


@contextlib.contextmanager
def full_disk(path):
    """No file of this process may grow beyond the size that ``path`` has now, to within a few bytes."""
    import resource
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


HEAD = b'{"format": "splitleak-sizes", "version": 1}\n'
LINE = b'{"time_ns": 1, "connection": 0, "direction": "request", "size": 3}\n'
NESTED = pytest.param(b"[" * 100_000 + b"\n", id="nested")


def test_an_incomplete_last_line_is_passed_over(tmp_path):
    (tmp_path / "sizes.jsonl").write_bytes(HEAD + LINE + LINE[:20])
    assert list(sightings(tmp_path / "sizes.jsonl")) == [Sighting(1, 0, "request", 3)]


@settings(max_examples=50)
@given(rest=st.binary(max_size=80))
def test_any_bytes_give_sightings_or_a_wire_error(tmp_path_factory, rest):
    path = tmp_path_factory.mktemp("sizes") / "sizes.jsonl"
    path.write_bytes(HEAD + LINE + rest)
    with contextlib.suppress(WireError):
        assert next(sightings(path)) == Sighting(1, 0, "request", 3)
        list(sightings(path))


@pytest.mark.parametrize(
    "change",
    [
        {"time_ns": "1"},
        {"time_ns": 1.0},
        {"connection": True},
        {"connection": None},
        {"direction": "sideways"},
        {"direction": ["request"]},
        {"size": -1},
        {"payload": "secret"},
    ],
    ids=str,
)
def test_a_malformed_line_is_refused_by_file_and_number(tmp_path, change):
    line = json.dumps({**json.loads(LINE), **change}).encode()
    path = tmp_path / "sizes.jsonl"
    path.write_bytes(HEAD + LINE + line + b"\n" + LINE)
    read = sightings(path)
    assert next(read) == Sighting(1, 0, "request", 3)
    said = f"{path}: expected what a blind tap writes in line 3, got {line[:30]!r}"[:-1]
    with pytest.raises(WireError, match=re.escape(said)):
        next(read)


@pytest.mark.parametrize("line", [b"[1, 0]\n", b"3\n", b"{}\n", b'{"time_ns": 1, "connection": 0}\n', NESTED])
def test_a_line_that_is_no_sighting_is_refused(tmp_path, line):
    (tmp_path / "sizes.jsonl").write_bytes(HEAD + line)
    with pytest.raises(WireError, match="expected what a blind tap writes in line 2"):
        list(sightings(tmp_path / "sizes.jsonl"))


@pytest.mark.parametrize("content", [b"x\n", LINE, b'{"format": "splitleak-sizes", "version": 2}\n', b"[]\n", NESTED])
def test_what_is_no_record_of_this_version_is_refused(tmp_path, content):
    (tmp_path / "sizes.jsonl").write_bytes(content)
    with pytest.raises(WireError, match="expected what a blind tap writes in line 1"):
        list(sightings(tmp_path / "sizes.jsonl"))


def test_a_file_that_no_blind_tap_wrote_is_not_touched(tmp_path):
    path = tmp_path / "thesis.txt"
    for content in ("mine\n", "{}\n", '{"format": "splitleak-sizes"'):
        path.write_text(content)
        with pytest.raises(FileExistsError, match=r"thesis\.txt, got something else"), tapped(path):
            pass
        assert path.read_text() == content


def test_an_earlier_record_is_appended_to_with_connections_of_other_numbers(tmp_path):
    record = tmp_path / "sizes.jsonl"
    for turn in range(3):
        with tapped(record) as port, socket.create_connection(("127.0.0.1", port), WAIT_S) as peer:
            asked(peer, b"x" * (turn + 1))
            with pytest.raises(BlockingIOError, match="only writer"), tapped(record):
                pass
        with record.open("ab") as file:
            file.write(b'{"half a li')  # a killed writer's
    found = list(sightings(record))
    assert [(each.direction, each.size) for each in found] == [
        (direction, size) for size in (1, 2, 3) for direction in ("request", "response")
    ]
    assert len({each.connection for each in found}) == 3
