import re
import subprocess
import sys
import threading
from collections import Counter
from functools import partial

import pytest
import torch

from splitleak.artifacts import hardware, save_tensors
from splitleak.config import read_document
from splitleak.eval.campaign import runner
from splitleak.eval.campaign.config import CampaignConfig
from splitleak.eval.campaign.forecast import Times
from splitleak.eval.campaign.leases import Leases
from splitleak.eval.campaign.plan import Job, make_plan
from splitleak.eval.campaign.runner import run_jobs
from splitleak.eval.campaign.shards import ShardOf
from splitleak.eval.campaign.store import Store

DOCUMENT = {
    "name": "toy",
    "seeds": [0],
    "datasets": [{"name": "builtin", "channels": 1, "size": 16}],
    "models": [{"name": "cnn", "architecture": "cnn"}],
    "methods": [{"name": "Plain"}],
    "attacks": [{"name": "decoder", "attack": "decoder"}],
}
WAIT = "import sys; sys.stdin.read()"


def job(name, *needs, kind="cell", seed=0):
    return Job(name, kind, name, seed, f"out/{name}", needs, 1.0, {})


class Work:
    """Does jobs in processes: each writes its output, unless its name says that it fails."""

    def __init__(self, store):
        self.store = store
        self.tried = []
        self.at_once = 0
        self._lock = threading.Lock()
        self._running = 0

    def __call__(self, each):
        with self._lock:
            self.tried.append(each.id)
            self._running += 1
            self.at_once = max(self.at_once, self._running)
        try:
            script = "raise ValueError('said the child')" if each.id.startswith("bad") else "pass"
            log = self.store.log(each)
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as errors:
                subprocess.run([sys.executable, "-c", script], stderr=errors, check=True)
            output = self.store.path(each)
            output.parent.mkdir(exist_ok=True)
            output.write_text("")
        finally:
            with self._lock:
                self._running -= 1
        return {"MSE": "0.2500", "SSIM": "0.500"}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


@pytest.fixture
def work(store):
    return Work(store)


def run(store, work, jobs, *, workers=2, say=lambda line: None):
    return run_jobs(jobs, store, work, lambda: None, workers=workers, say=say)


def test_all_jobs_are_done_each_after_what_it_needs(store, work):
    jobs = [job("a"), job("b", "a"), job("c", "a"), job("d", "b", "c")]
    outcome = run(store, work, jobs)
    assert sorted(each.id for each in outcome.done) == ["a", "b", "c", "d"]
    assert (work.tried[0], work.tried[-1]) == ("a", "d")
    assert not outcome.failed
    assert not outcome.skipped


def test_every_job_that_is_skipped_is_counted_also_where_two_have_one_name(store, work):
    train = job("bad", kind="train")
    captures = [
        Job(f"capture-{draws}", "capture", "none, seed 0", 0, f"out/{draws}", ("bad",), 1, {}) for draws in "12"
    ]
    assert run(store, work, [train, *captures]).skipped == [("capture none, seed 0", "train bad")] * 2


def test_with_one_worker_jobs_are_done_in_their_order(store, work):
    run(store, work, [job("a"), job("b"), job("c", "a"), job("d")], workers=1)
    assert work.tried == ["a", "b", "c", "d"]
    assert work.at_once == 1


def test_images_are_split_before_all_else(store, work):
    run(store, work, [job("a", kind="split"), job("b", "a"), job("c", kind="split"), job("d", "c")], workers=1)
    assert work.tried == ["a", "c", "b", "d"]


def test_as_many_jobs_as_workers_run_at_once(store):
    meeting = threading.Barrier(3, timeout=20)

    def meet(each):
        meeting.wait()  # breaks unless three jobs are here at once
        return {}

    assert len(run(store, meet, [job(name) for name in "abcdef"], workers=3).done) == 6


@pytest.mark.parametrize("count", [10, 100, 1000])
def test_a_job_is_asked_for_its_needs_and_its_group_as_often_however_many_jobs_there_are(store, monkeypatch, count):
    asked = Counter()

    class Counted(Job):
        def __getattribute__(self, name):
            asked[name] += 1
            return super().__getattribute__(name)

    jobs = [Counted(str(at), "cell", "", 0, f"out/{at}", tuple(map(str, range(at % 7))), 1, {}) for at in range(count)]
    assert len(run(store, lambda each: {}, jobs).done) == count
    assert asked["needs"] == count
    assert asked["group"] <= 4 * count  # as it waits, starts and ends, and while it runs beside another


def test_what_is_done_is_not_done_again(store, work):
    jobs = [job("a"), job("b", "a")]
    run(store, work, jobs[:1])
    run(store, work, jobs)
    run(store, work, jobs)
    assert work.tried == ["a", "b"]


