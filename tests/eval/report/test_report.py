import csv
import json
import re

import pytest
from typer.testing import CliRunner

from splitleak.artifacts import write_json
from splitleak.cli import app
from splitleak.eval.report.features_report import write_campaign_report


@pytest.fixture
def report(tmp_path):
    def make(folder):
        path = write_campaign_report(folder, tmp_path / "out")
        return path.read_text(encoding="utf-8"), path.parent

    return make


def test_the_page_holds_all_that_a_reader_needs_and_loads_no_other_file(fake_campaign, report, parsed):
    html, out = report(fake_campaign())
    page = parsed(html)
    assert page.loaded
    assert all(loaded.startswith("data:image/") for loaded in page.loaded)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?://|url\(|@import", html)
    assert len(html) < 5_000_000
    text = " ".join("".join(page.text).split())
    for said in ("A <fake> campaign", "40 of 40 cells", "abc123", "abacus", "splitleak campaign run", "0, 1"):
        assert said in text
    for heading in ("Scores", "Doubts", "Relations", "Frontier", "Paired differences", "What the attackers rebuilt"):
        assert heading in text
    markdown = (out / "report.md").read_text()
    assert "| Bottleneck + CEM | 89.70 ± 0.00 (68.42) |" in markdown
    assert "![accuracy against leakage](frontier.png)" in markdown
    tables = re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE)
    assert all(len({line.count("|") for line in table.splitlines()}) == 1 for table in tables)
    assert (out / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (out / "frontier.svg").read_bytes()


def test_failures_of_this_plan_are_shown_and_escaped(fake_campaign, report, parsed):
    folder = fake_campaign()
    for job, label in (("cell-PATROL0-gan", "<b>x</b>"), ("cell-old", "old job")):
        failure = {"job": job, "label": label, "command": "c", "error": "<script>1</script>", "log": ""}
        write_json(folder / "failures" / f"{job}.json", failure)
    html, out = report(folder)
    assert "script" not in parsed(html).tags
    assert "&lt;script&gt;" in html
    assert "&lt;b&gt;x" in html
    assert "old job" not in html
    assert "cell-PATROL0-gan" in (out / "report.md").read_text()


def test_the_records_are_one_line_each_without_values_of_single_images(fake_campaign, report):
    def long(cell, figures):
        history = [{"loss": 0.5}] * 60
        figures["findings"] = {"history": history, "curve": list(range(50)), "held_out_mse": 0.1, "few": [1, 2]}
        figures["values"] = 500

    leakage = {"mse_bound": 0.001, "fsinfo_nats_per_pixel": None, "effective_dimensions": 9.0, "assumptions": ["a"]}
    _, out = report(fake_campaign(long, leakage=lambda cell: leakage))
    lines = (out / "records.jsonl").read_text().splitlines()
    assert len(lines) == 40
    record = json.loads(lines[0])
    assert record["attack"]["findings"] == {"held_out_mse": 0.1, "few": [1, 2]}
    assert record["score"]["mse"] == {"mean": pytest.approx(0.01), "std": 0.001}
    assert record["cell"]["method"] == "Bottleneck"
    assert record["leakage"] == {key: value for key, value in leakage.items() if key != "assumptions"}
    assert max(map(len, lines)) < 2000


def test_the_csv_has_one_row_a_planned_cell_and_unrounded_figures(fake_campaign, report):
    _, out = report(fake_campaign(lambda cell, figures: cell["id"] != "PATROLCEM1-gan"))
    with (out / "table.csv").open(newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert len(rows) == 40
    assert float(rows["PATROL1-gan"]["mse"]) == 0.04 + 0.0001
    assert float(rows["PATROL1-gan"]["accuracy"]) == 90
    assert rows["PATROLCEM1-gan"]["mse"] == ""


def test_a_campaign_without_any_record_has_a_report_of_dashes(fake_campaign, report):
    html, out = report(fake_campaign(lambda cell, figures: False))
    assert "0 of 40 cells" in html
    assert "What the attackers rebuilt" not in html
    assert (out / "records.jsonl").read_text() == ""
    assert "| PATROL | - (65.10) |" in (out / "report.md").read_text()


def test_one_method_without_a_twin_has_no_differences(fake_campaign, report):
    folder = fake_campaign()
    plan = json.loads((folder / "campaign.json").read_text())
    plan["cells"] = [cell for cell in plan["cells"] if cell["plus"] is None]
    write_json(folder / "campaign.json", plan)
    html, _ = report(folder)
    assert "Paired differences" not in html
    assert "Average w" not in html


def test_a_flag_is_told_once_with_all_it_is_about(fake_campaign, report):
    def constant(cell, figures):
        if cell["method"] == "PATROL" and cell["attack"] == "gan":
            figures["findings"] = {"mean_image_mse": 0.05, "held_out_mse": 0.05}

    html, _ = report(fake_campaign(constant))
    assert html.count("mean image: ") == 1
    assert "PATROL, gan (seed 0, 1); PATROL + CEM, gan (seed 0, 1)" in html


def test_a_folder_that_is_no_campaigns_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="campaign run"):
        write_campaign_report(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_writes_it_into_the_campaigns_folder_or_elsewhere(fake_campaign, tmp_path):
    folder = fake_campaign(methods=("Bottleneck",), seeds=(0,))
    result = CliRunner().invoke(app, ["campaign", "report", str(folder)])
    assert result.exit_code == 0, result.output
    assert (folder / "report" / "report.html").is_file()
    result = CliRunner().invoke(app, ["campaign", "report", str(folder), "--out", str(tmp_path / "there"), "--json"])
    assert json.loads(result.output) == {"report": str(tmp_path / "there" / "report.html")}
    assert "One seed (0)" in (tmp_path / "there" / "report.md").read_text()
