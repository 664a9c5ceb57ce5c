"""A capture keeps what was written, survives its writer, and its reader survives any bytes."""

import errno
import itertools
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from splitleak.errors import WireError
from splitleak.wire.files.captures import (
    CONTINUES,
    GAP,
    HEADER,
    CaptureWriter,
    Damage,
    Record,
    inference_requests,
    lost_by,
    missing,
    note,
    parts,
    read,
    scan,
)
from splitleak.wire.files.repair import check
from splitleak.wire.protocol import codec
from splitleak.wire.protocol.paths import MODEL_INFER, MODEL_STREAM_INFER, method_path

reuses_tmp_path = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path, *messages):
    with CaptureWriter(path) as writer:
        for call, message in enumerate(messages):
            writer.write(MODEL_INFER, call, "request", message)
    return path


def messages(path):
    return [record.message for record in read(path)]


def scanned(path):
    with path.open("rb") as file:
        return list(scan(file))


def gaps(path):
    """What the file itself tells to be missing: how many messages, and why."""
    found = [each for each, _, _ in scanned(path) if isinstance(each, Record) and each.method == GAP]
    return [(lost_by(gap), gap.note["reason"]) for gap in found]


def test_records_come_back_as_written(tmp_path):
    path, before = tmp_path / "a.cap", time.time_ns()
    with CaptureWriter(path) as writer:
        writer.write(MODEL_INFER, 3, "request", b"")
        writer.write(MODEL_STREAM_INFER, 2**40, "response", bytes(range(256)) * 500)
    first, second = read(path)
    assert first == Record(first.time_ns, 3, "request", MODEL_INFER, b"")
    assert second == Record(second.time_ns, 2**40, "response", MODEL_STREAM_INFER, bytes(range(256)) * 500)
    assert before <= first.time_ns <= second.time_ns <= time.time_ns()


def test_a_second_session_appends(tmp_path):
    path = write(tmp_path / "a.cap", b"one")
    assert messages(write(path, b"two", b"three")) == [b"one", b"two", b"three"]


@pytest.mark.parametrize("rotate_mb", [None, 0.0005])
def test_a_second_session_has_numbers_for_its_calls_that_no_call_has(tmp_path, rotate_mb):
    path = tmp_path / "a.cap"
    for session in range(3):
        with CaptureWriter(path, rotate_mb) as writer:
            assert (writer.first_call == 0) == (session == 0)
            for number in range(20):
                writer.write(MODEL_INFER, writer.first_call + number, "request", b"")
    assert len({record.call for record in read(path)}) == 60
    for part in parts(path)[:-1]:
        part.unlink()
    with CaptureWriter(path, rotate_mb) as writer:
        assert writer.first_call > max(record.call for record in read(path))


def test_every_cut_of_the_last_record_keeps_all_before_it_for_reader_and_writer(tmp_path):
    whole = write(tmp_path / "a.cap", b"one", b"second").read_bytes()
    kept = len(write(tmp_path / "b.cap", b"one").read_bytes())
    for cut in range(kept, len(whole)):
        path = tmp_path / f"{cut}.cap"
        path.write_bytes(whole[:cut])
        assert messages(path) == [b"one"]
        assert messages(write(path, b"next")) == [b"one", b"next"]


@pytest.mark.parametrize("size", [0, 5, 11])
def test_a_writer_killed_inside_the_header_leaves_a_file_that_can_be_continued(tmp_path, size):
    path = write(tmp_path / "a.cap")
    path.write_bytes(path.read_bytes()[:size])
    assert messages(path) == []
    assert messages(write(path, b"one")) == [b"one"]


def test_what_a_killed_process_wrote_is_there_and_can_be_appended_to(tmp_path):
    path = tmp_path / "a.cap"
    script = (
        "import os, signal, sys; from pathlib import Path; from splitleak.wire.files.captures import CaptureWriter\n"
        "writer = CaptureWriter(Path(sys.argv[1])).__enter__()\n"
        "for number in range(50): writer.write('/m', number, 'request', bytes([number]))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", script, path], timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert messages(write(path, b"after")) == [bytes([number]) for number in range(50)] + [b"after"]


