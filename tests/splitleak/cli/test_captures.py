import json
import shutil

import pytest

from splitleak.wire.files.captures import CaptureWriter
from splitleak.wire.protocol.paths import MODEL_INFER


@pytest.fixture
def capture(tmp_path):
    path = tmp_path / "a.cap"
    with CaptureWriter(path) as writer:
        writer.write(MODEL_INFER, 0, "request", b"one")
    return path


def test_a_good_capture_is_described(call, capture):
    code, out, err = call("capture", "check", capture, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["messages"] == 1
    assert call("capture", "check", capture)[1].startswith(f"{capture}: 1 messages of 1 calls in ")


def test_a_damaged_capture_is_told_and_salvaged(call, capture, tmp_path):
    capture.write_bytes(capture.read_bytes() + bytes(64))
    code, out, _ = call("capture", "check", capture)
    assert code == 1
    assert "64 bytes at byte " in out
    assert "as a power cut leaves them" in out
    assert call("capture", "salvage", capture, "--out", tmp_path / "b.cap")[0] == 0
    code, out, _ = call("capture", "check", tmp_path / "b.cap")
    assert code == 0
    assert "gap: unknown number of messages missing" in out


def test_captures_are_joined_into_a_new_file_alone(call, capture, tmp_path, refusal):
    assert "twice" in refusal("capture", "join", capture, capture, "--out", tmp_path / "b.cap")
    copy = shutil.copy(capture, tmp_path / "c.cap")
    code, out, _ = call("capture", "join", capture, copy, "--out", tmp_path / "b.cap", "--json")
    assert (code, json.loads(out)["messages"]) == (0, 2)
    assert "exists" in refusal("capture", "join", capture, "--out", tmp_path / "b.cap")
