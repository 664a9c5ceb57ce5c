import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from splitleak.artifacts import save_tensors, write_json
from splitleak.attacker.queries import Pairs
from splitleak.config import read_document
from splitleak.edge.ledger import Entry, Ledger
from splitleak.eval.campaign.forecast import Times, Took
from splitleak.eval.campaign.leases import Leases
from splitleak.eval.campaign.merging import Merged, merge, stable
from splitleak.eval.campaign.store import Store
from splitleak.wire.files.shared import SharedScores

JOBS = [
    {"id": "split-1", "kind": "split", "label": "images", "seed": 0, "output": "images/i-1/splits.json"},
    {"id": "cell-a", "kind": "cell", "label": "a", "seed": 0, "output": "cells/a/score"},
    {"id": "cell-b", "kind": "cell", "label": "b", "seed": 0, "output": "cells/b/score"},
    {"id": "leakage-t", "kind": "leakage", "label": "t", "seed": 0, "output": "leakage/t.json"},
]
PLAN = {"name": "toy", "title": "", "config": {"seeds": [0]}, "cells": [], "jobs": JOBS, "threads": 1}
OUTPUTS = {
    "split-1": {"images/i-1/splits.json": {"images": 5}, "images/i-1.config.json": {"seed": 0}},
    "cell-a": {"cells/a/score/record.json": {"mse": 0.25}, "cells/a/attack/attack.json": {"findings": {}}},
    "cell-b": {"cells/b/score/record.json": {"mse": 0.5}},
    "leakage-t": {"leakage/t.json": {"bits": 3}, "leakage/t.config.json": {"seed": 0}},
}


@pytest.fixture
def made(tmp_path):
    """``made(name, *jobs, plan=..., records=...)`` is a folder in which some of the jobs are done."""

    def make(name, *jobs, plan=PLAN, records=None):
        folder = tmp_path / name
        folder.mkdir()
        write_json(folder / "campaign.json", {**plan, "provenance": {"hardware": name}})
        for job in jobs:
            for place, document in OUTPUTS[job].items():
                path = folder / place
                path.parent.mkdir(parents=True, exist_ok=True)
                record = {**document, **(records or {}).get(job, {})}
                write_json(path, {**record, "id": name, "provenance": {"hardware": name}, "took_s": len(name)})
                for part in ("train", "public", "victims", "test") if path.name == "splits.json" else ():
                    path.with_name(f"{part}.npz").write_bytes(part.encode())
        return folder

    return make


def test_times_of_jobs_are_joined_once(made, tmp_path):
    folders = made("one", "cell-a"), made("two", "cell-b")
    for seconds, folder in enumerate(folders):
        Store(folder).record_time(Took(job=folder.name, group="cell", cost=1.0, seconds=seconds, hardware=""))
    for _ in range(2):
        merge(tmp_path / "all", folders)
    assert sorted(took.job for took in Times.load(tmp_path / "all").jobs) == ["one", "two"]


def documents(folder):
    return {str(path.relative_to(folder)): read_document(path) for path in folder.rglob("*.json")}


def test_what_is_done_in_any_folder_is_in_the_one_they_are_joined_in(made, tmp_path):
    one, two = made("one", "split-1", "cell-a"), made("two", "split-1", "cell-b", "leakage-t")
    assert merge(tmp_path / "all", [one, two]) == Merged(jobs=4, done=4, copied=4)
    joined = documents(tmp_path / "all")
    assert set(joined) == {"campaign.json", *(place for outputs in OUTPUTS.values() for place in outputs)}
    for place in OUTPUTS["cell-a"]:
        assert joined[place] == read_document(one / place)
    for place in (*OUTPUTS["cell-b"], *OUTPUTS["leakage-t"]):
        assert joined[place] == read_document(two / place)
    assert {key: value for key, value in joined["campaign.json"].items() if key != "provenance"} == PLAN
    assert not [path for path in (tmp_path / "all").rglob(".*") if path.name.endswith(".partial")]


def test_what_is_joined_already_is_left_alone_and_unfinished_jobs_are_left_out(made, tmp_path):
    one, two = made("one", "split-1", "cell-a"), made("two", "split-1", "cell-b")
    (one / "cells" / "b" / "attack").mkdir(parents=True)
    (one / "cells" / "b" / "attack" / "attack.json").write_text("{}")
    assert merge(tmp_path / "all", [one]) == Merged(jobs=4, done=2, copied=2)
    assert not (tmp_path / "all" / "cells" / "b").exists()
    assert merge(tmp_path / "all", [one, two]) == Merged(jobs=4, done=3, copied=1)
    assert merge(one, [two]) == Merged(jobs=4, done=3, copied=1)
    assert sorted(path.name for path in (one / "cells" / "b").iterdir()) == ["score"]


