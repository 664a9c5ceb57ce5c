import subprocess
from functools import partial
from types import SimpleNamespace

import pytest

from splitleak.eval.campaign.bench import Bench
from splitleak.eval.campaign.packing import unpack
from splitleak.eval.campaign.plan import Job
from splitleak.eval.campaign.processes import Children
from splitleak.eval.campaign.runner import run_jobs
from splitleak.eval.campaign.store import Store
from splitleak.plugins import ALLOW_CODE, ALLOW_PLUGIN, permissions

pytest.importorskip("ray", reason="the extra 'ray' is not installed")

from splitleak.eval.campaign import on_ray


def job(name, *needs, kind="cell", output=None, **settings):
    return Job(name, kind, name, 0, output or f"cells/{name}/score", needs, 1.0, settings)


def written(folder, each, text="said"):
    store = Store(folder)
    for path in (store.path(each) / "record.json", store.log(each)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_job_finds_what_it_reads_and_gives_what_it_wrote(tmp_path, monkeypatch):
    def do(bench, each):
        written(bench.store.folder, each, bench.below("targets/t").joinpath("weights").read_text())
        return {"threads": str(bench.threads)}

    monkeypatch.setattr(on_ray, "do", do)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "weights").write_text("of t")
    (tmp_path / "work").mkdir()
    packed, figures = on_ray.perform(job("a"), {"targets/t": tmp_path / "kept"}, tmp_path / "work", "cpu", 1)
    assert figures == {"threads": "1"}
    assert (unpack(packed, tmp_path) / "cells" / "a" / "score" / "record.json").read_text() == "of t"


def test_a_job_that_fails_says_why_and_is_no_error_of_its_node(tmp_path, monkeypatch):
    def do(bench, each):
        written(bench.store.folder, each, "said the child")
        raise subprocess.CalledProcessError(1, "splitleak train")

    monkeypatch.setattr(on_ray, "do", do)
    failed = on_ray.perform(job("a"), {}, tmp_path, "cpu", 1)
    assert (failed.command, failed.log) == ("splitleak train", b"said the child")
    assert "CalledProcessError" in failed.error


def test_why_a_job_failed_on_its_node_comes_last_of_what_is_on_record(tmp_path, monkeypatch):
    def do(bench, each):
        written(bench.store.folder, each, "attack 1/1")
        raise ValueError("expected one reconstruction")

    class Task:
        def options(self, **asked):
            return self

        def remote(self, each, *given):
            return on_ray.perform(each, {}, tmp_path / "node", "cpu", 1)

    monkeypatch.setattr(on_ray, "do", do)
    monkeypatch.setattr(on_ray, "_task", Task())
    monkeypatch.setattr(on_ray.ray, "get", lambda result: result)
    store = Store(tmp_path / "run")
    work = on_ray.RayNodes(Bench(store, Children(), device="cpu"), [job("a")])
    outcome = run_jobs([job("a")], store, work, lambda: None, workers=1, say=lambda line: None)
    assert [each.id for each in outcome.failed] == ["a"]
    assert store.failure("a")["command"] == "cell a"
    assert "attack 1/1" in store.failure("a")["error"]
    assert store.failure("a")["error"].endswith("ValueError: expected one reconstruction\n")


def nodes(tmp_path, *jobs):
    return on_ray.RayNodes(Bench(Store(tmp_path), Children()), jobs)


class OneNode:
    """Takes tasks as a cluster does, and does each at once, on a node that has its own folder."""

    def __init__(self, monkeypatch, folder):
        self._folder = folder
        monkeypatch.setattr(on_ray, "_task", self)
        monkeypatch.setattr(on_ray.ray, "get", lambda result: result())
        monkeypatch.setattr(on_ray.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "one"))
        monkeypatch.setattr(on_ray.tempfile, "tempdir", str(folder))

    def options(self, **asked):
        return self

    def remote(self, *given):
        return partial(on_ray._on_node, *given)


def test_a_node_lets_run_what_the_user_has_allowed(tmp_path, monkeypatch):
    allowed, there = {ALLOW_PLUGIN: "theirs", ALLOW_CODE: "1"}, []

    def do(bench, each):
        there.append(permissions())
        written(bench.store.folder, each, "said")
        return {}

    monkeypatch.setattr(on_ray, "do", do)
    monkeypatch.setattr(on_ray, "permissions", lambda: allowed)
    for name in allowed:
        monkeypatch.setenv(name, "")  # as on another machine
    OneNode(monkeypatch, tmp_path)
    work = on_ray.RayNodes(Bench(Store(tmp_path / "run"), Children(), device="cpu"), [job("a")])
    assert work(job("a")) == {}
    assert there == [allowed]


def test_what_a_node_judged_without_a_measure_is_judged_where_that_is(tmp_path, monkeypatch):
    done = []

    def do(bench, each):
        done.append(bench.store.folder == tmp_path / "run")
        written(bench.store.folder, each, "with it" if done[-1] else "without")
        return {"here": str(done[-1])}

    def is_done(store, each):
        return store.path(each).exists() and (store.path(each) / "record.json").read_text() == "with it"

    monkeypatch.setattr(on_ray, "do", do)
    monkeypatch.setattr(Store, "is_done", is_done)
    OneNode(monkeypatch, tmp_path)
    work = on_ray.RayNodes(Bench(Store(tmp_path / "run"), Children(), device="cpu"), [job("a")])
    assert work(job("a")) == {"here": "True"}
    assert done == [False, True]
    written(tmp_path / "run", job("a"), "without")
    assert work(job("a")) == {"here": "True"}
    assert done == [False, True, True]  # no node attacks it again


def test_a_job_is_given_all_that_it_depends_on(tmp_path):
    jobs = [job("split"), job("train", "split"), job("capture", "train"), job("cell", "capture", "train"), job("other")]
    assert sorted(nodes(tmp_path, *jobs)._needs(jobs[3])) == ["capture", "split", "train"]


def test_outputs_outside_of_the_folder_are_refused(tmp_path):
    outside = job("target", kind="train", output=str(tmp_path / "elsewhere"))
    bench = Bench(Store(tmp_path), Children())
    with pytest.raises(ValueError, match=r"that makes all that it attacks, for Ray, got .*elsewhere"):
        on_ray.RayNodes.connected(None, bench, [outside]).__enter__()


def test_the_images_are_split_by_the_machine_that_has_them(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(on_ray, "do", lambda bench, each: done.append(each.id) or {})
    split = job("split", kind="split")
    assert nodes(tmp_path, split)(split) == {}
    assert done == ["split"]


STARTED = {"defenses": [{"name": "transfer", "config": {"pretrained": "/mine"}}]}


@pytest.mark.parametrize(
    ("here", "kind", "settings"),
    [
        (True, "split", {}),
        (True, "prior", {"prior": {"folder": "/mine"}}),
        (True, "cell", {"embedder": {"onnx": "/mine.onnx"}, "prior": "priors/1"}),
        (True, "train", {"target": STARTED}),
        (True, "besides", {"measure": "training time"}),
        (False, "besides", {"measure": "target"}),
        (False, "prior", {"prior": {"iterations": 10}}),
        (False, "cell", {"prior": "priors/1"}),
        (False, "train", {"target": {"defenses": [{"name": "nopeek", "config": {"weight": 0.1}}]}}),
        (False, "open", {}),
    ],
)
def test_what_reads_the_users_own_files_or_times_stays_with_the_machine_that_has_them(here, kind, settings):
    assert on_ray.stays_here(job("a", kind=kind, **settings)) == here
