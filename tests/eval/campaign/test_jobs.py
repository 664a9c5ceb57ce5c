"""A tiny campaign, run twice: left alone, and killed again and again. Every job of it is real."""

import json
import shlex
import signal
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from splitleak.attacker.queries import Pairs
from splitleak.defenses.artifact import artifact_digest, whole_config
from splitleak.defenses.importing import import_network
from splitleak.edge.ledger import Ledger
from splitleak.eval.campaign import jobs
from splitleak.eval.campaign.bench import Bench
from splitleak.eval.campaign.config import CampaignConfig
from splitleak.eval.campaign.jobs import do
from splitleak.eval.campaign.plan import Job, make_plan
from splitleak.eval.campaign.processes import Children
from splitleak.eval.campaign.runner import run_campaign
from splitleak.eval.campaign.store import Store
from splitleak.eval.record.schema import load_record, parse_place
from splitleak.eval.report.report import write_report
from splitleak.wire.files import captures
from tests.bench.kill_campaign import results
from tests.eval.campaign.conftest import OWN_CUT
from tests.splitleak.graphs.test_network import network

pytestmark = pytest.mark.slow

CAMPAIGN = """
name = "tiny"
seeds = [3]
split = { public = 120, victims = 12, train = 300, test = 200 }
training = { epochs = 2, batch_size = 64 }

[[datasets]]
name = "builtin"
size = 16
channels = 1

[[models]]
name = "cnn"
architecture = "cnn"
width = 0.5

[[methods]]
name = "Noise"
defenses = [{ name = "gaussian-noise", sigma = 0.05 }]

[[attacks]]
name = "decoder"
attack = "decoder"
views = 2
settings = { epochs = 2, blocks = 0, channels = 8 }

[[attacks]]
name = "larger"
attack = "decoder"
views = 2
settings = { epochs = 2, blocks = 1, channels = 8 }
"""


@pytest.fixture(scope="module")
def campaign(tmp_path_factory, left_alone):
    """A campaign that was left alone."""
    folder = tmp_path_factory.mktemp("campaign")
    (folder / "tiny.toml").write_text(CAMPAIGN)
    return left_alone("campaign", "run", str(folder / "tiny.toml"), out=folder / "alone")


@pytest.fixture(scope="module")
def alone(campaign):
    return campaign.out


@pytest.fixture(scope="module")
def records(alone):
    return [load_record(path.parent) for path in cells(alone)]


@pytest.mark.timeout(600)
def test_a_campaign_killed_at_random_moments_ends_with_the_records_of_one_left_alone(
    campaign, left_alone, killed_again, tmp_path
):
    out = tmp_path / "killed"
    killed_again(campaign, out, 0)
    left_alone(*campaign.given, out=out)
    left = results(campaign.out)
    assert len(left) == 2 * 2 + 1  # record and pictures of each cell, and the target's leakage
    assert results(out) == left
    assert not list(campaign.out.glob("failures/*"))


def test_a_record_says_which_cell_it_is(alone, records):
    plan = json.loads((alone / "campaign.json").read_text())
    assert [cell["attack"] for cell in plan["cells"]] == ["decoder", "larger"]
    places = {cell["id"]: parse_place(cell, source="plan") for cell in plan["cells"]}
    assert {path.parents[1].name: record.cell for path, record in zip(cells(alone), records, strict=True)} == places


def cells(folder):
    return sorted(folder.glob("cells/*/score/record.json"))


def test_both_attacks_read_one_capture_of_one_target(alone, records):
    assert len(list((alone / "targets").glob("[!.]*/artifact.json"))) == 1
    (capture,) = (alone / "captures").glob("[!.]*")
    assert {path.name for path in capture.iterdir()} == {"tap.capture", "ledger.json", "pairs.npz"}
    assert [record.target.design.seed for record in records] == [3, 3]


def test_every_victim_crossed_the_wire_as_often_as_asked_and_was_scored_once(alone, records):
    (capture,) = (alone / "captures").glob("[!.]*")
    entries = Ledger.read(capture / "ledger.json").entries
    assert sorted(entry.place for entry in entries) == sorted([*range(12)] * 2)
    sent = {name for name, _ in captures.inference_requests(captures.read(capture / "tap.capture"))}
    assert {entry.request_id for entry in entries} <= sent
    pairs = Pairs.load(capture / "pairs.npz")
    assert (pairs.averaging, len(pairs.hashes)) == (2, 120)
    assert [record.n for record in records] == [12, 12]