def test_failures_and_logs_come_along(made, tmp_path):
    one = made("one", "cell-a")
    for path in (one / "failures" / "cell-b.json", one / "logs" / "cell-a.log"):
        path.parent.mkdir()
        path.write_text("{}")
    merge(tmp_path / "all", [one])
    assert (tmp_path / "all" / "failures" / "cell-b.json").exists()
    assert (tmp_path / "all" / "logs" / "cell-a.log").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [({"config": {"seeds": [1]}}, "in config"), ({"threads": 2}, "in threads"), ({"jobs": JOBS[:3]}, "in jobs")],
)
def test_folders_of_different_campaigns_are_refused(made, tmp_path, change, said):
    one, two = made("one", "cell-a"), made("two", "cell-b", plan={**PLAN, **change})
    with pytest.raises(ValueError, match=rf"expected folders of one campaign, but .*two.* differs from .*one.* {said}"):
        merge(tmp_path / "all", [one, two])
    assert not (tmp_path / "all" / "cells").exists()


def test_one_campaign_is_one_wherever_its_files_lie_on_each_machine(made, tmp_path):
    def plan(home):
        config = {
            **PLAN["config"],
            "datasets": [{"name": "own", "data": f"{home}/own.npz", "data_root": home}],
            "models": [{"name": "a", "onnx": f"{home}/a.onnx"}, {"name": "b", "artifact": f"{home}/b"}],
            "own_prior": {"folder": f"{home}/prior"},
        }
        return {**PLAN, "config": config}

    one, two = made("one", "cell-a", plan=plan("/home/a")), made("two", "cell-b", plan=plan("/home/b"))
    assert merge(tmp_path / "all", [one, two]) == Merged(jobs=4, done=2, copied=2)
    assert read_document(tmp_path / "all" / "campaign.json")["config"] == plan("/home/a")["config"]


def test_records_of_one_id_that_differ_are_refused_and_nothing_is_copied(made, tmp_path):
    one, two = made("one", "cell-a"), made("two", "cell-b", "cell-a", records={"cell-a": {"mse": 0.3}})
    said = r"expected equal outputs of cell a \(cell-a\), but record\.json differs between .*one and .*two"
    with pytest.raises(ValueError, match=said):
        merge(tmp_path / "all", [one, two])
    assert not (tmp_path / "all" / "cells").exists()


