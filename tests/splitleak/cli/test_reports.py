"""The commands that end in a report. The demo is run for real, in small: its last target, and an attack."""

import json
import sys
from importlib.resources import as_file, files

import pytest
from typer.testing import CliRunner

from splitleak import config
from splitleak.attacker.rebuilders import saved_decoder
from splitleak.cli import app
from splitleak.config import read_document
from splitleak.eval.campaign.kinds import plan_campaign
from splitleak.eval.record.schema import load_record
from splitleak.eval.report.results import Results

SMALL = {
    "split": {"train": 200, "public": 100, "victims": 10, "test": 60},
    "datasets": [{"name": "builtin", "channels": 1, "size": 16}],
    "models": [{"name": "cnn", "architecture": "cnn", "width": 0.5}],
    "training": {"epochs": 1, "batch_size": 64},
    "attacks": [
        {"name": "decoder", "attack": "decoder", "settings": {"epochs": 1, "blocks": 0, "channels": 8}},
    ],
}


@pytest.fixture(scope="module")
def shipped():
    with as_file(files("splitleak.eval") / "campaigns" / "demo.toml") as path:
        return read_document(path)


def test_a_report_of_what_is_not_there_is_one_line_on_standard_error(refusal):
    assert "nothing" in refusal("report", "nothing")


def test_the_demo_is_a_campaign_of_an_undefended_target_and_two_stacks_under_one_attack(shipped):
    plan = plan_campaign(shipped, "demo.toml")
    cells = plan.document()["cells"]
    assert list(dict.fromkeys(cell["method"] for cell in cells)) == [method.name for method, _, _ in plan.config.rows()]
    for method, _, stack in plan.config.rows():
        assert method.name.split("+") == ([each.name.replace("gaussian-", "") for each in stack] or ["no-defense"])
    attacks = [(cell["attack"], cell["views"]) for cell in cells]
    assert attacks == [("decoder", 1), *[("decoder", 1), ("16 crossings", 16)] * 2]  # where noise is drawn anew
    assert {cell["seed"] for cell in cells} == {0}


def test_latency_is_measured_after_all_else_of_the_demo(shipped):
    *before, last = plan_campaign(shipped, "demo.toml").jobs
    assert last.kind == "latency"
    assert {job.kind for job in before} == {"split", "train", "capture", "cell", "leakage", "linkage"}
    assert set(last.needs) == {job.id for job in before}
    assert last.settings["artifacts"] == [job.output for job in before if job.kind == "train"]


def test_without_latency_asked_for_none_is_measured(shipped):
    plan = plan_campaign({**shipped, "latency": False}, "demo.toml")
    assert "latency" not in {job.kind for job in plan.jobs}
    timed = {job.id for job in plan_campaign(shipped, "demo.toml").jobs if job.kind != "latency"}
    assert {job.id for job in plan.jobs} == timed


def test_a_misspelt_key_of_the_demos_file_is_refused(shipped):
    with pytest.raises(ValueError, match="methdos"):
        plan_campaign({**shipped, "methdos": []}, "demo.toml")


@pytest.fixture(scope="module")
def demo(tmp_path_factory, shipped):
    """``demo(...)`` runs the command on a small form of its file; the folder it worked in."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    small = {**shipped, **SMALL, "methods": shipped["methods"][-1:]}

    def read(path):
        return small if path.name == "demo.toml" else read_document(path)

    def run(*options):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(config, "read_document", read)
            patched.setattr(sys, "argv", ["splitleak", "demo"])
            made = CliRunner().invoke(app, ["demo", "--out", str(folder), "--seed", "3", *options])
        assert made.exit_code == 0, made.output
        return made

    return run, folder


@pytest.fixture(scope="module")
def ran(demo):
    run, folder = demo
    return run(), folder


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_ends_with_a_table_of_every_target_with_its_latency(ran):
    told, folder = ran
    lines = [line.split() for line in told.stdout.splitlines()]
    [line] = [line for line in lines if line[:1] == ["bottleneck+noise+cem"]]
    assert line.count("±") == 3  # MSE, SSIM, PSNR over victims
    assert line.count("/") == 4  # p50 and p95 of edge, wire, cloud and all
    assert line[-1] == "100"  # queries
    assert f"Report: {folder / 'report' / 'report.html'}" in told.stdout.replace("\n", "")
    assert "high MSE, low SSIM" in " ".join(told.stdout.split())


@pytest.mark.slow
def test_the_demo_leaves_the_records_of_its_seed_and_nothing_half_written(ran):
    _, folder = ran
    [record] = [load_record(path.parent) for path in folder.glob("cells/*/score/record.json")]
    assert (record.cell.campaign, record.cell.seed, record.n) == ("demo", 3, 10)
    assert record.target.design.seed == 3
    assert not [path for path in folder.rglob(".*") if path.name.endswith((".partial", ".old"))]
    results = Results.load(folder)
    assert all(cell.measure("total_ms") for cell in results.cells)
    html = (folder / "report" / "report.html").read_text(encoding="utf-8")
    assert "splitleak demo" in html
    assert "latency p50" in html


@pytest.mark.slow
def test_a_second_demo_does_nothing_again_and_prints_the_same_table(ran, demo):
    told, folder = ran
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.json") if "report" not in path.parts}
    again = demo[0]()
    assert again.stdout == told.stdout
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*.json") if "report" not in path.parts}
    assert {path.name for path in before if before[path] != after[path]} == {"campaign.json"}


@pytest.mark.slow
def test_a_lost_score_alone_is_made_again_from_what_the_attack_left(ran, demo):
    _, folder = ran
    [score] = folder.glob("cells/*/score")
    record = load_record(score)
    kept = (score.with_name("attack") / "attack.json").stat().st_mtime_ns
    score.rename(folder.parent / "lost")
    told = demo[0]("--json")
    assert json.loads(told.stdout) == {"report": str(folder / "report" / "report.html")}
    assert load_record(score).scores == record.scores
    assert (score.with_name("attack") / "attack.json").stat().st_mtime_ns == kept


@pytest.mark.slow
def test_the_report_of_a_run_prints_the_table_that_the_demo_did(ran, call):
    told, folder = ran
    code, out, _ = call("report", folder)
    assert (code, out) == (0, told.stdout)


@pytest.mark.slow
def test_the_demo_that_is_watched_streams_to_the_page_beside_what_its_attack_rebuilds(ran, demo, monkeypatch):
    run, folder = demo
    asked = []
    monkeypatch.setattr("splitleak.cli.live.run_up", lambda config, as_json: asked.append(config))
    run("--watch")
    [config] = asked
    assert (config.artifact / "edge" / "half.json").is_file()
    assert (config.images, config.page.truth) == (config.page.truth, config.images)
    assert config.images.is_file()
    assert config.out == folder / "watched"
    assert saved_decoder(config.page.attack).name == "decoder"