def test_the_attackers_process_is_given_the_attackers_files_alone(alone, records):
    for record in records:
        words = shlex.split(record.attack.provenance.command)
        files = {Path(word).relative_to(alone).parts[0::2] for word in words if word.startswith(str(alone))}
        assert not any("victims" in word or "ledger" in word or "targets" in word for word in words)
        assert {parts[0] for parts in files} == {"captures", "images", "cells"}


@pytest.mark.parametrize("kind", ["linear", "maximum-likelihood", "query-free"])
def test_who_has_the_edges_weights_learns_from_what_crossed_the_wire_too(kind, tmp_path, monkeypatch):
    """Without, it learns from features that no noise was added to, and overfits those that there was."""
    monkeypatch.setattr(jobs, "packed_parts", lambda artifact: None)  # which is not there
    document = {**tomllib.loads(CAMPAIGN), "attacks": [{"name": kind, "attack": kind}]}
    (job,) = make_plan(CampaignConfig.load(document, source="test")).cells
    given = []

    class Told(Bench):
        def attack(self, job, command, *options):
            given.extend(map(str, options))
            raise InterruptedError

    with pytest.raises(InterruptedError):
        do(Told(Store(tmp_path), Children()), job)
    assert ("--pairs" in given) == (kind != "query-free")
    assert ("--encoder" in given) == (kind == "maximum-likelihood")


def test_each_job_had_its_share_of_threads(records):
    for record in records:  # as many workers as cores: one thread each
        assert "torch threads: 1" in record.attack.provenance.hardware


def test_the_run_ends_with_a_report(alone, records):
    text = (alone / "report" / "report.md").read_text()
    assert all(f"{record.mse:.4f}" in text for record in records)
    with np.load(cells(alone)[0].with_name("pictures.npz")) as pictures:
        assert pictures["truth"].shape == (12, 1, 16, 16)


def test_ctrl_c_ends_the_children_says_how_to_go_on_and_is_no_failure(tmp_path, run_command):
    (tmp_path / "tiny.toml").write_text(CAMPAIGN)
    run = tmp_path / "run"
    asked = ["campaign", "run", str(tmp_path / "tiny.toml"), "--out", str(run), "--set", "training.epochs=500"]
    from_terminal = [sys.executable, "-P", "-m", "splitleak", *asked]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # where it is ignored, children ignore it too
    with subprocess.Popen(from_terminal, stderr=subprocess.PIPE, text=True) as running:
        assert "split builtin" in running.stderr.readline()
        refused = run_command(*asked)
        assert (refused.returncode, f"but process {running.pid} (" in refused.stderr) == (1, True)
        running.send_signal(signal.SIGINT)
        said = running.stderr.read()
        assert running.wait(60) == 130
    signal.signal(signal.SIGINT, before)
    assert "Stopped. The same command goes on from here" in said
    assert not list(run.glob("failures/*"))
    assert not list(run.glob("targets/*/artifact.json"))
    with Store(run).claimed():  # at once: no child holds the folder any more
        pass


OWN = {
    "name": "own",
    "seeds": [0],
    "split": {"public": 40, "victims": 8, "train": 40, "test": 20},
    "training": {"epochs": 1},
    "latency": True,
    "published": "cem_s1",
    "datasets": [{"name": "photographs", "data": "photographs", "size": [16, 24], "channels": 3}],
    "models": [{"name": "artifact", "artifact": "mine"}, {"name": "file", "onnx": "net.onnx", "cut": OWN_CUT}],
    "methods": [{"name": "Stack", "defenses": [{"name": "bottleneck", "channels": 2}, {"name": "gaussian-noise"}]}],
    "attacks": [{"name": "linear", "attack": "linear"}],
}


def plan_own(folder, model):
    models = [each for each in OWN["models"] if each["name"] == model]
    return make_plan(CampaignConfig.load({**OWN, "models": models}, source=str(folder / "own.toml")))


@pytest.mark.timeout(600)
def test_a_network_of_ones_own_is_trained_attacked_scored_and_timed_under_a_stack(own_network):
    folder = own_network()
    plan, lines = plan_own(folder, "file"), []
    outcome = run_campaign(plan, folder / "run", workers=1, say=lines.append)
    assert not outcome.failed, lines
    targets = [folder / "run" / job.output for job in plan.jobs if job.kind == "train"]
    for target in targets:
        config = whole_config(target)
        assert config.model.architecture == "imported"
        assert [each.name for each in config.defenses] == ["bottleneck", "gaussian-noise"]
    for job in plan.cells:
        record = load_record(folder / "run" / job.output)
        assert record.n == 8
        assert record.target.design.model.cut == OWN_CUT
    page = write_report(folder / "run", folder / "report").with_name("report.md").read_text()
    assert "Ours: photographs, net.onnx, a network of one's own. Not the same images or model" in page