def put(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_tensors(path, {"b": torch.ones(2), "a": torch.full((3,), content)}, {"made": folder.name, "by": "us"})
    else:
        write_json(path, {"figure": content, "provenance": {"hardware": folder.name}, "took_s": len(folder.name)})
        for part in ("train", "public", "victims", "test") if path.name == "splits.json" else ():
            path.with_name(f"{part}.npz").write_bytes(b"")


OTHERS = {  # of kinds of jobs: the output, what is in it, and whether it is a result
    "open": ("images/o/splits.json", ["images/o/splits.json"], True),
    "poison": ("images/p/splits.json", ["images/p/splits.json"], True),
    "besides": ("besides/target-b.json", ["besides/target-b.json"], True),
    "predict": ("predictions/p", ["predictions/p/service.json"], True),
    "train": ("targets/t", ["targets/t/edge/weights.safetensors", "targets/t/cloud/weights.safetensors"], True),
    "prior": ("priors/p", ["priors/p/generator.safetensors"], True),
    "purify": ("purifiers/p", ["purifiers/p/weights.safetensors"], True),
    "latency": ("latency/l.json", ["latency/l.json"], False),
    "besides in time": ("besides/training-time-b.json", ["besides/training-time-b.json"], False),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_two_folders_have_made_unlike_is_refused_whatever_it_is_but_times(made, tmp_path, kind):
    output, names, is_result = OTHERS[kind]
    job = {"id": "job-1", "kind": kind.split()[0], "label": "a", "seed": 0, "output": output}
    folders = [made(name, plan={**PLAN, "jobs": [job]}) for name in ("one", "second", "third")]
    for folder, content in zip(folders, (0.0, 0.0, 1.0), strict=True):
        for name in names:
            put(folder, name, content)
    assert merge(tmp_path / "all", folders[:2]) == Merged(jobs=1, done=1, copied=1)
    if is_result:
        with pytest.raises(ValueError, match=rf"expected equal outputs of {kind} a \(job-1\), but .* differs between"):
            merge(tmp_path / "other", [folders[0], folders[2]])
        assert [path.name for path in (tmp_path / "other").iterdir() if path.name[0] != "."] == []
    else:
        assert merge(tmp_path / "other", [folders[0], folders[2]]) == Merged(jobs=1, done=1, copied=1)


def observed(folder, name, *, sent="a" * 64, answer=0.5, shared=0.25):
    """A capture, or a service's predictions, whose requests have ids of their own, as those of any two runs."""
    output = folder / name
    output.mkdir(parents=True)
    times = {f"{part}_us": len(folder.name) for part in ("encode", "serialise", "network", "queue", "compute", "total")}
    entry = Entry(request_id=folder.name, place=0, predicted=1, sent_bytes=8, payload_sha256=sent, **times)
    Ledger(entries=(entry,)).write(output / "ledger.json")
    Pairs(torch.full((1, 2, 3), answer), ("h", "i"), folder.name, 1).save(output / "pairs.npz")
    SharedScores((folder.name,), np.full((1, 4), shared, np.float32), None, "toy").save(output / "shared-0.npz")
    (output / "tap.capture").write_bytes(folder.name.encode())
    write_json(output / "service.json", {})


@pytest.mark.parametrize("kind", ["capture", "predict"])
@pytest.mark.parametrize("unlike", [{"sent": "b" * 64}, {"answer": 0.6}, {"shared": 0.2}])
def test_captures_that_differ_are_refused_for_anything_but_their_ids_and_times(made, tmp_path, kind, unlike):
    """Else attacks on one target would be compared that saw other features."""
    job = {"id": "job-1", "kind": kind, "label": "a", "seed": 0, "output": "seen/s"}
    folders = [made(name, plan={**PLAN, "jobs": [job]}) for name in ("one", "second", "third")]
    for folder, given in zip(folders, ({}, {}, unlike), strict=True):
        observed(folder, "seen/s", **given)
    assert merge(tmp_path / "all", folders[:2]) == Merged(jobs=1, done=1, copied=1)
    with pytest.raises(ValueError, match=rf"expected equal outputs of {kind} a \(job-1\), but .* differs between"):
        merge(tmp_path / "other", [folders[0], folders[2]])


def test_a_plan_that_leads_out_of_its_folder_replaces_nothing_there(made, tmp_path):
    plan = {**PLAN, "jobs": [{**JOBS[1], "output": "../precious/score"}]}
    shard = made("shard", plan=plan)
    for folder in (tmp_path / "precious", shard / ".." / "precious" / "score"):
        folder.mkdir(exist_ok=True)
    with pytest.raises(ValueError, match="expected a place below the campaign's folder"):
        merge(tmp_path / "runs" / "all", [shard])
    assert not (tmp_path / "runs" / "precious").exists()


def test_a_folder_in_which_a_shard_runs_is_left_alone(made, tmp_path):
    one = made("one", "cell-a")
    with (
        Leases(one, "1-of-2", beat_s=0.01).living(),
        pytest.raises(BlockingIOError, match=r"expected no run in .*one, but the shard 1-of-2"),
    ):
        merge(tmp_path / "all", [one])


def test_a_folder_in_which_a_run_without_shards_is_left_alone(made, tmp_path):
    one = made("one", "cell-a")

    def other():
        merge(tmp_path / "all", [one])

    said = r"expected to be alone in writing .*one, but process"
    with Store(one).claimed(), ThreadPoolExecutor(1) as pool, pytest.raises(BlockingIOError, match=said):
        pool.submit(other).result()
    assert not (tmp_path / "all" / "campaign.json").exists()
    other()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all", "one"]


def test_what_is_no_campaign_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a folder that `splitleak campaign run` wrote"):
        merge(tmp_path / "all", [tmp_path])


def test_only_provenance_durations_and_ids_differ_between_two_runs():
    document = {"id": 1, "provenance": {}, "took_s": 2, "waits": [{"id": 2, "p50_ms": 3, "mse": 4}]}
    assert json.dumps(stable(document)) == '{"waits": [{"mse": 4}]}'
