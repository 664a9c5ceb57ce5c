import threading
from collections import Counter
from functools import partial

import pytest

from splitleak.eval.campaign.forecast import Took
from splitleak.eval.campaign.leases import Leases
from splitleak.eval.campaign.plan import Job
from splitleak.eval.campaign.runner import run_jobs
from splitleak.eval.campaign.shards import Shard, ShardOf
from splitleak.eval.campaign.store import Store


def job(name, *needs, kind="cell", seed=0):
    return Job(name, kind, name, seed, f"out/{name}", needs, 1.0, {})


def campaign(targets=5, *, latency=True):
    """A split, targets with three jobs each, and one job that needs all of them."""
    jobs = [job("split", kind="split")]
    for number in range(targets):
        train = f"train {number}"
        jobs += [job(train, "split", kind="train"), job(f"capture {number}", train, kind="capture")]
        jobs += [job(f"cell {number}", f"capture {number}", train), job(f"leakage {number}", train, kind="leakage")]
    return [*jobs, job("latency", *(each.id for each in jobs), kind="latency")] if latency else jobs


@pytest.mark.parametrize("text", ["", "3", "0/4", "5/4", "a/b", "1/0", "-1/2", "1/2/3"])
def test_a_shard_is_a_number_of_a_count(text):
    with pytest.raises(ValueError, match="expected a shard such as 3/16"):
        ShardOf.parse(text)


def test_a_shard_is_read_as_it_is_written():
    assert ShardOf.parse("3/16") == ShardOf(3, 16)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_parts_have_every_job_and_each_target_once(count):
    jobs = campaign()
    parts = [ShardOf(number, count).part(jobs) for number in range(1, count + 1)]
    dealt = Counter(name for part in parts for name in part)
    assert set(dealt) == {each.id for each in jobs} - ({"latency"} if count > 1 else set())
    assert {name for name, often in dealt.items() if often > 1} <= {"split"}
    sizes = sorted(len([name for name in part if name.startswith("train")]) for part in parts)
    assert sizes[-1] - sizes[0] <= 1


def test_a_part_has_what_its_jobs_need():
    jobs = campaign()
    by_id = {each.id: each for each in jobs}
    for number in (1, 2, 3):
        part = ShardOf(number, 3).part(jobs)
        assert all(need in part for name in part for need in by_id[name].needs)


def test_targets_that_start_from_one_stay_together():
    starts = [job("split", kind="split"), job("pretrained", "split", kind="train")]
    tuned = [job(f"tuned {number}", "split", "pretrained", kind="train") for number in range(3)]
    jobs = [*starts, job("other", "split", kind="train"), *tuned, job("cell", "tuned 1"), job("of other", "other")]
    parts = [ShardOf(number, 2).part(jobs) for number in (1, 2)]
    assert parts[0] == {"split", "pretrained", "tuned 0", "tuned 1", "tuned 2", "cell"}
    assert parts[1] == {"split", "other", "of other"}


def test_what_needs_no_target_and_nobody_needs_is_dealt_too():
    jobs = [job("split", kind="split"), job("a", "split"), job("b", "split"), job("prior", "split", kind="prior")]
    parts = [ShardOf(number, 3).part(jobs) for number in (1, 2, 3)]
    assert parts == [{"split", "a"}, {"split", "b"}, {"split", "prior"}]


class Plain(Store):
    """A store whose targets have no weights."""

    def is_done(self, each):
        return self.path(each).exists()


def write(store, each):
    path = store.path(each)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(each.id)


class Work:
    """Does jobs by writing their outputs; counts how often each is done."""

    def __init__(self, store):
        self.store, self.done, self._lock = store, Counter(), threading.Lock()

    def __call__(self, each):
        with self._lock:
            self.done[each.id] += 1
        if each.id.startswith("bad"):
            raise ValueError("not today")
        write(self.store, each)
        return {}


def leases_of(folder, of, *, dead_s=60):
    """By default those of a holder that takes nobody for dead, however late a thread of this busy machine is."""
    return Leases(folder, of.role, beat_s=0.01, dead_s=dead_s)


def run(folder, jobs, of, work, *, meet=None, say=lambda line: None, **patience):
    """A run of a shard, and what came of it."""
    store, leases = Plain(folder), leases_of(folder, of, **patience)
    with leases.living():
        shard = Shard(of, jobs, store, leases)  # what has failed by now is of an earlier run
        if meet is not None:
            meet()
        outcome = run_jobs(jobs, store, work, lambda: None, workers=2, say=say, shard=shard)
        if meet is not None:
            meet()  # whoever is late would find nobody in the folder, and no more than its own part concern it
        return outcome


