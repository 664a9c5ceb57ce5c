import logging

import pytest

from splitleak.logs import configure, printable, progress


@pytest.fixture
def _root_logger():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("_root_logger")
def test_log_lines_of_the_level_and_above_go_to_standard_error(capsys):
    configure("info")
    logging.getLogger("cloud").info("ready")
    logging.getLogger("cloud").debug("detail")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.endswith("INFO cloud: ready\n")
    assert said.err.count("\n") == 1


@pytest.mark.usefixtures("_root_logger")
def test_an_unknown_level_is_refused():
    with pytest.raises(ValueError, match="LOUD"):
        configure("loud")


def test_away_from_a_terminal_progress_is_its_last_line_on_standard_error(capsys):
    with progress("target") as report:
        for done in range(1, 4):
            report("train", done, 3, {"loss": 0.123456, "accuracy": 1.0})
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "target train 3/3 loss 0.1235  accuracy 1\n"


def test_away_from_a_terminal_a_long_step_tells_the_time_left(capsys, monkeypatch):
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with progress("target") as report:
        for done in range(5):
            report("train", done, 5, {})
            now += 30
    said = capsys.readouterr().err.splitlines()
    assert [line.rpartition("left ")[2] for line in said] == ["2:00", "1:30", "1:00", "0:30"]


def test_the_time_left_is_told_within_the_first_step_and_anew_for_another_task_of_the_name(capsys, monkeypatch):
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with progress("target") as report:
        for done in (0.1, 0.2, 2, 0.25, 0.5):
            report("train", done, 2, {})
            now += 6
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" ", 2)[2] for line in said] == ["0.2/2  left 1:48", "2/2", "0.2/2", "0.5/2  left 0:36"]


def test_on_a_terminal_progress_is_a_bar(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with progress("target") as report:
        report("train", 3, 3, {"loss": 0.5})
    said = capsys.readouterr()
    assert said.out == ""
    assert "3/3" in said.err
    assert "loss 0.5" in said.err


HOSTILE = "a[/b] [red]x \x1b[2J\x9b31m\r\x07\u202e :smile:"
SHOWN = r"a[/b] [red]x \x1b[2J\x9b31m\r\x07\u202e :smile:"


def test_a_name_is_shown_with_its_control_characters_written_out():
    assert printable(HOSTILE) == SHOWN
    assert printable("Zoë\tein 日本\n") == "Zoë\tein 日本\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_markup_and_escape_sequences_in_a_name_neither_crash_nor_vanish_from_progress(capsys, monkeypatch, terminal):
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "200")
    with progress(HOSTILE) as report:
        report(HOSTILE, 1, 1, {})
    said = capsys.readouterr().err
    assert SHOWN in said
    assert "\x1b[2J" not in said


@pytest.mark.usefixtures("_root_logger")
def test_log_lines_do_not_steer_the_terminal(capsys):
    configure("warning")
    logging.getLogger("x").warning("%s", HOSTILE)
    assert SHOWN in capsys.readouterr().err
