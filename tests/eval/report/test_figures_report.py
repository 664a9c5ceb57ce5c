import json
import re

import pytest

from splitleak.artifacts import write_json
from splitleak.eval.report.figures_report import write_prediction_report

CLAIM = {"text": "More <is> better", "figure": "truncation", "metric": "mse", "lower": "m = 3", "higher": "m = 1"}
REFUTED = {**CLAIM, "text": "Less is better", "lower": "m = 1", "higher": "m = 3"}


@pytest.fixture
def report(tmp_path):
    def make(folder):
        path = write_prediction_report(folder, tmp_path / "out")
        return path.read_text(encoding="utf-8"), path.parent

    return make


def test_the_page_holds_all_that_a_reader_needs_and_loads_no_other_file(fake_predictions, report, parsed):
    html, out = report(fake_predictions(claims=[CLAIM, REFUTED]))
    page = parsed(html)
    assert len(page.loaded) == 3
    assert all(loaded.startswith("data:image/") for loaded in page.loaded)
    assert not {"script", "link", "iframe", "object", "is"} & set(page.tags)
    assert not re.search(r"https?://|url\(|@import", html)
    text = " ".join("".join(page.text).split())
    for said in ("Fake <predictions>", "4 of 4 cells", "abc123", "abacus", "Figure truncation", "Doubts", "Claims"):
        assert said in text
    markdown = (out / "report.md").read_text()
    assert "![Figure truncation](gallery-truncation.png)" in markdown
    assert (out / "gallery-truncation.png").read_bytes().startswith(b"\x89PNG")
    tables = re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE)
    assert len(tables) == 2
    assert all(len({re.sub(r"\\\|", "", line).count("|") for line in table.splitlines()}) == 1 for table in tables)


def test_every_claim_is_judged_with_its_figures(fake_predictions, report):
    html, out = report(fake_predictions(claims=[CLAIM, REFUTED, {**CLAIM, "text": "Seen", "metric": "recognised"}]))
    markdown = (out / "report.md").read_text()
    assert "[truncation; mse: 'm = 3' ≤ 'm = 1'] | holds | m = 3: 0.0205, m = 1: 0.0305" in markdown
    assert "m = 1: 0.0305; margin 0.01 ± 0; in 2 of 2 seeds |" in markdown
    assert "| does not hold | m = 1: 0.0305, m = 3: 0.0205; margin -0.01 ± 0; in 0 of 2 seeds |" in markdown
    assert "| not measured |  |" in markdown
    assert [html.count(f'class="{kind}"') for kind in ("holds", "not", "open")] == [1, 1, 1]


def test_a_claim_on_one_seed_is_doubted(fake_predictions, report):
    one = "one seed: "
    assert one in report(fake_predictions(claims=[CLAIM], seeds=(0,)))[0]
    assert one not in report(fake_predictions(claims=[CLAIM]))[0]


def test_a_flag_is_told_once_with_all_its_places(fake_predictions, report):
    def constant(record):
        record["score"]["mse"]["mean"] = 0.2

    html, _ = report(fake_predictions(change=constant))
    assert html.count("constant picture: ") == 1
    assert "truncation, m = 1 (seed 0, 1); truncation, m = 3 (seed 0, 1)" in html


def test_a_record_is_one_line_however_many_figures_show_it(fake_predictions, report):
    rows = {"m = 1": {"share": 1}, "all": {}}
    html, out = report(fake_predictions({"a b/c": rows, "d": {"m = 1": rows["m = 1"]}}))
    assert "4 of 4 cells" in html
    lines = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert [line["places"] for line in lines] == 2 * [[["a b/c", "m = 1"], ["d", "m = 1"]]] + 2 * [[["a b/c", "all"]]]
    assert "values" not in lines[0]["score"]["mse"]
    assert "history" not in lines[0]["attack"]["findings"]
    assert len((out / "table.csv").read_text().splitlines()) == 1 + 6
    assert sorted(path.name for path in out.glob("gallery-*")) == ["gallery-a_b_c.png", "gallery-d.png"]


def test_a_campaign_without_any_record_has_a_report_of_dashes(fake_predictions, report):
    html, out = report(fake_predictions(claims=[CLAIM], change=lambda record: False))
    assert "0 of 4 cells" in html
    assert "No flag was raised" in html
    assert "not measured" in html
    assert "| m = 1 | - | - |" in (out / "report.md").read_text()
    assert (out / "records.jsonl").read_text() == ""


def test_failures_are_shown_and_escaped(fake_predictions, report, parsed):
    folder = fake_predictions()
    failure = {"job": "cell-m = 1-0", "label": "<b>x</b>", "command": "c", "error": "<script>1</script>", "log": ""}
    write_json(folder / "failures" / "cell-m = 1-0.json", failure)
    html, out = report(folder)
    assert "script" not in parsed(html).tags
    assert "&lt;script&gt;" in html
    assert "cell-m = 1-0" in (out / "report.md").read_text()


def test_a_folder_that_is_no_campaigns_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="campaign run"):
        write_prediction_report(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
