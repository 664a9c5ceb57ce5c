import json

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


def test_names_are_printed_as_they_are_without_markup_or_escape_sequences(capsys):
    hostile, shown = "a[/b] [red]x \x1b[2J :smile:", r"a[/b] [red]x \x1b[2J :smile:"
    made = console(200)
    made.print(table([hostile], [[hostile]], title=hostile))
    made.print(hostile)
    result(False, {}, hostile)
    assert capsys.readouterr().out.count(shown) == 5
