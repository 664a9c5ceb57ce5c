import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
import torch

from splitleak.artifacts import save_tensors, write_json
from splitleak.eval.campaign import store as store_module
from splitleak.eval.campaign.config import CampaignConfig
from splitleak.eval.campaign.plan import Job, make_plan
from splitleak.eval.campaign.store import Store
from splitleak.eval.record import MEASURES
from splitleak.plugins import Plugin
from tests.eval.campaign.test_runner import DOCUMENT

JOB = Job("train-1", "train", "Plain, seed 0", 0, "targets/1", (), 1.0, {})


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "run")


def put_weights(store, job):
    """Gives a training the weights of both halves."""
    paths = [store.path(job) / half / "weights.safetensors" for half in ("edge", "cloud")]
    for path in paths:
        save_tensors(path, {"w": torch.zeros(100)})
    return paths


def test_a_job_is_done_when_its_output_is_there(store):
    assert not store.is_done(JOB)
    weights = put_weights(store, JOB)
    assert store.is_done(JOB)
    whole = weights[1].read_bytes()
    for broken in (whole[:-1], whole[:10], b"", b"{}"):
        weights[1].write_bytes(broken)
        assert not store.is_done(JOB)
    weights[1].unlink()
    assert not store.is_done(JOB)


@pytest.mark.parametrize("said", [{"target": None}, {"target": []}, {}, {"target": {"training": {}}}])
def test_a_network_of_ones_own_is_whole_without_weights_only_where_its_artifact_says_that_none_was_trained(store, said):
    for half in ("edge", "cloud"):
        (store.path(JOB) / half).mkdir(parents=True)
        (store.path(JOB) / half / "network.onnx").write_bytes(b"graph")
    write_json(store.path(JOB) / "artifact.json", {"target": {"training": None}})
    assert store.is_done(JOB)
    write_json(store.path(JOB) / "artifact.json", said)
    assert not store.is_done(JOB)


def put_images(store, job):
    """Gives a split its four sets."""
    write_json(store.path(job), {})
    paths = [store.path(job).with_name(f"{part}.npz") for part in ("train", "public", "victims", "test")]
    for path in paths:
        path.write_bytes(b"")
    return paths


@pytest.mark.parametrize("kind", ["split", "poison", "open"])
def test_images_are_done_when_all_their_sets_are_there(store, kind):
    job = Job(f"{kind}-1", kind, "images", 0, "images/a-s0-1/splits.json", (), 1.0, {})
    assert not store.is_done(job)
    *_, last = put_images(store, job)
    assert store.is_done(job)
    last.unlink()
    assert not store.is_done(job)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("cell", ["pictures.npz", "record.json"]),
        ("capture", ["ledger.json", "pairs.npz", "tap.capture"]),
        ("predict", ["ledger.json", "pairs-same.npz", "service.json"]),
        ("import", ["edge", "artifact.json"]),
    ],
)
def test_an_output_of_which_a_copy_was_cut_off_is_not_done(store, kind, names):
    job = Job(f"{kind}-1", kind, "one", 0, f"outputs/{kind}", (), 1.0, {})
    for name in names:
        assert not store.is_done(job)
        store.path(job).mkdir(parents=True, exist_ok=True)
        assert not store.is_done(job)
        (store.path(job) / name).write_bytes(b"")
    assert store.is_done(job)
    store.clear_half(job)
    assert store.is_done(job)
    (store.path(job) / names[-1]).unlink()
    store.clear_half(job)
    assert list(store.path(job).parent.iterdir()) == []


def test_a_prior_of_ones_own_needs_no_weights_of_ours(store):
    prior = Job("prior-1", "prior", "of one's own", 0, "priors/1", (), 1.0, {})
    write_json(store.path(prior) / "prior.json", {})
    assert not store.is_done(prior)
    (store.path(prior) / "generator.onnx").write_bytes(b"graph")
    assert store.is_done(prior)


def test_a_failure_is_kept_until_it_is_forgotten(store):
    assert store.failure(JOB.id) is None
    before = datetime.now(UTC)
    store.record_failure(JOB, "splitleak train", "it broke")
    failure = store.failure(JOB.id)
    assert before <= datetime.fromisoformat(failure.pop("time")) <= datetime.now(UTC)
    assert failure == {
        "job": "train-1",
        "label": "Plain, seed 0",
        "command": "splitleak train",
        "error": "it broke",
        "log": str(store.folder / "logs" / "train-1.log"),
    }
    store.forget_failure(JOB)
    store.forget_failure(JOB)
    assert store.failure(JOB.id) is None


def test_what_a_killed_run_left_unpacked_goes_with_the_next_run_that_is_alone(store):
    left = store.folder / ".packed-abc" / "targets"
    left.mkdir(parents=True)
    with store.entered():  # as a shard, beside which another may unpack
        assert left.is_dir()
    with store.claimed():
        assert not left.parent.exists()


def test_a_second_run_in_one_folder_refuses(store):
    def second():
        with Store(store.folder).claimed():
            pass

    told = rf"expected to be alone in writing .*run, but process {os.getpid()} \("
    with store.claimed(), ThreadPoolExecutor(1) as pool, pytest.raises(BlockingIOError, match=told):
        pool.submit(second).result()
    with store.claimed():  # and it is free again
        pass


def test_a_folder_with_something_else_than_a_campaign_is_not_run_in(store):
    store.folder.mkdir()
    (store.folder / "thesis.txt").write_text("mine")
    with (
        pytest.raises(FileExistsError, match=r"run, got one with thesis\.txt; it was not touched"),
        store.claimed(),
    ):
        pass
    assert [path.name for path in store.folder.iterdir()] == ["thesis.txt"]