def test_a_second_writer_is_refused_until_the_first_has_left(tmp_path):
    path = tmp_path / "a.cap"
    with (
        CaptureWriter(path),
        pytest.raises(BlockingIOError, match=r"only writer, but another one holds the file.*a\.cap"),
    ):
        CaptureWriter(path).__enter__()
    assert messages(write(path, b"mine")) == [b"mine"]


def test_every_changed_byte_of_a_complete_file_is_detected(tmp_path):
    whole = write(tmp_path / "a.cap", b"one", b"two").read_bytes()
    path = tmp_path / "b.cap"
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        with pytest.raises(WireError, match=r"b\.cap"):
            messages(path)
        with pytest.raises(WireError, match=r"b\.cap"):
            write(path, b"three")


def test_another_file_or_version_is_named_and_left_alone(tmp_path):
    path = tmp_path / "a.cap"
    path.write_bytes(b"\x89PNG\r\n\x1a\n and more")
    with pytest.raises(WireError, match=r"a\.cap: expected a capture, got a file that starts with b'\\x89PNG"):
        write(path)
    assert path.read_bytes().endswith(b"and more")
    path.write_bytes(write(tmp_path / "b.cap").read_bytes()[:8] + b"\x02\0\0\0")
    with pytest.raises(WireError, match="expected capture version 1, got bytes 02000000"):
        list(read(path))


@given(st.data())
@reuses_tmp_path
def test_any_bytes_give_records_or_a_wire_error(tmp_path, data):
    path = tmp_path / "any.cap"
    whole = write(tmp_path / "good.cap", b"one").read_bytes()
    (tmp_path / "good.cap").unlink()
    path.write_bytes(whole[: data.draw(st.sampled_from([0, 12, 20, len(whole)]))] + data.draw(st.binary(max_size=80)))
    try:
        assert all(isinstance(record, Record) for record in read(path))
    except WireError:
        return


@given(st.binary(max_size=60))
@reuses_tmp_path
def test_any_body_under_right_checksums_gives_a_record_or_a_wire_error(tmp_path, body):
    from splitleak.wire.files.captures import _frame

    path = tmp_path / "a.cap"
    path.write_bytes(HEADER + _frame(body) + body)
    try:
        assert len(list(read(path))) == 1
    except WireError:
        return


