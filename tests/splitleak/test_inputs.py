import pytest

from splitleak.inputs import check_different


def test_one_file_or_folder_is_not_taken_for_two_by_any_name(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "hard").hardlink_to(tmp_path / "b" / "file")
    a, b = tmp_path / "a", tmp_path / "b"
    check_different([a, b, a / "file", b / "file"], "things")
    for first, second in ((a, tmp_path / "b" / ".." / "a"), (a, tmp_path / "link"), (b / "file", tmp_path / "hard")):
        with pytest.raises(ValueError, match=f"expected different things, got {first} twice, as {second} too"):
            check_different([first, b / "..", second], "things")
    with pytest.raises(ValueError, match=f"expected different things, got {a} twice$"):
        check_different([a, b, tmp_path / "a"], "things")


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        check_different([tmp_path / "nothing"], "things")