def test_a_failure_is_recorded_with_its_traceback_and_the_others_go_on(store, work):
    jobs = [job("bad"), job("needs-it", "bad"), job("needs-that", "needs-it"), job("other"), job("last", "other")]
    lines = []
    outcome = run(store, work, jobs, workers=1, say=lines.append)
    assert [each.id for each in outcome.failed] == ["bad"]
    assert outcome.skipped == [("cell needs-it", "cell bad"), ("cell needs-that", "cell bad")]
    assert [each.id for each in outcome.done] == ["other", "last"]
    failure = store.failure("bad")
    assert "CalledProcessError" in failure["error"]
    assert failure["error"].endswith("ValueError: said the child\n")
    assert str(store.log(jobs[0])) == failure["log"]
    assert sys.executable in failure["command"]
    assert "FAILED" in lines[0]


def test_why_a_job_failed_comes_last_whatever_its_processes_said_before(store):
    each = job("one")

    def judged(_):
        store.log(each).parent.mkdir()
        store.log(each).write_text("attack 1/1\n")
        raise ValueError("expected one reconstruction")

    def killed(_):
        with store.log(each).open("a") as log:
            log.write("attack 1/9\n")
        raise subprocess.CalledProcessError(-9, "splitleak attack")

    for broken, said, why in (
        (judged, "attack 1/1", "ValueError: expected one reconstruction"),
        (killed, "attack 1/9", "died with <Signals.SIGKILL: 9>."),
    ):
        run(store, broken, [each])
        lines = store.failure(each.id)["error"].splitlines()
        assert lines[0] == said
        assert lines[-1].endswith(why)


def test_a_failure_tells_of_this_try_alone(store, work):
    log = store.log(job("bad"))
    log.parent.mkdir(parents=True)
    log.write_text("Traceback (most recent call last):\nKeyError: of an earlier try\n")
    run(store, work, [job("bad")])
    assert "earlier" not in store.failure("bad")["error"]


def test_a_failed_job_is_tried_again_by_the_next_run_and_then_forgotten(store, work):
    jobs = [job("a"), job("b", "a")]

    def broken(each):
        raise ValueError("not today")

    assert run(store, broken, jobs).skipped == [("cell b", "cell a")]
    assert "ValueError: not today" in store.failure("a")["error"]
    assert len(run(store, work, jobs).done) == 2
    assert store.failure("a") is None


@pytest.mark.parametrize("stop_with", [KeyboardInterrupt, SystemExit])
def test_who_interrupts_a_run_ends_what_runs_and_leaves_no_failure(store, stop_with):
    children, started = [], threading.Event()

    def wait_for_ever(each):
        if each.id == "first":
            return {}
        with subprocess.Popen([sys.executable, "-c", WAIT], stdin=subprocess.PIPE) as child:
            children.append(child)
            started.set()
            if child.wait() != 0:
                raise RuntimeError("the child was ended")
        return {}

    def interrupt(line):
        started.wait(20)
        raise stop_with

    def stop():
        for child in children:
            child.terminate()

    with pytest.raises(stop_with):
        run_jobs([job("first"), job("second")], store, wait_for_ever, stop, workers=2, say=interrupt)
    assert [child.returncode for child in children] == [-15]
    assert store.failure("second") is None


def test_a_line_a_job_tells_cells_scores_time_and_what_runs(store, work):
    lines = []
    run(store, work, [job("train", kind="train"), job("one", "train"), job("two", "one")], workers=1, say=lines.append)
    assert re.fullmatch(
        r"\[0/2 cells\] train train: MSE 0\.2500, SSIM 0\.500 \(\d+ s\) \| elapsed 0:\d\d, left unknown", lines[0]
    )
    assert re.fullmatch(r"\[1/2 cells\] cell one: .* \| elapsed 0:\d\d, left about 0:\d\d", lines[1])
    assert re.fullmatch(r"\[2/2 cells\] cell two: .* left about 0:00", lines[2])


def test_cells_of_an_earlier_run_count_as_done(store, work):
    run(store, work, [job("one")])
    lines = []
    run(store, work, [job("one"), job("two")], say=lines.append)
    assert lines[0].startswith("[2/2 cells] cell two")


def test_time_left_is_what_the_group_took_by_cost_and_one_job_is_one_workers(store):
    ready = threading.Event()
    jobs = [Job(f"job-{cost}", "cell", f"job-{cost}", 0, f"out/{cost}", (), cost, {}) for cost in (1.0, 40.0)]
    lines = []

    def do(each):
        if each.cost == 1:
            threading.Event().wait(0.5)  # takes its time
        else:
            ready.wait(20)
        return {}

    def say(line):
        lines.append(line)
        ready.set()

    run(store, do, jobs, workers=2, say=say)
    left = re.search(r"left about (\d+):(\d\d) \| running: cell job-40", lines[0])
    [took] = [each.seconds for each in Times.load(store.folder).jobs if each.cost == 1]
    assert 60 * int(left[1]) + int(left[2]) == pytest.approx(40 * took, rel=0.2, abs=3)


