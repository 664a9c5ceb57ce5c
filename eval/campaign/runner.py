"""Runs a campaign's jobs in parallel workers, each job in child processes; a run is resumable, however it ends."""

import shlex
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from splitleak.artifacts import hardware
from splitleak.cores import usable_cores
from splitleak.eval.campaign.bench import Bench, Figures
from splitleak.eval.campaign.forecast import OpenJobs, Pace, Times, Took, Waiting
from splitleak.eval.campaign.jobs import do
from splitleak.eval.campaign.leases import Leases
from splitleak.eval.campaign.plan import Job, Plan
from splitleak.eval.campaign.processes import Children
from splitleak.eval.campaign.remote import FETCHED, RemoteStore
from splitleak.eval.campaign.schedule import Schedule
from splitleak.eval.campaign.shards import Shard, ShardOf
from splitleak.eval.campaign.store import PLAN, Store
from splitleak.logs import clock

_TRACEBACK = "Traceback (most recent call last)"
_TAIL = 12
_AGAIN_S = 1.0  # between two looks at jobs of others

Say = Callable[[str], None]
"""Takes one line for every job that ends."""


@dataclass
class Outcome:
    """The results of a run: jobs done, failed and skipped."""

    done: list[Job] = field(default_factory=list)
    failed: list[Job] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """The names of the jobs that could not run, each with that of the failed job it depends on."""


def run_campaign(
    plan: Plan,
    folder: Path,
    *,
    seeds: Sequence[int] | None = None,
    workers: int | None = None,
    threads: int | None = None,
    device: str = "auto",
    shard: ShardOf | None = None,
    cluster: str | None = None,
    remote: str | None = None,
    say: Say,
) -> Outcome:
    """Runs the jobs of ``plan`` that are not done yet.

    Args:
        plan: The campaign's jobs.
        folder: Of the campaign.
        seeds: Run jobs of these seeds only; default: all.
        workers: Jobs at a time, which no result depends on; default: as many as there are cores for.
        threads: Of each job. Results depend on them in their last digits, and trainings with these: the folder keeps
            the number of its first run. Default: that number, or one.
        device: For commands that compute.
        shard: Which share of the jobs comes first, in a run beside others in the folder; default: all, and alone.
        cluster: Ray's, whose nodes do the jobs: the address of its head, or nothing for the one at hand; default: this
            machine does them.
        remote: URL that fsspec knows, where what is done is put, and fetched from where another run has done it.
        say: Takes the progress.

    Raises:
        BlockingIOError: Another run holds the folder's lock, or one that shares the folder is alive; a shard: if it is
            of other jobs.
        FileExistsError: The folder holds something else than a campaign.
        ValueError: The seeds are not the campaign's, or its jobs have had another number of threads so far.
    """
    jobs = plan.of_seeds(seeds)
    store = Store(folder)
    with ExitStack() as stack:
        inherited: tuple[int, ...] = ()
        beside = None
        if shard is None:
            inherited = (stack.enter_context(store.claimed()),)
            threads = _planned(store, plan, threads)
        else:
            leases = Leases(folder, shard.role)
            with store.entered():
                _check_one_plan(store, plan, leases)
                threads = _planned(store, plan, threads)
                stack.enter_context(leases.living())
            beside = Shard(shard, jobs, store, leases)
        environment = {"OMP_NUM_THREADS": str(threads), "SPLITLEAK_DEBUG": "1"}
        children = Children(environment, inherited=inherited)
        bench = Bench(store, children, device, threads)
        at_a_time, machine = jobs_at_a_time(threads), None
        work: Callable[[Job], Figures] = partial(do, bench)
        stop = children.stop
        if cluster is not None:
            from splitleak.eval.campaign.on_ray import RayNodes  # of an extra

            nodes = stack.enter_context(RayNodes.connected(cluster or None, bench, plan.jobs))
            work, stop, at_a_time, machine = nodes, nodes.stop, nodes.workers, "nodes of a cluster of Ray"
        if remote is not None:
            outputs = RemoteStore(remote, store, threads)
            outputs.put_missing(jobs)
            work = outputs.around(work)
        workers = workers or at_a_time
        return run_jobs(jobs, store, work, stop, workers=workers, say=say, shard=beside, machine=machine)


