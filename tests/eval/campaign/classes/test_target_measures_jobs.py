"""A tiny campaign that measures its one target beside an attack. Every process of it is real."""

import csv
import json

import pytest

from splitleak.datasets.splits import Splits

pytestmark = pytest.mark.slow

CAMPAIGN = """
kind = "classes"
name = "tiny"
seeds = [3]
split = { public = 100, victims = 10, train = 200, test = 60 }
training = { epochs = 1, batch_size = 64 }
evaluator_training = { epochs = 1, batch_size = 64 }
model = { name = "conv3", architecture = "conv3", width = 0.05 }
evaluator = { name = "cnn", architecture = "cnn", width = 0.5 }
targets = [{ name = "none" }]
attacks = [{ name = "pixels", attack = "mi-face", settings = { steps = 2 } }]
datasets = [{ name = "images", size = 16, channels = 1 }]

[besides]
robustness = { images = 20, steps = 2, population = 4, generations = 1 }
training_time = { rounds = 1, epochs = 1, images = 64 }
extraction = { attacks = ["pixels"], student = { epochs = 1, width = 0.25 } }
backdoors = [{ trigger = "blended", fraction = 0.1, weight = 0.2 }]
"""


@pytest.fixture(scope="module")
def folder(campaign_run):
    """The folder of the campaign, run to its end."""
    return campaign_run("besides", CAMPAIGN)


@pytest.fixture(scope="module")
def measured(folder):
    lines = (folder / "report" / "besides.jsonl").read_text().splitlines()
    return {line["measure"]: line for line in map(json.loads, lines)}


def test_every_measure_is_there_and_says_where_it_comes_from(measured):
    assert set(measured) == {"target", "robustness", "training time", "extraction", "backdoor"}
    for line in measured.values():
        assert (line["seed"], line["of_targets"]) == (3, ["none"])
        assert line["provenance"]["commit"]


def test_settings_and_seeds_come_through(measured):
    assert measured["robustness"]["images"] == 20
    assert measured["robustness"]["config"]["seed"] == 3
    assert measured["extraction"]["student"]["width"] == 0.25
    assert measured["extraction"]["images_per_class"] == 1
    assert measured["backdoor"]["poison"]["weight"] == 0.2
    assert measured["training time"]["targets"]["none"]["ratio"] == 1


def test_the_backdoor_is_in_a_training_set_of_its_own(folder):
    [poisoned] = folder.glob("images/blended-*/")
    [plain] = folder.glob("images/images-*/")
    told = Splits.load(poisoned)
    assert (told.record["poison"]["fraction"], told.record["poison"]["seed"]) == (0.1, 3)
    changed = told.train.pixels != Splits.load(plain).train.pixels
    assert int(changed.flatten(1).any(1).sum()) == 20


def test_the_report_shows_them_and_its_table_has_them(folder):
    markdown = (folder / "report" / "report.md").read_text()
    for shown in (
        "Beside the attacks: targets",
        "one pixel % targeted",
        "Blended 10 % success %",
        "- beside the attacks",
    ):
        assert shown in markdown
    [row] = csv.DictReader((folder / "report" / "besides.csv").read_text().splitlines())
    assert (row["target"], row["seed"], float(row["training time ratio"])) == ("none", "3", 1)
    assert all(value for value in row.values())


def test_the_status_counts_them_beside_the_cell_and_its_score(folder, run_command):
    told = run_command("campaign", "status", folder)
    assert told.returncode == 0, told.stderr
    assert "besides" in told.stdout
    assert "recognised" in told.stdout


def test_a_second_run_finds_nothing_to_do(folder, run_command):
    told = run_command("campaign", "plan", folder.parent / "tiny.toml", "--out", folder, "--json")
    jobs = json.loads(told.stdout)["jobs"]
    assert jobs["besides"] == {"jobs": 5, "done": 5}
    assert all(found["jobs"] == found["done"] for found in jobs.values())
