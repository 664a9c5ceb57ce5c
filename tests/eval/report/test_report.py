import base64
import csv
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from splitleak.artifacts import write_json
from splitleak.cli import app
from splitleak.config import read_table
from splitleak.eval.campaign.forecast import Times, Took
from splitleak.eval.campaign.store import Store
from splitleak.eval.report.figures.gallery import galleries
from splitleak.eval.report.report import write_report
from splitleak.eval.report.results import Results

CLAIM = {"text": "More <is> better", "figure": "truncation", "metric": "mse", "lower": "m = 3", "higher": "m = 1"}
REFUTED = {**CLAIM, "text": "Less is better", "lower": "m = 1", "higher": "m = 3"}


@pytest.fixture
def report(tmp_path, undrawn):
    def make(folder):
        path = write_report(folder, tmp_path / "out")
        return path.read_text(encoding="utf-8"), path.parent

    return make


@pytest.mark.slow
def test_the_page_holds_all_that_a_reader_needs_and_loads_no_other_file(fake_campaign, tmp_path, parsed):
    html = write_report(fake_campaign(), out := tmp_path / "out").read_text(encoding="utf-8")
    page = parsed(html)
    assert page.loaded
    assert all(loaded.startswith("data:image/") for loaded in page.loaded)
    assert page.tags.count("script") == 1  # the page's own
    assert not {"link", "iframe", "object"} & set(page.tags)
    assert all(link.startswith(("#", "data:")) for link in page.linked)
    assert not re.search(r"https?://|url\(|@import", html)
    assert len(html) < 5_000_000
    text = " ".join("".join(page.text).split())
    for said in ("A <fake> campaign", "40 of 40 cells", "abc123", "abacus", "splitleak campaign run", "0, 1"):
        assert said in text
    for heading in (
        "Scores",
        "Doubts",
        "Relations",
        "Accuracy and leak",
        "Paired differences",
        "Where these numbers come from",
    ):
        assert heading in text
    markdown = (out / "report.md").read_text()
    assert "| Bottleneck + CEM | 89.70 ± 0.00 (68.42) |" in markdown
    assert "![accuracy against leakage](frontier.png)" in markdown
    tables = re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE)
    assert all(len({line.count("|") for line in table.splitlines()}) == 1 for table in tables)
    assert (out / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (out / "frontier.svg").read_bytes()


def test_failures_of_this_plan_are_shown_and_escaped(fake_campaign, report, parsed):
    folder = fake_campaign(lambda cell, _: cell["id"] != "PATROL0-gan", methods=("PATROL",))
    jobs = (("cell-PATROL0-gan", "<b>x</b>"), ("cell-old", "old job"), ("cell-PATROL1-gan", "done elsewhere"))
    for job, label in jobs:
        failure = {"job": job, "label": label, "command": "c", "error": "<script>1</script>", "log": ""}
        write_json(folder / "failures" / f"{job}.json", failure)
    html, out = report(folder)
    assert parsed(html).tags.count("script") == 1  # the page's own
    assert "&lt;script&gt;" in html
    assert "&lt;b&gt;x" in html
    assert "old job" not in html
    assert "done elsewhere" not in html
    assert "cell-PATROL0-gan" in (out / "report.md").read_text()


@pytest.mark.slow
def test_the_records_are_one_line_each_without_values_of_single_images(fake_campaign, report):
    def long(cell, figures):
        history = [{"loss": 0.5}] * 60
        figures["findings"] = {"history": history, "curve": list(range(50)), "held_out_mse": 0.1, "few": [1, 2]}
        figures["values"] = 500

    leakage = {
        "mse_gaussian_estimate": 0.001,
        "fsinfo_nats_per_pixel": None,
        "effective_dimensions": 9.0,
        "assumptions": ["a"],
    }
    _, out = report(fake_campaign(long, leakage=lambda cell: leakage))
    lines = (out / "records.jsonl").read_text().splitlines()
    assert len(lines) == 40
    record = json.loads(lines[0])
    assert record["attack"]["findings"] == {"held_out_mse": 0.1, "few": [1, 2]}
    assert record["scores"]["mse"] == {"mean": pytest.approx(0.01), "std": 0.001}
    assert record["cell"]["method"] == "Bottleneck"
    assert record["leakage"] == {"mse_gaussian_estimate": 0.001, "effective_dimensions": 9.0, "assumptions": ["a"]}
    assert max(map(len, lines)) < 2000


@pytest.mark.slow
def test_the_csv_has_one_row_a_planned_cell_and_unrounded_figures(fake_campaign, report):
    _, out = report(fake_campaign(lambda cell, figures: cell["id"] != "PATROLCEM1-gan"))
    with (out / "table.csv").open(newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert len(rows) == 40
    assert float(rows["PATROL1-gan"]["mse"]) == 0.04 + 0.0001
    assert float(rows["PATROL1-gan"]["accuracy"]) == 90
    assert rows["PATROLCEM1-gan"]["mse"] == ""


def test_a_campaign_without_any_record_has_a_report_of_dashes_and_keeps_its_times(fake_campaign, report):
    folder = fake_campaign(lambda cell, figures: False)
    Store(folder).record_time(Took(job="train-a", group="train", cost=2.0, seconds=3.5, hardware="a Xeon"))
    html, out = report(folder)
    assert Times.load(out).jobs == Times.load(folder).jobs
    assert "0 of 40 cells" in html
    assert "data:image/png" not in html
    assert (out / "records.jsonl").read_text() == ""
    assert "| PATROL | - (65.10) |" in (out / "report.md").read_text()


def test_one_method_without_a_twin_has_no_differences(fake_campaign, report):
    folder = fake_campaign(methods=("Bottleneck", "PATROL"))
    plan = json.loads((folder / "campaign.json").read_text())
    plan["cells"] = [cell for cell in plan["cells"] if cell["plus"] is None]
    write_json(folder / "campaign.json", plan)
    html, _ = report(folder)
    assert "Paired differences" not in html
    assert "Average w" not in html


@pytest.mark.slow
def test_a_flag_is_told_once_with_all_it_is_about(fake_campaign, report):
    def constant(cell, figures):
        if cell["method"] == "PATROL" and cell["attack"] == "gan":
            figures["findings"] = {"mean_image_mse": 0.05, "held_out_mse": 0.05}

    html, _ = report(fake_campaign(constant, methods=("Bottleneck", "PATROL")))
    assert html.count("mean image: ") == 1
    assert "PATROL, gan (seed 0, 1); PATROL + CEM, gan (seed 0, 1)" in html


def test_a_folder_with_nothing_to_report_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="recorded results, or records"):
        write_report(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_writes_it_into_the_campaigns_folder_or_elsewhere(fake_campaign, tmp_path):
    folder = fake_campaign(methods=("Bottleneck",), seeds=(0,))
    result = CliRunner().invoke(app, ["campaign", "report", str(folder)])
    assert result.exit_code == 0, result.output
    assert (folder / "report" / "report.html").is_file()
    result = CliRunner().invoke(app, ["campaign", "report", str(folder), "--out", str(tmp_path / "there"), "--json"])
    assert json.loads(result.output) == {"report": str(tmp_path / "there" / "report.html")}
    assert "One seed (0)" in (tmp_path / "there" / "report.md").read_text()


def test_the_page_of_figures_holds_all_that_a_reader_needs_and_loads_no_other_file(fake_predictions, report, parsed):
    html, out = report(fake_predictions(claims=[CLAIM, REFUTED]))
    page = parsed(html)
    assert len(page.loaded) == 3 + 3 * 4  # a strip a row, and each picture of the comparison
    assert all(loaded.startswith("data:image/") for loaded in page.loaded)
    assert page.tags.count("script") == 1  # the page's own
    assert not {"link", "iframe", "object", "is"} & set(page.tags)
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
    three = [CLAIM, REFUTED, {**CLAIM, "text": "Seen", "metric": "recognised"}]
    html, out = report(fake_predictions(claims=three, seeds=range(7)))
    markdown = (out / "report.md").read_text()
    assert "[truncation; mse: 'm = 3' ≤ 'm = 1'] | holds | 0.01 ±" in markdown
    assert "| m = 3: 0.023, m = 1: 0.033; in 7 of 7 seeds; the same in all seeds, p 0.031 |" in markdown
    assert "[truncation; mse: 'm = 1' ≤ 'm = 3'] | refuted | -0.01 ±" in markdown
    assert "| m = 1: 0.033, m = 3: 0.023; in 0 of 7 seeds; the same in all seeds, p 0.031 |" in markdown
    assert "| not measured |  |  |" in markdown
    assert [html.count(f'class="{kind}"') for kind in ("holds", "not")] == [1, 1]
    assert "<summary>1 not measured</summary>" in html


def test_a_claim_on_one_seed_is_doubted(fake_predictions, report):
    one = "one seed: "
    assert one in report(fake_predictions(claims=[CLAIM], seeds=(0,)))[0]
    assert one not in report(fake_predictions(claims=[CLAIM]))[0]


def test_a_flag_on_figures_is_told_once_with_all_its_places(fake_predictions, report):
    def constant(record):
        record["scores"]["mse"]["mean"] = 0.2

    html, _ = report(fake_predictions(change=constant))
    assert html.count("constant picture: ") == 1
    assert "truncation, m = 1 (seed 0, 1); truncation, m = 3 (seed 0, 1)" in html


def test_a_record_is_one_line_however_many_figures_show_it(fake_predictions, report):
    rows = {"m = 1": {"share": 1}, "all": {}}
    html, out = report(fake_predictions({"a b/c": rows, "d": {"m = 1": rows["m = 1"]}}))
    assert "4 of 4 cells" in html
    lines = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert [line["places"] for line in lines] == 2 * [[["a b/c", "m = 1"], ["d", "m = 1"]]] + 2 * [[["a b/c", "all"]]]
    assert "values" not in lines[0]["scores"]["mse"]
    assert "history" not in lines[0]["attack"]["findings"]
    assert len((out / "table.csv").read_text().splitlines()) == 1 + 6
    assert sorted(path.name for path in out.glob("gallery-*")) == ["gallery-a_b_c.png", "gallery-d.png"]


def test_figures_without_any_record_have_a_report_of_dashes(fake_predictions, report):
    html, out = report(fake_predictions(claims=[CLAIM], change=lambda record: False))
    assert "0 of 4 cells" in html
    assert "No flag was raised" in html
    assert "not measured" in html
    assert "| m = 1 | - | - | - | - |" in (out / "report.md").read_text()
    assert (out / "records.jsonl").read_text() == ""


def test_failures_of_figures_are_shown_and_escaped(fake_predictions, report, parsed):
    folder = fake_predictions(change=lambda record: record["id"] != "m = 1-0")
    failure = {"job": "cell-m = 1-0", "label": "<b>x</b>", "command": "c", "error": "<script>1</script>", "log": ""}
    write_json(folder / "failures" / "cell-m = 1-0.json", failure)
    html, out = report(folder)
    assert parsed(html).tags.count("script") == 1  # the page's own
    assert "&lt;script&gt;" in html
    assert "cell-m = 1-0" in (out / "report.md").read_text()


# Records that no campaign planned.


@pytest.fixture
def run(tmp_path, record):
    """Two records; the second was made first, and its target's name is an attack on the reader."""
    record(tmp_path / "run" / "b", order=0, noise=0.05)
    far = record(tmp_path / "run" / "a", order=1, noise=0.3)
    target = far.target.model_copy(update={"name": "<script>alert('x')</script>"})
    far.model_copy(update={"target": target}).write(tmp_path / "run" / "a" / "record.json")
    return tmp_path / "run"


def test_the_page_of_records_needs_no_other_file_and_escapes_names(run, report, parsed):
    html, out = report(run)
    page = parsed(html)
    assert page.loaded
    assert all(loaded.startswith("data:image/png;base64,") for loaded in page.loaded)
    assert page.tags.count("script") == 1  # the page's own
    assert not {"link", "iframe", "object"} & set(page.tags)
    assert all(link.startswith(("#", "data:")) for link in page.linked)
    assert not re.search(r"https?://|url\(|@import", html)
    assert "<script>alert('x')</script>" in "".join(page.text)
    assert "2 of 2 cells" in (out / "report.md").read_text()


def test_every_victim_stands_above_every_copy(run, report, parsed):
    shown = galleries(Results.load(run), 12, 10**7).values()
    uris = [strip.picture for gallery in shown for strip in gallery.strips]
    assert set(uris) <= set(parsed(report(run)[0]).loaded)
    strips = [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))) for uri in uris]
    with np.load(run / "b" / "pictures.npz") as first, np.load(run / "a" / "pictures.npz") as second:
        for strip, cell, which in zip(strips, (first, first, second), ("truth", "rebuilt", "rebuilt"), strict=True):
            order = np.argsort(cell["places"])[:12]
            assert np.array_equal(strip, np.concatenate([cell[which][index][0] for index in order], axis=1))


