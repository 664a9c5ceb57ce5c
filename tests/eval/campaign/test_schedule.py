import pytest

from splitleak.eval.campaign.plan import Job
from splitleak.eval.campaign.schedule import Schedule


def job(name, *needs, kind="cell"):
    return Job(name, kind, name, 0, f"out/{name}", needs, 1.0, {})


def drained(schedule):
    taken = []
    while (each := schedule.take()) is not None:
        taken.append(each.id)
        schedule.ended(each)
    return taken


def test_of_ready_jobs_the_first_of_the_order_is_taken_also_if_it_became_ready_last():
    schedule = Schedule([job("b", "z"), job("a"), job("z")])
    assert schedule.take().id == "a"
    z = schedule.take()
    assert schedule.take() is None  # b waits for z, which has not ended
    schedule.ended(z)
    assert schedule.take().id == "b"
    assert not schedule


def test_what_is_not_among_the_jobs_is_no_need_and_one_named_twice_is_one():
    assert drained(Schedule([job("a", "elsewhere"), job("b", "a", "a")])) == ["a", "b"]


def test_a_failure_drops_what_depends_on_it_in_the_order_of_the_jobs():
    schedule = Schedule([job("a"), job("b", "a"), job("free"), job("d", "c"), job("c", "b"), job("e", "free", "a")])
    assert [each.id for each in schedule.failed(schedule.take())] == ["b", "d", "c", "e"]
    assert drained(schedule) == ["free"]
    assert not schedule


def test_beside_other_work_one_target_is_trained_at_a_time_before_all_else_and_alone_each_comes_to_its_end():
    targets = [job("t1", kind="train"), job("a", "t1"), job("b", "t1"), job("t2", kind="train"), job("c", "t2")]
    assert drained(Schedule(targets)) == ["t1", "a", "b", "t2", "c"]
    schedule = Schedule(targets)
    first = schedule.take()
    second = schedule.take()
    assert [first.id, second.id, schedule.take()] == ["t1", "t2", None]
    schedule = Schedule([*targets, job("t3", kind="train")])
    first, second = schedule.take(), schedule.take()
    schedule.ended(first)
    assert schedule.take().id == "a"  # t2 is in training
    schedule.ended(second)
    assert schedule.take().id == "t3"  # none is, and b could have been
    assert schedule.take().id == "b"


def test_what_times_the_targets_of_a_seed_has_nothing_beside_it_of_another_seed_either():
    jobs = [job("a"), job("latency 0", "a", kind="latency"), job("b"), job("c", "b")]
    schedule = Schedule([*jobs, job("latency 1", "c", kind="latency")])
    first, second = schedule.take(), schedule.take()
    assert [first.id, second.id, schedule.take()] == ["a", "b", None]
    schedule.ended(first)
    assert schedule.take() is None  # b runs
    schedule.ended(second)
    third = schedule.take()
    assert [third.id, schedule.take()] == ["c", None]
    schedule.ended(third)
    timed = schedule.take()
    assert [timed.id, schedule.take()] == ["latency 0", None]
    schedule.put_back(timed)  # another machine is at it
    timed = schedule.take()
    assert [timed.id, schedule.take()] == ["latency 0", None]
    schedule.ended(timed)
    assert schedule.take().id == "latency 1"
    assert not schedule


class Watched(dict):
    """A table that counts what it is asked and told."""

    operations = 0

    def __getitem__(self, key):
        Watched.operations += 1
        return super().__getitem__(key)

    def __setitem__(self, key, value):
        Watched.operations += 1
        super().__setitem__(key, value)


@pytest.mark.parametrize("count", [10, 100, 1000])
def test_each_need_is_counted_as_often_however_many_jobs_there_are(count, monkeypatch):
    monkeypatch.setattr(Watched, "operations", 0)
    jobs = [job("split")]
    for number in range(count):
        jobs += [job(f"target {number}", "split"), job(f"cell {number}", f"target {number}", "split")]
    jobs.append(job("last", *(each.id for each in jobs)))
    schedule = Schedule(jobs)
    schedule._open = Watched(schedule._open)
    assert len(drained(schedule)) == len(jobs)
    # Read and written when it is met, and read to see whether it was the last.
    assert Watched.operations == 3 * sum(len(each.needs) for each in jobs)