def test_the_time_of_a_job_that_is_done_is_recorded_and_tells_a_later_run_what_is_left(store, work):
    run(store, work, [job("one"), job("bad")])
    [took] = Times.load(store.folder).jobs
    assert (took.job, took.group, took.hardware) == ("one", "cell", hardware())
    assert 0 < took.seconds < 60
    lines = []
    run(store, work, [job("a", kind="train"), job("two", "a")], workers=1, say=lines.append)
    assert "train a" in lines[0]
    assert "left about 0:0" in lines[0]


def test_the_threads_of_a_job_do_not_depend_on_workers_and_a_folder_keeps_its_own(tmp_path, monkeypatch):
    given = []

    def kept(jobs, store, do, stop, *, workers, **_):
        bench = do.args[0]
        given.append((workers, bench.threads, bench.children._environment["OMP_NUM_THREADS"], torch.get_num_threads()))
        return runner.Outcome()

    monkeypatch.setattr(runner, "run_jobs", kept)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8))
    plan, before = make_plan(CampaignConfig.load(DOCUMENT, source="test")), torch.get_num_threads()
    try:
        for asked in ({"workers": 1}, {"workers": 4}, {}):
            runner.run_campaign(plan, tmp_path / "one", say=print, **asked)
        assert given == [(1, 1, "1", 1), (4, 1, "1", 1), (8, 1, "1", 1)]
        given.clear()
        for asked in ({"threads": 3}, {}, {"workers": 1, "threads": 3}):
            runner.run_campaign(plan, tmp_path / "three", say=print, **asked)
        assert given == [(2, 3, "3", 3), (2, 3, "3", 3), (1, 3, "3", 3)]
    finally:
        torch.set_num_threads(before)
    document = read_document(tmp_path / "three" / "campaign.json")
    assert document["threads"] == 3
    assert "torch threads: 3" in document["provenance"]["hardware"]
    with pytest.raises(ValueError, match=r"expected --threads 3, as the jobs in .*three have had so far, got 2"):
        runner.run_campaign(plan, tmp_path / "three", say=print, threads=2)


def test_a_shard_of_other_settings_is_refused_while_one_lives_in_the_folder_and_not_after(tmp_path, monkeypatch):
    quick = partial(Leases, beat_s=0.01)
    monkeypatch.setattr(runner, "run_jobs", lambda *_, **__: runner.Outcome())
    monkeypatch.setattr(runner, "Leases", quick)
    one, other = (
        make_plan(CampaignConfig.load({**DOCUMENT, "training": {"epochs": epochs}}, source="test")) for epochs in (1, 2)
    )
    second = {"folder": tmp_path / "run", "shard": ShardOf(2, 2), "threads": torch.get_num_threads(), "say": print}
    runner.run_campaign(one, **second)
    plan_file = tmp_path / "run" / "campaign.json"
    before = read_document(plan_file)["config"]
    with quick(tmp_path / "run", "1-of-2").living():
        runner.run_campaign(one, **second)
        with pytest.raises(BlockingIOError, match=r"expected shards of one campaign in .*run, but the shard 1-of-2\."):
            runner.run_campaign(other, **second)
    assert read_document(plan_file)["config"] == before
    runner.run_campaign(other, **second)
    assert read_document(plan_file)["config"] != before


def test_a_run_with_a_store_does_what_no_other_run_has_put_there(tmp_path, monkeypatch):
    did = []

    def do(bench, each):
        did.append(each.id)
        (bench.store.path(each) / "mark").parent.mkdir(parents=True)
        files = {"cell": ["record.json"], "capture": ["ledger.json", "pairs.npz", "tap.capture"]}.get(each.kind, [])
        for name in ("mark", *files):
            (bench.store.path(each) / name).write_text(each.id)
        for part in ("train", "public", "victims", "test") if each.kind == "split" else ():
            bench.store.path(each).with_name(f"{part}.npz").write_bytes(b"")
        for half in ("edge", "cloud") if each.kind == "train" else ():
            save_tensors(bench.store.path(each) / half / "weights.safetensors", {"weight": torch.ones(1)})
        return {}

    monkeypatch.setattr(runner, "do", do)
    plan = make_plan(CampaignConfig.load(DOCUMENT, source="test"))
    for name in ("one", "two"):
        outcome = runner.run_campaign(plan, tmp_path / name, remote=f"file://{tmp_path}/store", say=print)
        assert sorted(done.id for done in outcome.done) == sorted(each.id for each in plan.jobs)
    assert sorted(did) == sorted(each.id for each in plan.jobs)
    assert all((Store(tmp_path / "two").path(each) / "mark").read_text() == each.id for each in plan.jobs)
    assert [len(Times.load(tmp_path / name).jobs) for name in ("one", "two")] == [
        len(plan.jobs),
        0,
    ]  # each where it ran