HOLDER = """
import subprocess, sys
from pathlib import Path
from splitleak.eval.campaign.store import Store
from splitleak.eval.record import MEASURES
from splitleak.plugins import Plugin
with Store(Path(sys.argv[1])).claimed() as descriptor:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[descriptor])
    print(child.pid, flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_run_waits_for_the_processes_that_a_killed_one_left(store, monkeypatch):
    monkeypatch.setattr(store_module, "_ORPHANS_S", 0.2)
    orphan = [sys.executable, "-c", HOLDER.replace("stdin=subprocess.PIPE, ", "stdin=0, "), str(store.folder)]
    with subprocess.Popen(orphan, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        holder.kill()
        holder.wait()
        with pytest.raises(BlockingIOError, match="processes of an earlier run"), store.claimed():
            pass
        holder.stdin.close()  # which ends the orphan, which had inherited it
        monkeypatch.setattr(store_module, "_ORPHANS_S", 20.0)
        began = time.monotonic()
        with store.claimed():
            assert time.monotonic() - began < 10


def test_a_folder_that_is_no_campaigns_is_refused(store):
    with pytest.raises(FileNotFoundError, match="expected a folder that `splitleak campaign run` wrote"):
        store.read_plan()


def test_the_plan_in_the_folder_can_be_run_again(store):
    plan = make_plan(CampaignConfig.load(DOCUMENT, source="test"))
    store.write_plan(plan)
    written = store.read_plan()
    assert make_plan(CampaignConfig.load(written["config"], source="campaign.json")) == plan
    assert [job["id"] for job in written["jobs"]] == [job.id for job in plan.jobs]
    assert {"command", "commit", "hardware"} <= written["provenance"].keys()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"output": "../../precious"}, "expected a place below the campaign's folder, got '../../precious'"),
        ({"output": ""}, "expected a place below the campaign's folder, got ''"),
        ({"output": "."}, "expected a place below the campaign's folder, got '.'"),
        ({"id": "../precious"}, "expected a name that a file can have"),
        ({"id": ".."}, "expected a name that a file can have"),
        ({"kind": "erase"}, "jobs.0.kind"),
        ({"output": 3}, "jobs.0.output"),
    ],
)
def test_a_plan_of_another_kind_or_that_leads_out_of_its_folder_is_refused(store, change, said):
    plan = {"name": "x", "config": {}, "cells": [], "jobs": [{**JOB.document(), **change}]}
    write_json(store.folder / "campaign.json", plan)
    with pytest.raises(ValueError, match=rf"campaign\.json: .*{said}"):
        store.read_plan()
    write_json(store.folder / "campaign.json", {**plan, "jobs": 3})
    with pytest.raises(ValueError, match=r"campaign\.json: .*jobs"):
        store.status()


def test_status_counts_jobs_and_shows_scores_and_failures(store, fake_record):
    plan = make_plan(CampaignConfig.load(DOCUMENT, source="test"))
    store.write_plan(plan)
    split, train, _, cell, leakage = plan.jobs
    put_images(store, split)
    put_weights(store, train)
    place = {**cell.settings["cell"], "method": "Bottleneck", "id": cell.key}
    fake_record(place, 0.1, ssim=0.5).write(store.path(cell) / "record.json")
    store.record_failure(leakage, "splitleak leakage", "Traceback\n\nValueError: no\n")
    store.record_failure(train, "splitleak train", "of an earlier run, which a later one made good")
    found = store.status()
    assert found["name"] == "toy"
    assert found["jobs"] == {
        "split": {"done": 1, "failed": 0, "to do": 0},
        "train": {"done": 1, "failed": 0, "to do": 0},
        "capture": {"done": 0, "failed": 0, "to do": 1},
        "cell": {"done": 1, "failed": 0, "to do": 0},
        "leakage": {"done": 0, "failed": 1, "to do": 0},
    }
    assert found["scores"] == [
        {
            "cell": "Plain, decoder, seed 0",
            "figures": {"accuracy": 90, "ssim": 0.5, "psnr": pytest.approx(10), "mse": 0.1},
            "text": "accuracy % 90.00, zero-padded SSIM 0.500, batch PSNR dB 10.00, MSE 0.1000",
        }
    ]
    assert [(failure["job"], failure["error"]) for failure in found["failures"]] == [(leakage.id, "ValueError: no")]


def test_a_cell_that_was_judged_without_a_measure_that_is_asked_for_is_not_done(store, fake_record, monkeypatch):
    plan = make_plan(CampaignConfig.load(DOCUMENT, source="test"))
    [cell] = plan.cells
    place = {**cell.settings["cell"], "method": "Bottleneck", "id": cell.key}
    record = fake_record(place)
    record.write(store.path(cell) / "record.json")
    assert store.is_done(cell)
    monkeypatch.setenv("SPLITLEAK_ALLOW_PLUGIN", "measured_code:MAE")
    code = 'from splitleak.eval.record.metrics import Metric\nMAE = Metric("mae", "", of=("victims",), compute=abs)\n'
    (store.folder / "measured_code.py").write_text(code)
    monkeypatch.chdir(store.folder)
    with MEASURES.holding("measured_code:MAE", Plugin("splitleak.measures", "measured_code:MAE", "measured_code:MAE")):
        assert not store.is_done(cell)
        scores = {**record.scores, "mae": record.scores["mse"]}
        record.model_copy(update={"scores": scores}).write(store.path(cell) / "record.json")
        assert store.is_done(cell)
        small = record.model_copy(update={"not_measured": {"mae": "a reason"}})
        small.write(store.path(cell) / "record.json")
        assert store.is_done(cell)
