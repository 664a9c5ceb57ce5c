import json
from pathlib import Path

import pytest

from splitleak.eval.campaign.forecast import RECORDED, Forecast, Left, OpenJobs, Pace, Times, Took, Waiting
from splitleak.eval.campaign.plan import Job
from splitleak.eval.campaign.store import Store

HARDWARE = "a Xeon, 2 cores, torch threads: 1"


def job(name, kind="cell", cost=1.0, **settings):
    return Job(name, kind, name, 0, f"out/{name}", (), cost, settings)


def took(group, seconds, cost=1.0, hardware=HARDWARE):
    return Took(job=f"{group}-1", group=group, cost=cost, seconds=seconds, hardware=hardware)


def recorded(folder, *times):
    folder.mkdir()
    for each in times:
        Store(folder).record_time(each)
    return folder


def test_time_left_is_by_the_mean_of_each_group_and_cost_shared_among_workers():
    pace = Pace([took("train", 10), took("train", 60, cost=2), took("cell gan", 5)])
    waiting = Waiting([job("a", "train", 3.0), job("b", attack="gan"), job("c", attack="gan")])
    shorter = Waiting([job("a", "train", 0.4), job("b", attack="gan"), job("c", attack="gan")])
    assert pace.left(shorter, 2) == Left((0.4 * 20 + 2 * 5) / 2, {})
    assert pace.left(waiting, 1) == Left(3 * 20 + 2 * 5, {})
    waiting.drop(job("c", attack="gan"))
    waiting.drop(job("a", "train", 3.0))
    assert pace.left([*waiting, OpenJobs("train", 1, 1.0, 12.0)], 1).seconds == 5 + 8
    assert pace.left([OpenJobs("train", 1, 1.0, 50.0)], 1).seconds == 0


def test_workers_without_a_job_shorten_no_other():
    pace = Pace([took("train", 20), took("cell gan", 5)])
    jobs = [OpenJobs("train", 1, 1.0, 4.0), OpenJobs("cell gan", 2, 2.0)]
    assert [pace.left(jobs, workers).seconds for workers in (1, 2, 64)] == [16 + 2 * 5, 16, 16]
    assert pace.left(jobs[1:], 64).seconds == 5


@pytest.mark.parametrize(
    ("left", "text"),
    [(Left(65, {}), "about 1:05"), (Left(65, {"cell gan": 2}), "more than 1:05"), (Left(0, {"split": 1}), "unknown")],
)
def test_what_is_not_known_of_a_forecast_is_said(left, text):
    assert str(left) == text


def test_a_group_is_told_by_the_first_folder_that_has_times_of_it(tmp_path):
    own = recorded(tmp_path / "own", took("train", 8))
    other = recorded(tmp_path / "other", took("train", 100), took("cell gan", 30, hardware="another"), took("split", 1))
    jobs = [job("t", "train"), job("g", attack="gan"), job("x", attack="new"), job("y", attack="new")]
    forecast = Forecast.of(jobs, [own, other, tmp_path / "none"], 2)
    assert forecast.document() == {
        "seconds": 30,
        "workers": 2,
        "unknown": {"cell new": 2},
        "within": [],
        "told_by": [
            {"folder": str(own), "jobs": 1, "hardware": [HARDWARE]},
            {"folder": str(other), "jobs": 1, "hardware": ["another"]},
        ],
    }
    assert str(forecast) == (
        f"Left: more than 0:30 with 2 workers; by the times of 1 job in {own} ({HARDWARE}) and 1 job in {other} "
        "(another); no time is on record for 2 cell new jobs"
    )
    assert str(Forecast.of([], [own], 1)) == "Left: about 0:00 with 1 worker"


def test_a_line_that_was_cut_off_tells_no_time(tmp_path):
    folder = recorded(tmp_path / "own", took("train", 8))
    with (folder / "times.jsonl").open("a") as file:
        file.write('{"job": "cell-1", "seco\n\x00\x00')
    for seconds in (1, 2):
        Store(folder).record_time(took("split", seconds))
    assert [(each.group, each.seconds) for each in Times.load(folder).jobs] == [("train", 8), ("split", 2)]


def test_a_time_or_a_cost_that_none_can_be_tells_no_time(tmp_path):
    folder = recorded(tmp_path / "own", took("train", 8))
    whole = (folder / "times.jsonl").read_text()
    with (folder / "times.jsonl").open("a") as file:
        for change in ({"cost": 0}, {"cost": -1}, {"seconds": -1}, {"seconds": float("nan")}, {"cost": float("inf")}):
            file.write(json.dumps({**json.loads(whole), **change}) + "\n")
    assert [(each.group, each.seconds) for each in Times.load(folder).jobs] == [("train", 8)]


def test_of_results_recorded_before_times_the_moments_when_jobs_ended_tell_them():
    times = Times.load(RECORDED / "cem_cifar10_5k")
    assert times.of_ends
    assert {each.group for each in times.jobs} == {"train", "cell decoder"}
    assert all("Xeon" in name for name in times.hardware)
    jobs = [job("t", "train", 10.0), job("c", "capture")]
    forecast = Forecast.of(jobs, [Path("none"), RECORDED / "cem_cifar10_5k"], 1)
    assert forecast.within == ("capture",)
    assert str(forecast).startswith("Left: about ")
    assert str(forecast).endswith("that of capture jobs is within them")