def test_records_of_different_victims_have_a_truth_each_or_none(run, report, parsed):
    path = run / "a" / "pictures.npz"
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, "truth": 255 - arrays["truth"]})
    html, _ = report(run)
    assert "2 of 2 cells" in html
    assert parsed(html).loaded == []


def test_the_latency_of_the_records_is_in_the_table(run, report):
    parts = ("edge_ms", "wire_ms", "cloud_ms", "total_ms")
    targets = {"toy": {part: {"p50": 1.234, "p95": 4.56} for part in parts}}
    write_json(run / "latency.json", {"samples": 10, "targets": targets, "provenance": {"hardware": "abacus"}})
    html, out = report(run)
    assert "latency p50" in html
    assert "1.23" in (out / "report.md").read_text()
    assert json.loads((out / "latency.json").read_text())["targets"] == targets


def test_doubts_about_records_are_shown(run, report):
    assert "not converged" in report(run)[0]


# A report can be reported again: it is a folder of recorded results.


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["features", "figures"])
def test_a_report_of_a_report_is_the_same(fake_campaign, fake_predictions, tmp_path, kind, undrawn):
    leakage = {"mse_gaussian_estimate": 0.001, "fsinfo_nats_per_pixel": 0.5, "effective_dimensions": 9.0}
    partial = {"change": lambda cell, _: cell["id"] != "PATROLCEM1-gan", "leakage": lambda cell: leakage}
    folder = fake_campaign(**partial) if kind == "features" else fake_predictions(claims=[CLAIM], seeds=(0,))
    write_json(folder / "failures" / "x.json", {"job": "cell-gone", "label": "l", "command": "c", "error": "e"})
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    write_report(folder, first)
    write_report(first, second)
    write_report(second, third)
    for name in ("report.md", "table.csv", "records.jsonl", "campaign.json"):
        texts = [(out / name).read_text() for out in (first, second, third)]
        assert texts[0] == texts[1] == texts[2], name
    drawn = [{path.name: path.read_bytes() for path in out.glob("gallery-*.png")} for out in (first, second)]
    assert drawn[0] == drawn[1] != {}


