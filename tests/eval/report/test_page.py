import csv
import json

import pytest
from jinja2 import UndefinedError

from splitleak.eval.report.features_results import Spread
from splitleak.eval.report.page import (
    Sheet,
    Text,
    brief,
    facts,
    gathered,
    markdown_end,
    markdown_table,
    plain,
    render,
    seeds_note,
    spread_text,
    write_csv,
    write_lines,
)


@pytest.mark.parametrize(
    ("spread", "text"),
    [
        (None, "-"),
        (Spread(0.5, None, 1), "0.50 [1]"),
        (Spread(0.5, 0.1, 2), "0.50 ± 0.10 [2]"),
        (Spread(0.5, 0.0, 3), "0.50 ± 0.00"),
    ],
)
def test_a_spread_says_of_how_many_seeds_it_is_unless_of_all(spread, text):
    assert spread_text(spread, "{:.2f}".format, 3) == text


def test_one_seed_is_called_one():
    assert seeds_note([4]).startswith("One seed (4)")
    assert seeds_note([4, 5]).startswith("Mean ± standard deviation over 2 seeds (4, 5)")


def test_facts_name_every_commit_that_numbers_come_from():
    def record(commit):
        made = {"provenance": {"commit": commit, "hardware": "abacus", "torch": "2"}}
        return {**made, "target": made, "attack": made}

    plan = {"command": "run", "commit": "z", "hardware": "h", "torch": "1"}
    found = dict(facts(plan, 3, [record("b"), record("a")], [0, 1]))
    assert found == {
        "measured": "2 of 3 cells",
        "command": "run",
        "commit": "a; b",
        "hardware": "abacus",
        "torch": "2",
        "seeds": "0, 1",
    }
    assert dict(facts(plan, 3, [], [0]))["commit"] == "z"


def test_a_doubt_is_told_once_with_all_its_places_and_seeds():
    doubts = [("x", 0, "weak"), ("y", 1, "weak"), ("x", 1, "weak"), ("x", 1, "weak"), ("all", None, "odd")]
    assert gathered(doubts) == [("weak", "x (seed 0, 1); y (seed 1)"), ("odd", "all")]


def test_a_brief_record_has_no_values_histories_or_long_lists():
    document = {"a": {"values": [1], "mean": 2}, "history": [], "long": [0] * 17, "few": [{"values": 1, "b": [0] * 16}]}
    assert brief(document) == {"a": {"mean": 2}, "few": [{"b": [0] * 16}]}


def test_a_brief_record_keeps_who_was_recognised_and_no_other_value_of_a_picture():
    hits = [[1, 0]] * 20
    record = {"top1": {"hits": hits, "images": 40}, "mse": {"mean": 0.1, "images": [[0.1, 0.1]] * 2}, "scores": [[0.9]]}
    assert brief(record) == {"top1": {"hits": hits, "images": 40}, "mse": {"mean": 0.1}}


def test_a_table_reads_the_same_in_markdown():
    table = Sheet("T", (("", "row"), ("g", "a")), ((Text("x|y"), Text("1", "2")),), ("a note",))
    assert list(markdown_table(table)) == [
        "### T\n",
        "| row | g a |",
        "|---|---:|",
        "| x\\|y | 1 (2) |",
        "",
        "a note\n",
    ]
    assert Sheet("T", (("", "row"), ("g", "a"), ("g", "b")), ()).headings == [("", 1), ("g", 2)]
    assert plain("a\n b | c") == "a b \\| c"


def test_what_failed_is_told_with_its_last_lines():
    failure = {"job": "j", "label": "l", "error": "\n".join(map(str, range(20)))}
    text = "\n".join(markdown_end([], [failure]))
    assert "none: no flag was raised" in text
    assert "    19" in text
    assert "    11" not in text


def test_a_page_that_lacks_a_value_is_not_written():
    with pytest.raises(UndefinedError):
        render("predictions.html.jinja", checked=[])


def test_lines_and_rows_are_written_as_they_are(tmp_path):
    write_lines(tmp_path / "a.jsonl", iter([{"a": 1}, {"a": None}]))
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == [{"a": 1}, {"a": None}]
    write_csv(tmp_path / "a.csv", [{"a": 0.1 + 0.2, "b": None}])
    with (tmp_path / "a.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"a": "0.30000000000000004", "b": ""}]
    write_csv(tmp_path / "none.csv", [])
    assert (tmp_path / "none.csv").read_text() == "id\n"
