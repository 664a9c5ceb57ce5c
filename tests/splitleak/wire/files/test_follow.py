import os

import pytest

from splitleak.errors import WireError
from splitleak.wire.files.captures import CaptureWriter, Record, read
from splitleak.wire.files.follow import Follower


def texts(follower, marks):
    return [follower.read(mark).message for mark in marks]


def write(writer, *messages):
    for message in messages:
        writer.write("/toy/Echo", 7, "request", message)


def test_messages_come_once_each_as_they_are_written(tmp_path):
    path = tmp_path / "c"
    with CaptureWriter(path) as writer, Follower(path) as follower:
        assert list(follower.poll()) == []
        write(writer, b"one", b"two" * 100_000)
        marks = list(follower.poll())
        assert texts(follower, marks) == [b"one", b"two" * 100_000]
        first = marks[0].head
        assert (first.method, first.call, first.size) == ("/toy/Echo", 7, 3)
        assert list(follower.poll()) == []
        write(writer, b"three")
        assert texts(follower, follower.poll()) == [b"three"]


def test_a_record_that_is_being_written_is_waited_for(tmp_path):
    path = tmp_path / "c"
    with CaptureWriter(path) as writer:
        write(writer, b"whole")
    packed = Record(1, 2, "response", "/toy/Echo", b"x" * 1000).packed()
    with Follower(path) as follower, path.open("ab", buffering=0) as file:
        assert len(list(follower.poll())) == 1
        for start, stop in ((0, 5), (5, 12), (12, 20), (20, 900)):
            file.write(packed[start:stop])
            assert list(follower.poll()) == []
        file.write(packed[900:])
        assert texts(follower, follower.poll()) == [b"x" * 1000]
    assert follower.lost == 0


def test_a_writer_that_begins_new_files_is_followed_whatever_their_number(tmp_path):
    path = tmp_path / "c"
    with CaptureWriter(path, rotate_mb=0.001) as writer, Follower(path) as follower:
        seen = []
        for number in range(12):
            write(writer, b"%d" % number + b"." * 600)
            if number in (0, 3, 11):
                seen += [mark.head.size for mark in follower.poll()]
        assert sum(seen) == sum(len(record.message) for record in read(path))
        assert len(seen) == 12
    with Follower(path) as late:
        marks = list(late.poll())
        assert len(marks) == 12
        assert late.read(marks[0]) is None  # of a file that was closed meanwhile
        assert late.read(marks[-1]).message.startswith(b"11")


def test_damage_and_noted_gaps_are_counted_and_passed_over(tmp_path):
    path = tmp_path / "c"
    with CaptureWriter(path) as writer:
        write(writer, b"one", b"two", b"three")
    with path.open("r+b") as file:
        file.seek(14)
        file.write(b"!")
    with Follower(path) as follower:
        assert texts(follower, follower.poll()) == [b"two", b"three"]
        assert follower.lost == 1
        with CaptureWriter(tmp_path / "full", max_bytes=1100) as writer:
            write(writer, b"a" * 400)
        with Follower(tmp_path / "full") as other:
            assert list(other.poll()) == []
            assert other.lost >= 1


def test_a_capture_that_was_removed_is_followed_under_its_name_when_there_is_one_again(tmp_path):
    path = tmp_path / "c"
    with CaptureWriter(path) as writer, Follower(path) as follower:
        write(writer, b"one")
        assert texts(follower, follower.poll()) == [b"one"]
        os.unlink(path)
        assert list(follower.poll()) == []
        write(writer, b"two")
        assert texts(follower, follower.poll()) == [b"two"]


def test_something_else_than_a_capture_is_refused(tmp_path):
    (tmp_path / "c").write_text("somebody's thesis")
    with Follower(tmp_path / "c") as follower, pytest.raises(WireError, match="expected a capture"):
        list(follower.poll())
    with pytest.raises(FileNotFoundError), Follower(tmp_path / "nothing"):
        pass