def test_pictures_of_an_earlier_plan_are_not_shown_for_those_of_the_plan(fake_predictions, tmp_path, undrawn):
    folder, out = fake_predictions(), tmp_path / "out"
    write_report(folder, out)
    shutil.rmtree(folder / "cells")
    assert write_report(folder, out).read_text().count("data:image/png") == 2  # of the same cells
    plan = read_table(folder / "campaign.json")
    write_json(folder / "campaign.json", {**plan, "cells": [{**cell, "id": "other"} for cell in plan["cells"]]})
    assert "data:image/png" not in write_report(folder, out).read_text()
    assert not [*out.glob("gallery-*.png"), *out.glob("strip.png")]


def test_recorded_results_can_be_reported_in_their_own_folder(fake_predictions, tmp_path, undrawn):
    write_report(fake_predictions(), tmp_path / "out")

    def files():
        named = (path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.suffix != ".html")
        return {path.name: path.read_bytes() for path in named}

    before = files()
    write_report(tmp_path / "out", tmp_path / "out")
    assert files() == before


@pytest.mark.parametrize("name", ["campaign.json", "table.csv", "report.html", "report.md"])
def test_what_is_no_report_is_not_replaced(fake_campaign, tmp_path, name, undrawn):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / name).write_text("mine")
    with pytest.raises(FileExistsError, match="theirs"):
        write_report(fake_campaign(methods=("PATROL",)), tmp_path / "theirs")
    assert [path.read_text() for path in (tmp_path / "theirs").iterdir()] == ["mine"]


