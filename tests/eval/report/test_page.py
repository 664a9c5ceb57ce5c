import csv
import io
import json

import pytest
from jinja2 import UndefinedError

from splitleak.eval.record.metrics import METRICS
from splitleak.eval.report.beside_published import _COLUMNS
from splitleak.eval.report.page import (
    Sheet,
    Text,
    csv_table,
    decimals,
    latex_table,
    markdown_table,
    plain,
    render,
    seeds_note,
    spread_text,
    write_csv,
    write_lines,
)
from splitleak.eval.report.results import Spread

LAST_LATIN = 0x17F


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


def test_a_number_has_the_digits_asked_for():
    assert (decimals(0)(1.5), decimals(3)(1.5)) == ("2", "1.500")


def test_one_seed_is_called_one():
    assert seeds_note([4]).startswith("One seed (4)")
    assert seeds_note([4, 5]).startswith("Mean ± standard deviation over 2 seeds (4, 5)")


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


def test_a_page_that_lacks_a_value_is_not_written():
    with pytest.raises(UndefinedError):
        render("report.html.jinja", report=None)


def test_lines_and_rows_are_written_as_they_are(tmp_path):
    write_lines(tmp_path / "a.jsonl", iter([{"a": 1}, {"a": None}]))
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == [{"a": 1}, {"a": None}]
    write_csv(tmp_path / "a.csv", [{"a": 0.1 + 0.2, "b": None}])
    with (tmp_path / "a.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"a": "0.30000000000000004", "b": ""}]
    write_csv(tmp_path / "none.csv", [])
    assert (tmp_path / "none.csv").read_text() == "id\n"


def test_a_table_in_latex_has_rules_of_booktabs_and_no_letter_that_latex_takes_for_its_own():
    sheet = Sheet(
        "T", (("", "a_b"), ("x & y", "50 %"), ("x & y", "n")), ((Text("r#1"), Text("1 ± 2", "3"), Text("-")),)
    )
    assert latex_table(sheet) == (
        "% T\n\\begin{tabular}{lrr}\n\\toprule\n"
        " & \\multicolumn{2}{c}{x \\& y} \\\\\n\\cmidrule(lr){2-3}\n"
        "a\\_b & 50 \\% & n \\\\\n\\midrule\n"
        "r\\#1 & 1 $\\pm$ 2 (3) & - \\\\\n\\bottomrule\n\\end{tabular}\n"
    )


def test_latex_knows_every_letter_of_our_columns():
    """Latin ones it has; others, as an arrow, end its run with an error."""
    titles = [*_COLUMNS, *((metric.heading, metric.label) for metric in METRICS), ("", "Δ MSE")]
    written = latex_table(Sheet("T", tuple(titles), ()))
    assert {letter for letter in written if ord(letter) > LAST_LATIN} == set()


def test_a_table_in_csv_keeps_commas_and_quotes_in_their_cells():
    sheet = Sheet("T", (("", "row"), ("h", "n")), ((Text('a, "b"'), Text("1")),))
    assert list(csv.reader(io.StringIO(csv_table(sheet)))) == [["row", "h n"], ['a, "b"', "1"]]
