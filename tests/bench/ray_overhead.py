"""What Ray adds to the jobs of a campaign: ``python -m tests.bench.ray_overhead [--jobs 8] [--seconds 10]``.

Two nodes of one processor each, processes of this machine, do jobs that wait for ten seconds: targets, and cells that
read a target of eight megabytes. The overhead is the time of a run, times the nodes, over the sum of the jobs' times,
less one. A second run in the same connection is told apart: its workers are there. Prints one JSON line. Needs the
extra ``ray``.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from splitleak.artifacts import write_json
from splitleak.eval.campaign.bench import Bench
from splitleak.eval.campaign.plan import Job
from splitleak.eval.campaign.processes import Children
from splitleak.eval.campaign.runner import run_jobs
from splitleak.eval.campaign.store import Store
from tests.bench.kill_ray import Nodes

_NODES = 2
_TARGET, _CELL = 8 * 2**20, 2**18  # bytes
_CELLS = 3  # of a target


def grid(count, name, seconds):
    """``count`` jobs: captures of a target, each followed by cells that read it."""
    jobs = []
    for number in range(count):
        key = f"{name}{number}"
        if number % (_CELLS + 1) == 0:
            target = Job.of("capture", key, key, 0, f"captures/{key}", (), {"seconds": seconds})
            jobs.append(target)
        else:
            settings = {"seconds": seconds, "reads": target.output}
            jobs.append(Job.of("cell", key, key, 0, f"cells/{key}/score", (target,), settings))
    return jobs


def wait(bench, job):
    """Does a job of a `grid`; the one figure is how long it took."""
    began = time.monotonic()
    if "reads" in job.settings:
        assert (bench.below(job.settings["reads"]) / "tap.capture").stat().st_size == _TARGET
    time.sleep(job.settings["seconds"])
    out = bench.store.path(job)
    out.mkdir(parents=True)
    (out / "tap.capture").write_bytes(bytes(_TARGET if job.kind == "capture" else _CELL))
    for name in ("record.json", "ledger.json", "pairs.npz"):  # without which an output is none
        write_json(out / name, {})
    return {"seconds": str(time.monotonic() - began)}


def on_node(*given):
    """What a task does, with `wait` for the real jobs."""
    from splitleak.eval.campaign import on_ray

    on_ray.do = wait
    return on_ray._on_node(*given)


def measured(count, seconds):
    """Shares of the jobs' times that come on top, by what is counted."""
    import ray

    from splitleak.eval.campaign import on_ray

    on_ray._task = ray.remote(on_node)
    rounds = [grid(count, name, seconds) for name in ("first", "second")]
    cluster = Nodes(_NODES)
    try:
        with tempfile.TemporaryDirectory() as folder:
            store, began = Store(Path(folder)), time.monotonic()
            bench = Bench(store, Children(), "cpu")
            with on_ray.RayNodes.connected(cluster.address, bench, [job for jobs in rounds for job in jobs]) as nodes:
                connected = time.monotonic() - began
                first, second = (
                    _overhead(jobs, store, nodes, before) for jobs, before in zip(rounds, (connected, 0), strict=True)
                )
    finally:
        cluster.close()
    return {"seconds_to_connect": round(connected, 1), "with_starts": first, "workers_there": second}


def _overhead(jobs, store, nodes, before):
    times = []

    def work(job):
        figures = nodes(job)
        times.append(float(figures["seconds"]))
        return figures

    began = time.monotonic()
    outcome = run_jobs(jobs, store, work, nodes.stop, workers=_NODES, say=len)
    took = before + time.monotonic() - began
    assert len(outcome.done) == len(jobs), [store.failure(job.id) for job in outcome.failed]
    return round(took * _NODES / sum(times) - 1, 4)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    found = {"jobs": given.jobs, "seconds": given.seconds, "nodes": _NODES}
    sys.stdout.write(json.dumps({**found, **measured(given.jobs, given.seconds)}) + "\n")


if __name__ == "__main__":
    main()