def test_the_report_of_another_campaign_is_replaced_with_force_alone(fake_campaign, tmp_path, undrawn):
    folder, out = fake_campaign(methods=("PATROL",), seeds=(0,)), tmp_path / "out"
    write_report(folder, out)
    write_report(folder, out)
    plan = json.loads((folder / "campaign.json").read_text())
    write_json(folder / "campaign.json", {**plan, "name": "other"})
    before = (out / "report.md").read_text()
    expected = r"of the campaign other or none at .*, got one of fake; `splitleak campaign report --force`"
    with pytest.raises(FileExistsError, match=expected):
        write_report(folder, out)
    assert (out / "report.md").read_text() == before
    write_report(folder, out, force=True)


def test_a_report_does_not_replace_the_plan_of_the_campaign_it_is_of(fake_campaign):
    folder = fake_campaign()
    before = (folder / "campaign.json").read_text()
    with pytest.raises(FileExistsError, match=r"one without a valid report\.md"):
        write_report(folder, folder)
    assert (folder / "campaign.json").read_text() == before


def test_facts_name_every_commit_that_numbers_come_from(fake_predictions, report):
    def other(record):
        record["attack"]["provenance"] = {**record["provenance"], "commit": f"of seed {record['cell']['seed']}"}

    markdown = (report(fake_predictions(change=other))[1] / "report.md").read_text()
    assert "- commit: abc123; of seed 0; of seed 1\n" in markdown
    assert "- hardware: abacus\n" in markdown


