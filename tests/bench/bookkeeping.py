"""What `run_jobs` itself costs, for jobs that do nothing: ``python -m tests.bench.bookkeeping [JOBS ...]``.

The grid is a campaign's: each target is trained, captured and attacked four times, and a last job needs all others.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from splitleak.eval.campaign.plan import Job
from splitleak.eval.campaign.runner import run_jobs
from splitleak.eval.campaign.store import Store

_SIZES = (1_000, 10_000, 20_000)
_ROUNDS = 5
_CELLS = 4
_WORKERS = 2


def grid(count: int) -> list[Job]:
    """About ``count`` jobs of a campaign: trainings, captures, cells, and one that needs all of them."""
    jobs: list[Job] = []

    def planned(kind, *needs, settings=None):
        key = f"{len(jobs):012}"
        jobs.append(Job.of(kind, key, key, 0, f"{kind}/{key}", needs, settings or {}))
        return jobs[-1]

    while len(jobs) < count - 1:
        train = planned("train")
        capture = planned("capture", train)
        for number in range(_CELLS):
            planned("cell", capture, train, settings={"attack": f"attack {number}"})
    planned("latency", *jobs)
    return jobs


def measured(count: int) -> float:
    """Seconds of one core that the jobs of a `grid` take."""
    jobs = grid(count)
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        outcome = run_jobs(jobs, Store(Path(folder)), lambda job: {}, lambda: None, workers=_WORKERS, say=len)
        took = time.process_time() - began
    assert len(outcome.done) == len(jobs)
    return took


if __name__ == "__main__":
    sizes = list(map(int, sys.argv[1:])) or _SIZES
    rounds = [[measured(size) for size in sizes] for _ in range(_ROUNDS)]
    for size, took in zip(sizes, zip(*rounds, strict=True), strict=True):
        told = f"{statistics.median(took):6.2f} s of one core, {min(took):.2f} to {max(took):.2f}"
        sys.stdout.write(f"{size:7,} jobs: {told}; median of {_ROUNDS}, interleaved\n")