def test_threads_do_not_tear_each_others_records(tmp_path):
    path = tmp_path / "a.cap"
    with CaptureWriter(path) as writer:

        def work(call):
            for number in range(50):
                writer.write(MODEL_STREAM_INFER, call, "request", bytes([number]) * 100)

        threads = [threading.Thread(target=work, args=(call,)) for call in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    for call in range(4):
        assert [r.message[0] for r in read(path) if r.call == call] == list(range(50))


def test_a_full_disk_costs_records_and_nothing_else(tmp_path, caplog):
    path = tmp_path / "a.cap"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with CaptureWriter(path) as writer:
        writer.write(MODEL_INFER, 0, "request", b"before")
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, hard))
        try:
            writer.write(MODEL_INFER, 1, "request", bytes(1000))
            writer.write(MODEL_INFER, 2, "request", bytes(1000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        writer.write(MODEL_INFER, 3, "request", b"after")
    writer.write(MODEL_INFER, 4, "request", b"closed")
    assert messages(path) == [b"before", b"after"]
    assert writer.lost == 3
    first, last = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "a message was not captured" in first
    assert last == f"{path}: 2 messages were not captured"
    ((lost, reason),) = gaps(path)
    assert lost == 2
    assert "File too large" in reason
    assert f"{path}: messages are missing in 1 places, at least 2 of them" in caplog.text


def test_messages_lost_to_the_end_are_told_by_the_file_where_it_takes_the_note(tmp_path):
    path = write(tmp_path / "a.cap", b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 300, hard))
    try:
        write(path, bytes(1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [lost for lost, _ in gaps(path)] == [1]
    assert messages(path) == [b"before"]


@pytest.mark.parametrize("size", [0, 5, 12, 30, 80, 100, 150])
def test_a_file_cut_short_under_its_writer_is_noticed_and_what_follows_is_readable(tmp_path, caplog, size):
    path = write(tmp_path / "a.cap", b"one", b"two")
    ends = [stop for _, _, stop in scanned(path)]
    with CaptureWriter(path) as writer:
        os.truncate(path, size)
        writer.write(MODEL_INFER, 2, "request", b"three")
        writer.write(MODEL_INFER, 3, "request", b"four")
    kept = [message for message, end in zip([b"one", b"two"], ends, strict=True) if end <= size]
    assert messages(path) == [*kept, b"three", b"four"]
    assert b"\0" * 20 not in path.read_bytes()
    assert gaps(path) == [(0, f"the file was cut from {ends[-1]} to {size} bytes")]
    assert "the file was cut" in caplog.text


@pytest.mark.parametrize("successor", [None, b"", HEADER])
def test_a_file_moved_away_under_its_writer_is_noticed_and_a_new_one_is_begun(tmp_path, caplog, successor):
    path, moved = tmp_path / "a.cap", tmp_path / "moved.cap"
    with CaptureWriter(path) as writer:
        writer.write(MODEL_INFER, 0, "request", b"one")
        path.rename(moved)
        if successor is not None:
            path.write_bytes(successor)
        writer.write(MODEL_INFER, 1, "request", b"two")
    assert (messages(moved), messages(path)) == ([b"one"], [b"two"])
    assert gaps(path) == [(0, "the file was moved or removed, and the records before with it")]
    assert "was moved or removed" in caplog.text


def test_a_strange_file_in_the_place_of_a_capture_is_left_alone_and_the_loss_is_counted(tmp_path):
    path = tmp_path / "a.cap"
    with CaptureWriter(path) as writer:
        path.unlink()
        path.write_bytes(b"somebody's letter, not ours")
        writer.write(MODEL_INFER, 0, "request", b"one")
    assert path.read_bytes() == b"somebody's letter, not ours"
    assert writer.lost == 1


def test_bytes_that_another_program_adds_are_kept_and_told(tmp_path):
    path = tmp_path / "a.cap"
    with CaptureWriter(path) as writer:
        writer.write(MODEL_INFER, 0, "request", b"one")
        with path.open("ab") as file:
            file.write(b"a stray line\n")
        writer.write(MODEL_INFER, 1, "request", b"two")
    with pytest.raises(WireError, match=r"13 bytes at byte \d+ that hold no intact record; 1 messages before"):
        messages(path)
    found = [each for each, _, _ in scanned(path)]
    assert [each.message for each in found if isinstance(each, Record) and each.note is None] == [b"one", b"two"]
    assert gaps(path) == [(0, "something else wrote 13 bytes to the file")]


@pytest.mark.parametrize("zeros", [16, 64, 4096, 3 * 2**20])
@pytest.mark.parametrize("torn", [0, 7, 12, 40])
def test_zeros_that_a_power_cut_left_are_told_read_up_to_and_appended_behind(tmp_path, caplog, zeros, torn):
    path = write(tmp_path / "a.cap", b"one", b"two")
    whole = path.read_bytes()
    record = whole[len(write(tmp_path / "b.cap", b"one").read_bytes()) :]
    path.write_bytes(whole + record[:torn] + bytes(max(zeros, len(record))))
    assert messages(path) == [b"one", b"two"]
    assert "lost to zeros, as a power cut leaves them; 2 messages before them were read" in caplog.text
    assert messages(write(path, b"three")) == [b"one", b"two", b"three"]
    ((lost, reason),) = gaps(path)
    assert lost == 0
    assert "lost to zeros" in reason
    caplog.clear()
    assert messages(write(path, b"four"))[-1] == b"four"
    assert "lost to zeros" not in caplog.text


def test_zeros_where_the_last_record_should_be_are_a_power_cut_too(tmp_path, caplog):
    path = write(tmp_path / "a.cap", b"one", bytes(range(1, 256)) * 20)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1024] + bytes(1024))
    assert messages(path) == [b"one"]
    assert "as a power cut leaves them; 1 messages" in caplog.text


def test_two_captures_joined_end_to_end_are_told_as_what_they_are(tmp_path):
    path = tmp_path / "a.cap"
    path.write_bytes(write(tmp_path / "b.cap", b"one").read_bytes() + write(tmp_path / "c.cap", b"two").read_bytes())
    expected = r"12 bytes at byte \d+ that begin another capture, joined .*; 1 messages .* `splitleak capture join`"
    with pytest.raises(WireError, match=expected):
        messages(path)
    with pytest.raises(WireError, match="joined to the first end to end"):
        write(path, b"three")


def test_what_lies_around_damage_is_found_again(tmp_path):
    path = write(tmp_path / "a.cap", b"one", b"two", b"three")
    whole = path.read_bytes()
    spans = [(start, stop) for _, start, stop in scanned(path)]
    for at in range(*spans[1]):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        first, damage, last = [each for each, _, _ in scanned(path)]
        assert (first.message, last.message) == (b"one", b"three")
        assert damage == Damage("damaged", spans[1][0], spans[1][1] - spans[1][0])


def test_a_record_within_a_message_is_not_taken_for_one_where_only_the_body_is_damaged(tmp_path):
    inner = write(tmp_path / "inner.cap", b"inner").read_bytes()
    path = write(tmp_path / "a.cap", inner, b"last")
    whole = bytearray(path.read_bytes())
    whole[30] ^= 1  # in the method's name
    path.write_bytes(whole)
    assert [type(each) for each, _, _ in scanned(path)] == [Damage, Record]


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """A capture of 300,000 records, written as the layout says and not by us."""
    path = tmp_path_factory.mktemp("big") / "big.cap"
    record = Record(1, 0, "request", MODEL_INFER, b"x" * 40).packed()
    path.write_bytes(HEADER + record * 300_000)
    return path


def test_a_writer_begins_at_the_end_of_a_large_capture_without_reading_it(big, monkeypatch):
    read_bytes, real = [], os.pread

    def counted(descriptor, size, place):
        read_bytes.append(size)
        return real(descriptor, size, place)

    monkeypatch.setattr(os, "pread", counted)
    size = big.stat().st_size
    with CaptureWriter(big) as writer:
        assert sum(read_bytes) < 4 * 2**20 < size / 5
        writer.write(MODEL_INFER, 1, "request", b"new")
    assert big.stat().st_size == size + len(Record(0, 1, "request", MODEL_INFER, b"new").packed())


@pytest.mark.parametrize("tail", [b"\1", HEADER[:7], Record(1, 0, "request", MODEL_INFER, bytes(5000)).packed()[:-1]])
def test_a_torn_end_of_a_large_capture_is_cut_off_exactly(big, tail):
    size = big.stat().st_size
    with big.open("ab") as file:
        file.write(tail)
    with CaptureWriter(big):
        assert big.stat().st_size == size


def test_a_large_last_record_is_found(tmp_path):
    path = write(tmp_path / "a.cap", b"one", bytes(3 * 2**20), b"two" * 2**20)
    assert len(messages(write(path, b"last"))) == 4
    os.truncate(path, path.stat().st_size - len(Record(0, 0, "request", MODEL_INFER, b"last").packed()) - 1)
    assert len(messages(write(path, b"last"))) == 3


def test_a_new_capture_is_its_owners_alone_and_the_mode_of_an_old_one_stays(tmp_path):
    path = write(tmp_path / "a.cap", b"one")
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    write(path, b"two")
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_capture_of_limited_files_reads_as_one(tmp_path):
    path = tmp_path / "a.cap"
    (tmp_path / "a.cap.2").write_text("somebody else's")
    sent = [bytes([number]) * 400 for number in range(20)]
    for half in (sent[:9], sent[9:]):
        with CaptureWriter(path, rotate_mb=0.002) as writer:
            for message in half:
                writer.write(MODEL_INFER, 0, "request", message)
    assert messages(path) == sent
    names = [part.name for part in parts(path)]
    assert names == [*(f"a.cap.{number}" for number in (1, 3, 4, 5)), "a.cap"]
    assert all(part.stat().st_size <= 2000 for part in parts(path))
    assert (tmp_path / "a.cap.2").read_text() == "somebody else's"


def test_the_files_of_a_capture_that_is_named_by_a_link_are_beside_the_file_itself(tmp_path):
    path, disk = tmp_path / "a.cap", tmp_path / "disk"
    disk.mkdir()
    path.symlink_to(disk / "real.cap")
    sent = [bytes([number]) * 400 for number in range(9)]
    for half in (sent[:5], sent[5:]):
        with CaptureWriter(path, rotate_mb=0.001) as writer:
            for message in half:
                writer.write(MODEL_INFER, 0, "request", message)
    assert path.is_symlink()
    assert sorted(disk.iterdir()) == sorted([*parts(path)[:-1], disk / "real.cap"])
    assert messages(path) == messages(disk / "real.cap") == sent


def test_no_link_is_followed_to_begin_a_new_file(tmp_path):
    path, other = tmp_path / "a.cap", tmp_path / "other"
    other.write_text("somebody else's")
    (tmp_path / ".a.cap.next").symlink_to(other)
    sent = [bytes([number]) * 400 for number in range(9)]
    with CaptureWriter(path, rotate_mb=0.001) as writer:
        for message in sent:
            writer.write(MODEL_INFER, 0, "request", message)
    assert other.read_text() == "somebody else's"
    assert messages(path) == sent


def test_a_capture_whose_writer_begins_new_files_meanwhile_is_read_whole(tmp_path):
    path = tmp_path / "a.cap"
    with CaptureWriter(path, rotate_mb=0.0005) as writer:
        for number in range(12):
            writer.write(MODEL_INFER, number, "request", bytes(100))
        assert len(parts(path)) > 2
        reading = read(path)
        seen = [next(reading).call]
        for number in range(12, 24):
            writer.write(MODEL_INFER, number, "request", bytes(100))
        seen += [record.call for record in reading]
    assert seen == list(range(len(seen)))
    assert len(seen) >= 12


@pytest.mark.parametrize("size", [7, 20, None])
@pytest.mark.parametrize("every", [1, 2])
def test_what_a_writer_appends_while_it_is_read_is_no_damage(tmp_path, monkeypatch, size, every):
    path = write(tmp_path / "a.cap", b"before")
    sent = [bytes([number]) * 60 for number in range(4)]
    coming = b"".join(Record(1, number, "request", MODEL_INFER, each).packed() for number, each in enumerate(sent))
    step = size or len(coming) // len(sent)
    pieces, asked, fstat = iter(range(0, len(coming), step)), itertools.count(1), os.fstat

    def append(at):
        with path.open("ab", buffering=0) as file:
            file.write(coming[at : at + step])

    def growing(descriptor):
        if next(asked) % every == 0 and (at := next(pieces, None)) is not None:
            append(at)
        return fstat(descriptor)

    monkeypatch.setattr(os, "fstat", growing)
    seen = messages(path)
    monkeypatch.undo()
    assert seen == [b"before", *sent][: len(seen)]
    for at in pieces:
        append(at)
    assert messages(path) == [b"before", *sent]


@pytest.mark.parametrize("room", [0, 50, 130])
def test_a_disk_that_fills_as_a_new_file_begins_hides_no_earlier_part(tmp_path, monkeypatch, room):
    path, left, plain = tmp_path / "a.cap", [10_000], os.fdopen

    class Disk:
        """A file on a disk of so many bytes."""

        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            if len(data) > left[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            left[0] -= len(data)
            return self.file.write(data)

    monkeypatch.setattr(os, "fdopen", lambda *given, **how: Disk(plain(*given, **how)))
    with CaptureWriter(path, rotate_mb=0.0005) as writer:
        for number in range(4):
            writer.write(MODEL_INFER, number, "request", bytes(100))
        left[0] = room
        writer.write(MODEL_INFER, 4, "request", bytes(100))
    assert writer.lost == 1
    assert [record.call for record in read(path)] == [0, 1, 2, 3]
    left[0] = 10_000
    with CaptureWriter(path, rotate_mb=0.0005) as writer:
        writer.write(MODEL_INFER, 5, "request", bytes(100))
    assert [record.call for record in read(path)] == [0, 1, 2, 3, 5]
    assert {each.name for each in tmp_path.iterdir()} == {each.name for each in parts(path)}


def test_a_capture_is_on_the_disk_where_it_ends_and_not_at_each_message(tmp_path, monkeypatch):
    synced, call = [], os.fsync

    def recorded(descriptor):
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        call(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    path = tmp_path / "a.cap"
    done = [path, tmp_path / ".a.cap.next", tmp_path]
    with CaptureWriter(path, 0.0002) as writer:
        for number in range(3):
            writer.write(MODEL_INFER, number, "request", bytes(100))
            earlier = len(list(tmp_path.iterdir())) - 1
            assert synced == done * earlier
    assert earlier == 2
    assert synced == [*done * 2, path, tmp_path]


def test_a_disk_that_fails_at_the_end_costs_nobody_anything(tmp_path, monkeypatch, caplog):
    def failing(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", failing)
    with CaptureWriter(tmp_path / "a.cap", 0.0002) as writer:
        for number in range(3):
            writer.write(MODEL_INFER, number, "request", bytes(100))
    assert [record.call for record in read(tmp_path / "a.cap")] == [0, 1, 2]
    assert "the disk may not hold all of it after a power cut" in caplog.text


@pytest.mark.parametrize("rotate_mb", [None, 0.002])
def test_a_capture_ends_at_its_limit_says_so_and_counts_what_is_missing(tmp_path, caplog, rotate_mb):
    path, most = tmp_path / "a.cap", 10_000

    def size():
        return sum(each.stat().st_size for each in tmp_path.iterdir())

    with CaptureWriter(path, rotate_mb, most) as writer:
        for number in range(30):
            writer.write(MODEL_INFER, number, "request", bytes(500))
        kept = [record.call for record in read(path)]
        assert gaps(path) == [(0, "the recording ends here, at its limit of 10000 bytes")]  # though it be killed
        writer.write(MODEL_INFER, 99, "request", b"")  # a small one would have room
    assert [record.call for record in read(path)] == kept == list(range(len(kept)))
    assert 14 <= len(kept) < 20
    assert gaps(path)[1:] == [(31 - len(kept), "the capture has reached its limit")]
    assert most - 1500 < size() <= most
    assert caplog.text.count("at its limit of 10000 bytes") == 1
    before = size()
    with CaptureWriter(path, rotate_mb, most) as writer:  # and the next one counts what is there
        writer.write(MODEL_INFER, 0, "request", bytes(500))
    assert [record.call for record in read(path)] == kept
    assert before < size() <= most
    with CaptureWriter(path, rotate_mb, 2 * most) as writer:
        writer.write(MODEL_INFER, 100, "request", bytes(500))
    assert [record.call for record in read(path)] == [*kept, 100]


def test_what_is_missing_is_counted_over_all_parts(tmp_path):
    path = tmp_path / "a.cap"
    write(path, b"one")
    assert missing(path) == {"gaps": 0, "lost": 0}
    with CaptureWriter(path, max_bytes=1) as writer:
        for number in range(4):
            writer.write(MODEL_INFER, number, "request", b"lost")
    assert missing(path) == {"gaps": 2, "lost": 4}  # where it ends, and how many there were
    with CaptureWriter(path, rotate_mb=0.0001) as writer:
        writer.write(MODEL_INFER, 0, "request", b"more")
    with path.open("ab") as file:
        file.write(bytes(600))
    assert missing(path) == {"gaps": 3, "lost": 4}
    next(each for each in parts(path) if each != path).unlink()
    assert missing(path) == {"gaps": 2, "lost": 0}


def test_a_missing_earlier_part_is_told(tmp_path, caplog):
    path = tmp_path / "a.cap"
    with CaptureWriter(path, rotate_mb=0.0001) as writer:
        for message in (b"one", b"two", b"three"):
            writer.write(MODEL_INFER, 0, "request", message)
    (tmp_path / "a.cap.1").unlink()
    assert messages(path) == [b"two", b"three"]
    assert "its earlier part a.cap.1 is missing" in caplog.text


@pytest.mark.parametrize("said", [{}, *({"part": name} for name in ("", ".", "../a", "x" * 300, "\ud800", "a\n", 3))])
def test_a_note_that_names_no_file_names_no_earlier_part(tmp_path, said):
    path = tmp_path / "a.cap"
    path.write_bytes(HEADER + note(CONTINUES, said).packed() + Record(1, 0, "request", MODEL_INFER, b"one").packed())
    assert parts(path) == [path]
    assert messages(path) == [b"one"]
    assert missing(path) == {"gaps": 0, "lost": 0}


def test_a_note_that_is_nested_without_end_or_counts_below_nothing_tells_of_a_gap_alone(tmp_path):
    path, empty = tmp_path / "a.cap", note(GAP, {})
    nested, negative = replace(empty, message=b"[" * 100_000), note(GAP, {"lost": -3, "reason": "none"})
    path.write_bytes(HEADER + nested.packed() + negative.packed() + note(GAP, {"lost": 2}).packed())
    assert missing(path) == {"gaps": 3, "lost": 2}
    checked = check(path)
    assert checked.lost == 2
    assert [gap["lost"] for gap in checked.document()["gaps"]] == [0, 0, 2]


def test_inference_requests_are_picked_out_of_the_traffic(tmp_path):
    sent = codec.encode(np.arange(6, dtype=np.float32).reshape(2, 3), "uint8")
    message = codec.request("m", sent, request_id="42").SerializeToString()
    with CaptureWriter(tmp_path / "a.cap") as writer:
        writer.write(method_path("ServerLive"), 0, "request", b"")
        writer.write(MODEL_INFER, 1, "request", message)
        writer.write(MODEL_INFER, 1, "response", b"\xff")
        writer.write(MODEL_STREAM_INFER, 2, "request", message)
    assert list(inference_requests(read(tmp_path / "a.cap"))) == [("42", sent)] * 2


def test_a_request_that_holds_no_tensor_is_left_out_and_counted(caplog):
    sent = codec.encode(np.arange(6, dtype=np.float32).reshape(2, 3), "uint8")
    cut = codec.request("m", replace(sent, raw=sent.raw[:-1]), request_id="short").SerializeToString()
    whole = codec.request("m", sent, request_id="a").SerializeToString()
    records = [
        Record(0, 5 + call, "request", MODEL_INFER, each) for call, each in enumerate((b"\xff", whole, cut, b""))
    ]
    assert list(inference_requests(records)) == [("a", sent)]
    assert "3 requests that hold no tensor are left out; the first, call 5: " in caplog.text


def test_inference_requests_are_those_of_one_model_if_it_is_named():
    sent = codec.encode(np.zeros((1, 3), np.float32), "fp32")
    messages = [codec.request(name, sent, request_id=name).SerializeToString() for name in ("a", "b")]
    records = [Record(0, call, "request", MODEL_INFER, message) for call, message in enumerate(messages)]
    assert [name for name, _ in inference_requests(records)] == ["a", "b"]
    assert [name for name, _ in inference_requests(records, "b")] == ["b"]
