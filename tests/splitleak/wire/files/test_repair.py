"""A damaged capture is described and salvaged, and several become one."""

import shutil
from pathlib import Path

import pytest

from splitleak.errors import WireError
from splitleak.wire.files.captures import HEADER, CaptureWriter, Record, read
from splitleak.wire.files.repair import check, join
from splitleak.wire.protocol.paths import MODEL_INFER


def write(path, *messages, **options):
    with CaptureWriter(path, **options) as writer:
        for call, message in enumerate(messages):
            writer.write(MODEL_INFER, call, "request", message)
    return path


def content(path):
    return [(record.call, record.message) for record in read(path)]


def test_a_good_file_is_described(tmp_path):
    path = write(tmp_path / "a.cap", b"one", b"two")
    found = check(path)
    assert (found.messages, found.calls, found.gaps, found.damages) == (2, 2, (), ())
    assert found.size == path.stat().st_size
    assert 0 < found.first_ns <= found.last_ns


def test_salvaging_keeps_all_but_the_damaged_record_notes_the_gap_and_leaves_the_file_alone(tmp_path):
    path = write(tmp_path / "a.cap", b"one", b"two", b"three")
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"two")] ^= 1
    path.write_bytes(whole)
    with pytest.raises(WireError, match="`splitleak capture salvage`"):
        join([path], tmp_path / "b.cap")
    assert [each.name for each in tmp_path.iterdir()] == ["a.cap"]
    made = join([path], tmp_path / "b.cap", salvage=True)
    assert content(tmp_path / "b.cap") == [(0, b"one"), (2, b"three")]
    assert [gap.note["lost"] for gap in made.gaps] == [0]
    assert path.read_bytes() == whole
    assert (tmp_path / "b.cap").stat().st_mode & 0o777 == 0o600
    assert content(write(tmp_path / "b.cap", b"more"))[-1] == (0, b"more")


@pytest.mark.parametrize("at", range(len(HEADER)))
def test_a_file_whose_header_is_damaged_can_be_salvaged(tmp_path, at):
    path = write(tmp_path / "a.cap", b"one", b"two")
    whole = bytearray(path.read_bytes())
    whole[at] ^= 0xFF
    path.write_bytes(whole)
    if at >= 8:  # another version's
        with pytest.raises(WireError, match="expected capture version 1"):
            check(path)
        return
    assert check(path).messages == 2
    join([path], tmp_path / "b.cap", salvage=True)
    assert content(tmp_path / "b.cap") == [(0, b"one"), (1, b"two")]


def test_zeros_in_the_midst_as_older_writers_left_them_are_salvaged_over(tmp_path):
    record = Record(7, 5, "response", MODEL_INFER, b"later").packed()
    path = write(tmp_path / "a.cap", b"one")
    path.write_bytes(path.read_bytes() + bytes(5000) + record)
    assert [each.size for each in check(path).damages] == [5000]
    join([path], tmp_path / "b.cap", salvage=True)
    assert content(tmp_path / "b.cap") == [(0, b"one"), (5, b"later")]


@pytest.mark.parametrize("by", ["cat", "join"])
def test_joined_captures_keep_their_calls_apart(tmp_path, by):
    first, second = write(tmp_path / "a.cap", b"one", b"two"), write(tmp_path / "b.cap", b"three")
    third = Path(shutil.copy(first, tmp_path / "c.cap"))
    given = [first, second, third]
    if by == "cat":
        both = tmp_path / "both.cap"
        both.write_bytes(b"".join(path.read_bytes() for path in given))
        assert {each.kind for each in check(both).damages} == {"joined"}
        given = [both]
    made = join(given, tmp_path / "out.cap")
    assert content(tmp_path / "out.cap") == [(0, b"one"), (1, b"two"), (2, b"three"), (3, b"one"), (4, b"two")]
    assert made.damages == ()


def test_a_capture_of_several_files_is_joined_whole(tmp_path):
    path = write(tmp_path / "a.cap", b"1", b"2", b"3", b"4", rotate_mb=0.0002)
    assert len(list(tmp_path.iterdir())) > 1
    join([path], tmp_path / "b.cap")
    assert [message for _, message in content(tmp_path / "b.cap")] == [b"1", b"2", b"3", b"4"]
    assert check(tmp_path / "b.cap").continues is None


def test_a_capture_or_a_part_of_one_is_not_joined_twice(tmp_path):
    path = write(tmp_path / "a.cap", b"1", b"2", b"3", b"4", rotate_mb=0.0002)
    part = min(tmp_path.glob("a.cap.*"))
    for given in ([path, path], [path, part], [part, path]):
        with pytest.raises(ValueError, match=r"expected different captures, each with its earlier parts, got .* twice"):
            join(given, tmp_path / "b.cap")
    assert not (tmp_path / "b.cap").exists()


def test_nothing_is_replaced_and_a_strange_file_is_refused(tmp_path):
    good, strange = write(tmp_path / "a.cap", b"one"), tmp_path / "b.cap"
    strange.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(1000))
    with pytest.raises(FileExistsError, match="expected a new file"):
        join([good], strange)
    for asked in (lambda: check(strange), lambda: join([strange], tmp_path / "c.cap", salvage=True)):
        with pytest.raises(WireError, match="expected a capture"):
            asked()
    assert not Path(tmp_path / "c.cap").exists()
