import json

import pytest

from splitleak.cli.output import console, result, table


def test_a_result_is_one_line_of_text_or_of_json(capsys):
    result(False, {"a": 1}, "one thing")
    result(True, {"a": 1}, "one thing")
    text, document = capsys.readouterr().out.splitlines()
    assert (text, json.loads(document)) == ("one thing", {"a": 1})


def test_a_table_sets_its_columns_to_the_side_asked_for(capsys):
    rows = [("short", "1"), ("a longer one", "1000")]
    console(width=60).print(table(("name", "figure"), rows, title="Figures", left=("name",), framed=False))
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "Figures"
    assert " short               1" in lines
    assert " a longer one     1000" in lines


def test_columns_break_their_lines_unless_told_otherwise(capsys):
    rows = [("one two three four", "five six seven eight")]
    console(width=30).print(table(("kept", "broken"), rows, wrap=("broken",), framed=False))
    assert "one two three four" in capsys.readouterr().out


@pytest.mark.parametrize("width", [200, 60, 40])
def test_a_table_wider_than_the_console_is_printed_in_parts_and_nothing_of_it_is_cut_off(capsys, width):
    columns = ("target", "MSE", "SSIM", "after", "total ms")
    rows = [("no-defense", "0.1374 ± 0.0265", "0.120 ± 0.091", "/layer1/Add_output_0", "0.80 / 1.47")]
    shown = table(columns, rows, title="Scores", left=("target", "after"), wrap=("after",), framed=False)
    console(width).print(shown)
    out = capsys.readouterr().out
    assert [text for text in (*columns, *rows[0]) if text not in out] == []
    assert max(map(len, out.splitlines())) <= width
    assert out.count("no-defense") == {200: 1, 60: 2, 40: 4}[width]
    assert out.count("Scores") == 1


def test_names_are_printed_as_they_are_without_markup_or_escape_sequences(capsys):
    hostile, shown = "a[/b] [red]x \x1b[2J :smile:", r"a[/b] [red]x \x1b[2J :smile:"
    made = console(200)
    made.print(table([hostile], [[hostile]], title=hostile))
    made.print(hostile)
    result(False, {}, hostile)
    assert capsys.readouterr().out.count(shown) == 5


FOLDERS = {
    "split": ("--public", 5, "--victims", 5),
    "train": (),
    "poison": ("{images}",),
    "purify": ("{toy}", "--images", "{images}", "--set", "epochs=1"),
    "prior": ("{images}/public.npz", "--set", "iterations=1", "--set", "width=2"),
    "attack": ("--public", "{images}/public.npz", "--capture", "nowhere"),
    "invert": ("--public", "{images}/public.npz", "--oracle", "{toy}"),
    "predict": ("--service", "127.0.0.1:1", "--images", "{images}/victims.npz"),
    "score": ("--artifact", "a", "--attack", "b", "--truth", "t", "--ledger", "l"),
    "score-classes": ("--artifact", "a", "--attack", "b", "--train-images", "t", "--evaluator", "e"),
    "demo": (),
    "report": ("{toy}/..",),
}


@pytest.fixture
def inputs(images, toy):
    """``inputs(command)``: what the command needs, but for ``--out``."""
    return lambda command: [str(each).format(images=images, toy=toy) for each in FOLDERS[command]]


def users_folder(place):
    place.mkdir()
    (place / "table.csv").write_text("mine")


def users_folder_with_our_names(place):
    place.mkdir()
    marks = ("artifact", "splits", "record", "attack", "prior", "ledger")
    for name in ("thesis.txt", "table.csv", *(f"{mark}.json" for mark in marks)):
        (place / name).write_text("{}")


def users_file(place):
    place.write_text("mine")


@pytest.mark.parametrize("command", FOLDERS)
@pytest.mark.parametrize(
    "make", [users_folder, users_folder_with_our_names, users_file], ids=lambda make: make.__name__
)
def test_a_folder_that_no_command_wrote_is_refused_by_name_and_not_touched(call, inputs, tmp_path, command, make):
    place = tmp_path / "precious"
    make(place)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    forced = ("--force",) if command not in ("demo", "report") else ()
    for force in ((), forced):
        code, _, err = call(command, *inputs(command), "--out", place, *force)
        assert code == 1
        assert err.splitlines()[-1].startswith("splitleak: expected ")
        assert str(place) in err.splitlines()[-1]
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


