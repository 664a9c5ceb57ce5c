import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from splitleak.artifacts import save_tensors, write_json
from splitleak.eval.campaign.forecast import Took
from splitleak.eval.campaign.store import Store

RESULTS = Path(__file__).parents[3] / "eval" / "results"
TINY = """
name = "tiny"
seeds = [0, 1]
datasets = [{ name = "builtin", channels = 1, size = 16 }]
models = [{ name = "cnn", architecture = "cnn" }]
methods = [{ name = "Noise", defenses = [{ name = "gaussian-noise" }] }]
attacks = [{ name = "decoder", attack = "decoder" }]
"""


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def test_a_campaigns_plan_counts_jobs_and_what_is_done(call, tiny, tmp_path):
    asked = ("campaign", "plan", tiny, "--out", tmp_path / "run", "--json")
    found = json.loads(call(*asked)[1])
    assert {kind: jobs["jobs"] for kind, jobs in found["jobs"].items()} == {
        "split": 2,
        "train": 2,
        "capture": 2,
        "cell": 2,
        "leakage": 2,
    }
    assert [cell["seed"] for cell in found["cells"]] == [0, 1]
    assert not (tmp_path / "run").exists()
    for half in ("edge", "cloud"):
        target = tmp_path / "run" / "targets" / found["cells"][0]["target"]
        save_tensors(target / half / "weights.safetensors", {"w": torch.zeros(1)})
    one = json.loads(call(*asked, "--seed", 0)[1])
    assert one["jobs"]["train"] == {"jobs": 1, "done": 1}
    code, out, _ = call("campaign", "plan", tiny, "--out", tmp_path / "run")
    assert code == 0
    assert "Noise" in out
    assert "Left: unknown" in out


def test_a_run_in_the_folder_of_another_campaign_is_refused_before_it_begins(call, tiny, tmp_path):
    other = tmp_path / "run" / "report" / "campaign.json"
    write_json(other, {"name": "other"})
    code, _, said = call("campaign", "run", tiny, "--out", tmp_path / "run")
    assert code == 1
    assert "expected a report of the campaign tiny or none at" in said
    assert "got one of other" in said
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["report"]


def test_a_campaigns_plan_tells_how_long_it_will_take_by_recorded_times(call, tiny, tmp_path):
    (tmp_path / "run").mkdir()
    for group, seconds in (("train", 40.0), ("cell decoder", 8.0)):
        took = Took(job=group, group=group, cost=1.0, seconds=seconds, hardware="a Xeon")
        Store(tmp_path / "run").record_time(took)
    asked = ("campaign", "plan", tiny, "--set", "training.epochs=3", "--workers", 2)
    forecast = json.loads(call(*asked, "--out", tmp_path / "run", "--json")[1])["forecast"]
    assert forecast["seconds"] == (2 * 3 * 40 + 2 * 8) / 2
    assert forecast["unknown"] == {"split": 2, "capture": 2, "leakage": 2}
    out = call(*asked, "--times", tmp_path / "run", "--out", tmp_path / "other")[1]
    assert f"Left: more than 2:08 with 2 workers; by the times of 2 jobs in {tmp_path / 'run'} (a Xeon); no time" in out


def test_settings_reach_into_a_campaign_by_name(call, tiny):
    def targets(*settings):
        return {cell["target"] for cell in json.loads(call("campaign", "plan", tiny, "--json", *settings)[1])["cells"]}

    changed = targets("--set", "methods.Noise.training.epochs=3")
    assert not changed & targets()
    assert targets("--set", "attacks.decoder.settings.epochs=3") == targets()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--set", "methods.Noise.training.epoch=3"), "tiny.toml: method 'Noise', model 'cnn': .*training.epoch"),
        (("--set", "methods.Nose.training.epochs=3"), "expected a table 'Nose'"),
        (("--data", "nowhere.npz"), "expected data of builtin, .*got 'nowhere.npz'"),
        (("--seed", 5), r"expected seeds of \[0, 1\], got \[5\]"),
    ],
)
def test_a_campaigns_mistakes_are_one_line(call, tiny, options, said):
    code, _, err = call("campaign", "plan", tiny, *options)
    assert code == 1
    assert re.search(said, err)
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--shard", "0/3"), "expected a shard such as 3/16, the third of sixteen, got '0/3'"),
        (("--on", "slurm"), "expected --on ray or ray:ADDRESS, got 'slurm'"),
    ],
)
def test_a_run_on_several_machines_is_asked_for_in_one_way(call, tiny, options, said, tmp_path):
    code, _, err = call("campaign", "run", tiny, "--out", tmp_path / "out", *options)
    assert code == 1
    assert err.strip().splitlines() == [f"splitleak: {said}"]
    assert not (tmp_path / "out").exists()


def test_data_for_one_data_set_of_several_are_refused(call, tiny):
    tiny.write_text(TINY.replace("datasets = [", "datasets = [{ name = 'other', channels = 1 }, "))
    code, _, err = call("campaign", "plan", tiny, "--data", "builtin")
    assert (code, "expected one data set in" in err) == (1, True)


def test_the_status_of_what_is_no_campaign_is_refused(call, tmp_path):
    code, _, err = call("campaign", "status", tmp_path)
    assert (code, "expected a folder that `splitleak campaign run` wrote" in err) == (1, True)


@pytest.mark.slow
def test_recorded_results_are_reported_again_by_the_command(tmp_path, parsed, run_command):
    made = run_command("campaign", "report", RESULTS / "cem_small", "--out", tmp_path / "out")
    assert made.returncode == 0, made.stderr
    assert made.stdout.replace("\n", "") == f"Report: {tmp_path / 'out' / 'report.html'}"
    for name in ("report.md", "table.csv"):
        assert (tmp_path / "out" / name).read_text() == (RESULTS / "cem_small" / name).read_text()
    html = (tmp_path / "out" / "report.html").read_text()
    page = parsed(html)
    assert page.loaded
    assert all(loaded.startswith("data:image/") for loaded in page.loaded)
    assert page.tags.count("script") == 1  # the page's own
    assert not {"link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?://|url\(|@import", html)
    assert "Bottleneck + CEM" in "".join(page.text)


@pytest.mark.slow
def test_names_of_recorded_results_are_escaped(call, tmp_path, parsed):
    folder = tmp_path / "codecs"
    shutil.copytree(RESULTS / "codecs_small", folder)
    plan = json.loads((folder / "campaign.json").read_text())
    plan["title"] = "<script>alert(1)</script>"
    (folder / "campaign.json").write_text(json.dumps(plan))
    assert call("campaign", "report", folder, "--out", tmp_path / "out")[0] == 0
    page = parsed((tmp_path / "out" / "report.html").read_text())
    assert page.tags.count("script") == 1  # the page's own
    assert "<script>alert(1)</script>" in "".join(page.text)


def test_what_can_not_be_reported_is_one_line_on_standard_error(refusal, tmp_path):
    assert "expected a campaign's folder, recorded results, or records" in refusal("campaign", "report", tmp_path)
    (tmp_path / "campaign.json").write_text("{")
    assert "campaign.json: expected valid JSON" in refusal("campaign", "report", tmp_path)