def _planned(store: Store, plan: Plan, asked: int | None) -> int:
    """Makes ``plan`` the current one; gives this process, the judge, the threads of a job, and returns their number."""
    threads = store.threads(asked)
    torch.set_num_threads(threads)
    store.write_plan(plan, threads)
    return threads


def jobs_at_a_time(threads: int) -> int:
    """As many jobs of so many threads as this machine has cores for."""
    return max(1, usable_cores() // threads)


def _check_one_plan(store: Store, plan: Plan, leases: Leases) -> None:
    """Refuses to share a folder with a living shard of other jobs, whose plan would be replaced.

    By jobs, not by the whole plan: paths in it may differ between machines.
    """
    there = {job["id"] for job in store.read_plan()["jobs"]} if (store.folder / PLAN).is_file() else set()
    if there - {job.id for job in plan.jobs} and (living := leases.living_holder()) is not None:
        expected = f"expected shards of one campaign in {store.folder}"
        raise BlockingIOError(f"{expected}, but the shard {living} runs one of other settings")


def run_jobs(
    jobs: Sequence[Job],
    store: Store,
    do: Callable[[Job], Figures],
    stop: Callable[[], None],
    *,
    workers: int,
    say: Say,
    shard: Shard | None = None,
    machine: str | None = None,
) -> Outcome:
    """Runs the jobs that are not done, in order of readiness; a failure is recorded, and independent jobs go on.

    Splits come first, so that missing images are reported at the beginning, not after hours.

    Args:
        jobs: In topological order.
        store: Where outputs, failures and logs are.
        do: Runs one job, in a worker thread.
        stop: Ends the running child processes; called whenever this function is left by an exception, Ctrl-C too.
        workers: Jobs at a time.
        say: Takes the progress.
        shard: Says whose turn each job is; None: always ours. With it, this waits for jobs that others are at, to take
            them over from whoever dies.
        machine: What the jobs run on, for the record of their times; None: this one.
    """
    outcome = Outcome()
    waiting = sorted((job for job in jobs if not store.is_done(job)), key=lambda job: job.kind != "split")
    waiting = waiting if shard is None else shard.in_order(waiting)
    pace = Pace(Times.load(store.folder).jobs)
    own = waiting if shard is None else shard.own(waiting)  # what others do takes no time of ours
    progress = _Progress(jobs, waiting, own, workers, pace, machine or hardware())
    schedule = Schedule(waiting)
    running: dict[Future[Figures], Job] = {}
    later: list[Job] = []
    asked = time.monotonic()
    stopping = threading.Event()

    def fails(job: Job) -> None:
        blocked = schedule.failed(job)
        progress.drops(blocked)
        outcome.failed.append(job)
        outcome.skipped += [(_name(dependant), _name(job)) for dependant in blocked]

    with ThreadPoolExecutor(workers) as pool:
        try:
            while schedule or running or later:
                while len(running) < workers and (job := schedule.take()) is not None:
                    turn = "ours" if shard is None else shard.turn(job)
                    if turn == "ours":
                        running[pool.submit(_logged, do, job, store, stopping)] = job
                        progress.starts(job)
                    elif turn == "later":
                        later.append(job)
                    else:
                        progress.ends_elsewhere(job, done=turn == "done")
                        schedule.ended(job) if turn == "done" else fails(job)
                if shard is not None and later and not running:
                    if not any(map(shard.concerns, later)):
                        break
                    time.sleep(_AGAIN_S)
                ended, _ = wait(running, timeout=_AGAIN_S if later else None, return_when=FIRST_COMPLETED)
                for future in ended:
                    job = running.pop(future)
                    error = future.exception()
                    if error is None:
                        fetched = future.result() is FETCHED
                        took = progress.ends(job, fetched=fetched)
                        store.forget_failure(job)
                        if not fetched:
                            store.record_time(took)
                        outcome.done.append(job)
                        schedule.ended(job)
                        say(progress.line(job, _shown(future.result()), took))
                    else:
                        took = progress.ends(job, failed=True)
                        fails(job)
                        say(progress.line(job, f"FAILED, see {store.log(job)}", took))
                    if shard is not None:
                        shard.ended(job)
                if later and time.monotonic() >= asked + _AGAIN_S:
                    for job in later:
                        schedule.put_back(job)
                    later, asked = [], time.monotonic()
        except BaseException:
            stopping.set()
            stop()
            raise
    return outcome


def _logged(do: Callable[[Job], Figures], job: Job, store: Store, stopping: threading.Event) -> Figures:
    """Runs the job; records a failure before it is raised."""
    log = store.log(job)
    before = log.stat().st_size if log.exists() else 0
    try:
        return do(job)
    except Exception as error:
        if stopping.is_set():  # its processes were stopped with the run: no failure
            raise
        command = _name(job)
        if isinstance(error, subprocess.CalledProcessError):
            command = error.cmd if isinstance(error.cmd, str) else shlex.join(map(str, error.cmd))
        store.record_failure(job, command, _error_text(error, log, before))
        raise


def _error_text(error: Exception, log: Path, before: int) -> str:
    """The traceback of this process, and the child's or the end of its stderr, from byte ``before`` of the log.

    The cause comes last: the child's traceback where it failed, else that of this process.
    """
    said, own = "", "".join(traceback.format_exception(error))
    if log.exists():
        with log.open("rb") as file:
            file.seek(before)
            said = file.read().decode(errors="replace")
    trace = said.rfind(_TRACEBACK)
    if trace >= 0 and isinstance(error, subprocess.CalledProcessError):
        return own + said[trace:]
    return "".join(f"{line}\n" for line in said[max(0, trace) :].splitlines()[-_TAIL:]) + own


class _Progress:
    """Cells done, elapsed time and an estimate of the time left for what is ``own`` of the jobs that wait."""

    def __init__(
        self, jobs: Sequence[Job], waiting: Sequence[Job], own: Sequence[Job], workers: int, pace: Pace, hardware: str
    ) -> None:
        self._cells = sum(job.kind == "cell" for job in jobs)
        self._done = self._cells - sum(job.kind == "cell" for job in waiting)
        self._workers, self._pace, self._hardware = workers, pace, hardware
        self._began = time.monotonic()
        self._running: dict[str, tuple[Job, float]] = {}
        self._waiting = Waiting(own)

    def starts(self, job: Job) -> None:
        self._waiting.drop(job)
        self._running[job.id] = (job, time.monotonic())

    def drops(self, jobs: Iterable[Job]) -> None:
        """Counts ``jobs`` as waiting no longer."""
        for job in jobs:
            self._waiting.drop(job)

    def ends_elsewhere(self, job: Job, *, done: bool) -> None:
        """Counts a job of another shard."""
        self._waiting.drop(job)
        self._done += done and job.kind == "cell"

    def ends(self, job: Job, *, failed: bool = False, fetched: bool = False) -> Took:
        """Counts a job that has just ended; returns its time, which tells nothing if it failed or was fetched."""
        seconds = time.monotonic() - self._running.pop(job.id)[1]
        took = Took(job=job.id, group=job.group, cost=job.cost, seconds=seconds, hardware=self._hardware)
        if not failed and not fetched:
            self._pace.add(took)
        self._done += job.kind == "cell" and not failed
        return took

    def line(self, job: Job, shown: str, took: Took) -> str:
        """The line for a job that has just ended, with its figures ``shown``."""
        now = time.monotonic()
        running = "; ".join(_name(other) for other, _ in self._running.values())
        what = f"{_name(job)}{': ' if shown else ''}{shown} ({took.seconds:.0f} s)"
        begun = (OpenJobs(other.group, 1, other.cost, now - since) for other, since in self._running.values())
        left = self._pace.left([*self._waiting, *begun], self._workers)
        times = f"elapsed {clock(now - self._began)}, left {left}"
        return f"[{self._done}/{self._cells} cells] {what} | {times}" + (f" | running: {running}" if running else "")


def _name(job: Job) -> str:
    return f"{job.kind} {job.label}"


def _shown(figures: Figures) -> str:
    return ", ".join(f"{name} {value}" for name, value in figures.items())