@pytest.fixture(autouse=True)
def looks_again_soon(monkeypatch):
    monkeypatch.setattr("splitleak.eval.campaign.runner._AGAIN_S", 0.02)


def together(folder, jobs, count, work):
    """Runs of all shards at once."""
    meet, outcomes = partial(threading.Barrier(count).wait, 60), {}

    def one(number):
        outcomes[number] = run(folder, jobs, ShardOf(number, count), work, meet=meet)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(1, count + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_shards_in_one_folder_do_every_job_once_and_none_leaves_before_all_are_done(tmp_path):
    jobs, work = campaign(7), Work(Plain(tmp_path))
    outcomes = together(tmp_path, jobs, 3, work)
    assert work.done == Counter({each.id: 1 for each in jobs})
    assert sorted(each.id for outcome in outcomes.values() for each in outcome.done) == sorted(work.done)
    assert not any(outcome.failed or outcome.skipped for outcome in outcomes.values())
    assert list((tmp_path / "leases").glob("*.*")) == []


def test_a_shard_in_a_folder_of_its_own_does_its_part_and_leaves(tmp_path):
    jobs = campaign(5)
    works = [Work(Plain(tmp_path / str(number))) for number in (1, 2, 3)]
    for number, work in enumerate(works, 1):
        run(tmp_path / str(number), jobs, ShardOf(number, 3), work)
    dealt = sum((work.done for work in works), Counter())
    assert set(dealt) == {each.id for each in jobs} - {"latency"}
    assert {name for name, often in dealt.items() if often > 1} == {"split"}


@pytest.mark.parametrize("number", [1, 2])
def test_the_time_left_of_a_shard_is_that_of_its_own_part(tmp_path, number):
    jobs, lines = campaign(4, latency=False), []
    store = Plain(tmp_path)
    store.record_time(Took(job="of another run", group="train", cost=1.0, seconds=1e6, hardware=""))
    run(tmp_path, jobs, ShardOf(number, 2), Work(store), say=lines.append)
    assert "left about 0:00" in lines[-1]


def test_what_failed_in_one_shard_is_tried_by_no_other(tmp_path):
    jobs = [job("split", kind="split"), job("bad", "split", kind="train"), job("cell", "bad"), job("own", "split")]
    work = Work(Plain(tmp_path))
    outcomes = together(tmp_path, jobs, 3, work)
    assert work.done == Counter({"split": 1, "bad": 1, "own": 1})
    assert all([each.id for each in outcome.failed] == ["bad"] for outcome in outcomes.values())
    assert all(outcome.skipped == [("cell cell", "train bad")] for outcome in outcomes.values())


def test_what_fails_as_it_did_in_an_earlier_run_is_tried_by_one_shard_alone_again(tmp_path):
    jobs = [job("bad", kind="train"), job("good", kind="train"), job("fine", kind="train")]
    for tries in (1, 2, 3):
        work = Work(Plain(tmp_path))
        outcomes = together(tmp_path, jobs, 3, work)
        assert all([each.id for each in outcome.failed] == ["bad"] for outcome in outcomes.values())
        assert work.done["bad"] == 1, tries


@pytest.mark.parametrize("turn", ["done", "failed"])
def test_what_ends_while_its_lease_is_asked_for_is_not_done_again(tmp_path, turn):
    each, store, of = job("a", kind="train"), Plain(tmp_path), ShardOf(1, 1)

    class Late(Leases):
        def take(self, name):
            write(store, each) if turn == "done" else store.record_failure(each, "command", "error")
            return super().take(name)

    leases = Late(tmp_path, of.role)
    with leases.living():
        assert Shard(of, [each], store, leases).turn(each) == turn
        assert list((tmp_path / "leases").glob("*.*")) == []


def test_the_jobs_of_a_dead_shard_are_taken_over(tmp_path):
    jobs, work, dead = campaign(4), Work(Plain(tmp_path)), leases_of(tmp_path, ShardOf(1, 2))
    (tmp_path / "leases" / "alive").mkdir(parents=True)
    (tmp_path / "leases" / "alive" / dead.holder).write_text("3")
    (tmp_path / "leases" / "train 0.1").write_text(dead.holder)
    outcome = run(tmp_path, jobs, ShardOf(2, 2), work, dead_s=0.2)
    assert {each.id for each in outcome.done} == {each.id for each in jobs}


def test_a_failure_of_an_earlier_run_is_tried_again(tmp_path):
    store, jobs = Plain(tmp_path), [job("a", kind="train"), job("b", "a")]
    store.record_failure(jobs[0], "command", "error")
    work = Work(store)
    assert len(run(tmp_path, jobs, ShardOf(1, 1), work).done) == 2
    assert store.failure("a") is None