@pytest.mark.parametrize(("model", "source"), [("artifact", "mine"), ("file", "net.onnx")])
def test_a_network_that_changed_since_the_campaign_was_planned_is_refused(own_network, model, source):
    folder = own_network()
    (job,) = [job for job in plan_own(folder, model).jobs if job.kind == "import"]
    store = Store(folder / "run")
    bench = Bench(store, Children())
    do(bench, job)
    assert store.is_done(job)
    if model == "artifact":
        assert artifact_digest(store.path(job)) == artifact_digest(folder / "mine")
    own_network(seed=1)
    again = Store(folder / "again")
    with pytest.raises(ValueError, match=f"{source}: expected the network that the campaign was planned with, got ano"):
        do(Bench(again, Children()), job)
    assert not again.path(job).exists()


def test_a_data_set_that_changed_since_the_campaign_was_planned_is_refused(tmp_path):
    def write(first):
        pixels = np.random.default_rng(0).integers(0, 256, (2, 200, 16, 16), dtype=np.uint8)
        pixels[0, 0] = first
        labels = np.arange(200) % 2
        np.savez(tmp_path / "own.npz", x_train=pixels[0], y_train=labels, x_test=pixels[1], y_test=labels)

    write(0)
    datasets = [{"name": "own", "data": str(tmp_path / "own.npz"), "size": 16, "channels": 1}]
    document = {**tomllib.loads(CAMPAIGN), "datasets": datasets, "split": OWN["split"]}
    split = make_plan(CampaignConfig.load(document, source="tiny.toml")).jobs[0]
    bench = Bench(Store(tmp_path / "run"), Children())
    write(1)
    with pytest.raises(ValueError, match=r"own\.npz: expected the data set that the campaign was planned with"):
        do(bench, split)
    assert not bench.store.path(split).exists()
    write(0)
    do(bench, split)
    assert bench.store.is_done(split)


def test_a_plug_in_that_was_edited_since_the_campaign_was_planned_is_refused_of_what_needs_it_too(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPLITLEAK_ALLOW_CODE", "1")
    monkeypatch.setattr("splitleak.eval.campaign.jobs._DO", defaultdict(lambda: lambda bench, job: None))
    code = "from splitleak.defenses.features.noise import GaussianNoise as Mine\n"
    (tmp_path / "edited_code.py").write_text(code)
    methods = [{"name": "Mine", "defenses": [{"name": "edited_code:Mine"}]}]
    made = make_plan(CampaignConfig.load({**tomllib.loads(CAMPAIGN), "methods": methods}, source="tiny.toml"))
    bench = Bench(Store(tmp_path / "run"), Children())
    for job in made.jobs:
        do(bench, job)
    (tmp_path / "edited_code.py").write_text(f"{code}# another\n")
    for job in made.jobs:
        if job.kind == "split":
            do(bench, job)
            continue
        with pytest.raises(ValueError, match="edited_code:Mine: expected the plug-in that the campaign was planned wi"):
            do(bench, job)


def test_an_attacker_is_told_what_flat_features_were(tmp_path, monkeypatch):
    whole = network(nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Flatten(), nn.Linear(192, 7)), (1, 8, 8))
    for name, cut in zip(("map", "flat"), whole.cuts(), strict=False):
        import_network(whole, cut, tmp_path / name, source="net", name=name, names=None, images=None)
    told = []

    def attack(self, job, command, *given):
        told.append(given[given.index("--parts") + 1] if "--parts" in given else None)
        raise NotADirectoryError

    monkeypatch.setattr(Bench, "attack", attack)
    for name in ("map", "flat"):
        settings = {"artifact": name, "images": "images", "capture": "capture", "needs": ["query"], "views": 1}
        job = Job("cell-1", "cell", name, 0, f"cells/{name}", (), 1.0, settings)
        with pytest.raises(NotADirectoryError):
            do(Bench(Store(tmp_path), Children(), device="cpu", threads=1), job)
    assert told == [None, "3x8x8"]
