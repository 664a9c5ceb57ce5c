"""A capture keeps what was written, survives its writer, and its reader survives any bytes."""

import resource
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from splitleak.errors import WireError
from splitleak.wire.files.captures import CaptureWriter, Record, inference_requests, read
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

    path = write(tmp_path / "a.cap")
    path.write_bytes(path.read_bytes()[:12] + _frame(body) + body)
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


def test_inference_requests_are_picked_out_of_the_traffic(tmp_path):
    sent = codec.encode(np.arange(6, dtype=np.float32).reshape(2, 3), "uint8")
    message = codec.request("m", sent, request_id="42").SerializeToString()
    with CaptureWriter(tmp_path / "a.cap") as writer:
        writer.write(method_path("ServerLive"), 0, "request", b"")
        writer.write(MODEL_INFER, 1, "request", message)
        writer.write(MODEL_INFER, 1, "response", b"\xff")
        writer.write(MODEL_STREAM_INFER, 2, "request", message)
    assert list(inference_requests(read(tmp_path / "a.cap"))) == [("42", sent)] * 2


def test_a_captured_request_that_is_none_is_a_wire_error():
    with pytest.raises(WireError, match="expected a ModelInferRequest in call 5, got 2 other bytes"):
        list(inference_requests([Record(0, 5, "request", MODEL_INFER, b"\xff\xff")]))