def test_where_nothing_is_measured_the_commit_is_that_of_the_run(fake_predictions, report):
    nothing = (report(fake_predictions(change=lambda record: False))[1] / "report.md").read_text()
    assert "- commit: abc123\n" in nothing


def test_what_failed_is_told_with_its_last_lines(fake_predictions, report):
    folder = fake_predictions(change=lambda record: record["id"] != "m = 1-0")
    error = "\n".join(map(str, range(20)))
    failure = {"job": "cell-m = 1-0", "label": "l", "command": "c", "error": error, "log": ""}
    write_json(folder / "failures" / "x.json", failure)
    markdown = (report(folder)[1] / "report.md").read_text()
    assert "    19" in markdown
    assert "    11" not in markdown


# In a real browser: complete without a network, sortable, enlargeable, and accessible.


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Debian's chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, an extra of developers")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_is_complete_without_a_network_and_has_no_serious_fault(
    browser, fake_campaign, tmp_path, width, scheme
):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    folder = fake_campaign(methods=("Bottleneck", "PATROL"), seeds=(0, 1))
    plan = json.loads((folder / "campaign.json").read_text())
    write_json(folder / "campaign.json", {**plan, "title": "A name of one word: " + "x" * 200})
    page_file = write_report(folder, tmp_path / "out")
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True)
    page, asked, said = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(page_file.as_uri())
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    assert page.evaluate("document.documentElement.scrollWidth") == width  # tables scroll, the page does not
    broken = "Array.from(document.images).filter((image) => image.complete && !image.naturalWidth).length"
    assert page.evaluate(broken) == 0

    found = axe.Axe().run(page).response["violations"]
    assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found if rule["impact"] in ("serious", "critical")] == []

    table = page.locator("table.sortable").first
    column = table.locator("tr.names th button").nth(1)
    orders = []
    for _ in range(3):
        column.click()
        orders.append(table.locator("tbody tr:not(.average) td:nth-child(2)").all_inner_texts())
    rising, falling, first = [[float(text.split()[0]) for text in order] for order in orders]
    assert rising == sorted(first)
    assert falling == sorted(first, reverse=True)

    page.locator(".strip .enlarge").first.click()
    assert page.locator("dialog[open] img").get_attribute("alt").startswith("victims")
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    assert said == []
    context.close()