FILES = {
    "leakage": ("{toy}", "--images", "{images}", "--out"),
    "linkage": ("{toy}", "--images", "{images}", "--out"),
    "robustness": ("{toy}", "--images", "{images}", "--out"),
    "extraction": ("{toy}", "--artifact", "{toy}", "--train-images", "{images}/train.npz", "--out"),
    "layers": ("{toy}", "--artifact", "{toy}", "--images", "{images}", "--out"),
    "training-time": ("{toy}", "--images", "{images}", "--out"),
    "latency": ("{toy}", "--out"),
    "query": ("--public", "{images}/public.npz", "--service", "127.0.0.1:1", "--out"),
    "edge": ("{toy}", "--cloud", "127.0.0.1:1", "--patience", 0, "--images", "{images}/victims.npz", "--ledger"),
    "tap": ("--upstream", "127.0.0.1:1", "--listen", "127.0.0.1:0", "--capture"),
    "tap --blind": ("--upstream", "127.0.0.1:1", "--listen", "127.0.0.1:0", "--capture"),
    "cloud": ("{toy}", "--listen", "127.0.0.1:0", "--capture"),
}


@pytest.mark.parametrize("command", FILES)
@pytest.mark.parametrize("content", ["mine", '{"mine": 1}\n', "[]"])
def test_a_file_that_no_command_wrote_is_refused_by_name_and_not_touched(call, images, toy, tmp_path, command, content):
    place = tmp_path / "precious.json"
    place.write_text(content)
    given = [str(each).format(images=images, toy=toy) for each in FILES[command]]
    code, _, err = call(*command.split(), *given, place)
    assert code == 1
    assert "precious.json" in err.splitlines()[-1]
    assert place.read_text() == content


@pytest.mark.parametrize("command", ["latency", "edge"])
def test_json_that_another_command_reads_is_written_under_no_name_that_it_refuses(call, images, toy, tmp_path, command):
    given = [str(each).format(images=images, toy=toy) for each in FILES[command]]
    code, _, err = call(command, *given, tmp_path / "result.v2")
    assert code == 1
    assert "expected a .json file for the " in err
    assert "result.v2" in err


def test_a_result_is_written_over_one_of_the_same_command_and_over_others_with_force_alone(call, images, toy, tmp_path):
    place = tmp_path / "result.json"
    asked = ("leakage", toy, "--images", images, "--n-images", 1)
    assert call(*asked, "--out", place)[0] == call("--log-level", "error", *asked, "--out", place, "--json")[0] == 0
    before = place.read_bytes()
    code, _, err = call(*asked, "--seed", 1, "--out", place)
    assert (code, place.read_bytes()) == (1, before)
    assert f"expected a result of ours (JSON with its provenance) with these settings at {place}" in err
    assert err.endswith("--force replaces it\n")
    for force in (("--out", place, "--force"), ("--force", "--out", place)):
        assert call(*asked, "--seed", 1, *force)[0] == 0
        assert "--seed 1" in json.loads(place.read_text())["provenance"]["command"]
        assert call(*asked, *force)[0] == 0


@pytest.mark.parametrize("command", [name for name, given in FILES.items() if given[-1] == "--out" and name != "query"])
def test_a_result_of_another_command_is_refused_by_each_that_writes_one(call, images, toy, tmp_path, command):
    place = tmp_path / "earlier.json"
    place.write_text(json.dumps({"provenance": {"command": f"splitleak {command} elsewhere --seed 7"}}))
    before = place.read_bytes()
    given = [str(each).format(images=images, toy=toy) for each in FILES[command]]
    code, _, err = call(command, *given, place)
    assert (code, place.read_bytes()) == (1, before)
    assert "--force replaces it" in err
    place.write_text(json.dumps({"provenance": "odd"}))
    assert "got something else; it was not touched" in call(command, *given, place, "--force")[2]
