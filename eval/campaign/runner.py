"""Runs a campaign's jobs side by side, each in processes of its own; what is done stays done, however the run ends."""

import os
import subprocess
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from splitleak.eval.campaign.bench import Bench, Figures
from splitleak.eval.campaign.jobs import do
from splitleak.eval.campaign.plan import Job, Plan
from splitleak.eval.campaign.processes import Children
from splitleak.eval.campaign.store import Store

_TRACEBACK = "Traceback (most recent call last)"
_TAIL = 12

Say = Callable[[str], None]
"""Hears one line for every job that ends."""


@dataclass
class Outcome:
    """What became of the jobs that were not done when the run began."""

    done: list[Job] = field(default_factory=list)
    failed: list[Job] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """The jobs that could not be tried, each with the failed one that it needs."""


def run_campaign(
    plan: Plan,
    folder: Path,
    *,
    seeds: Sequence[int] | None = None,
    workers: int | None = None,
    device: str = "auto",
    say: Say,
) -> Outcome:
    """Runs what is not done yet of ``plan`` (of ``seeds``, if given) in ``folder``.

    ``workers`` jobs at a time, by default one a core, each with its share of the cores as threads.

    Raises:
        BlockingIOError: Another run works in the folder.
        ValueError: The seeds are not the campaign's.
    """
    jobs = plan.of_seeds(seeds)
    cores = len(os.sched_getaffinity(0))
    at_a_time = workers or cores
    threads = max(1, cores // at_a_time)
    torch.set_num_threads(threads)  # the judge computes in this process
    store = Store(folder)
    with store.claimed() as descriptor:
        store.write_plan(plan)
        environment = {"OMP_NUM_THREADS": str(threads), "SPLITLEAK_DEBUG": "1"}
        children = Children(environment, inherited=(descriptor,))
        bench = Bench(store, children, device, threads)
        return run_jobs(jobs, store, partial(do, bench), children.stop, workers=at_a_time, say=say)


def run_jobs(
    jobs: Sequence[Job],
    store: Store,
    do: Callable[[Job], Figures],
    stop: Callable[[], None],
    *,
    workers: int,
    say: Say,
) -> Outcome:
    """Does ``jobs`` that are not done, the first that is ready first; a failure is recorded, and the others go on.

    Images are split before all else: what cannot be had of them is told at the beginning, not after hours.
    However this function is left, by Ctrl-C too, ``stop`` has ended what ran.
    """
    outcome = Outcome()
    waiting = sorted((job for job in jobs if not store.is_done(job)), key=lambda job: job.kind != "split")
    progress = _Progress(jobs, waiting, workers)
    running: dict[Future[Figures], Job] = {}
    stopping = threading.Event()
    with ThreadPoolExecutor(workers) as pool:
        try:
            while waiting or running:
                busy = {job.id for job in (*waiting, *running.values())}
                while len(running) < workers and (job := _first_ready(waiting, busy)) is not None:
                    waiting.remove(job)
                    running[pool.submit(_logged, do, job, store, stopping)] = job
                    progress.starts(job)
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    job = running.pop(future)
                    error = future.exception()
                    if error is None:
                        store.forget_failure(job)
                        outcome.done.append(job)
                        say(progress.line(job, _shown(future.result()), waiting))
                    else:
                        blocked = _take_dependants(job, waiting)
                        outcome.failed.append(job)
                        outcome.skipped |= {_name(each): _name(job) for each in blocked}
                        say(progress.line(job, f"FAILED, see {store.log(job)}", waiting, failed=True))
        except BaseException:
            stopping.set()
            stop()
            raise
    return outcome


def _logged(do: Callable[[Job], Figures], job: Job, store: Store, stopping: threading.Event) -> Figures:
    """Does the job; a failure is recorded before it is raised."""
    log = store.log(job)
    before = log.stat().st_size if log.exists() else 0
    try:
        return do(job)
    except Exception as error:
        if stopping.is_set():  # its processes were ended: that is no failure
            raise
        command = error.cmd if isinstance(error, subprocess.CalledProcessError) else _name(job)
        store.record_failure(job, command, _told(error, log, before))
        raise


def _told(error: Exception, log: Path, before: int) -> str:
    """What went wrong: our own traceback, and after it the child's, where there was a child and it said why."""
    said = ""
    if log.exists():
        with log.open("rb") as file:
            file.seek(before)
            said = file.read().decode(errors="replace")
    trace = said.rfind(_TRACEBACK)
    tail = said[trace:] if trace >= 0 else "\n".join(said.splitlines()[-_TAIL:])
    return "".join(traceback.format_exception(error)) + tail


def _first_ready(waiting: Sequence[Job], busy: Collection[str]) -> Job | None:
    return next((job for job in waiting if not any(need in busy for need in job.needs)), None)


def _take_dependants(failed: Job, waiting: list[Job]) -> list[Job]:
    """Takes out of ``waiting`` all that need ``failed``, directly or not."""
    lost, taken = {failed.id}, []
    for job in list(waiting):  # in an order in which needs come first
        if any(need in lost for need in job.needs):
            lost.add(job.id)
            taken.append(job)
            waiting.remove(job)
    return taken


class _Progress:
    """Cells done, time gone and time left: what is left takes as long as its group took so far, cost for cost."""

    def __init__(self, jobs: Sequence[Job], waiting: Sequence[Job], workers: int) -> None:
        self._cells = sum(job.kind == "cell" for job in jobs)
        self._done = self._cells - sum(job.kind == "cell" for job in waiting)
        self._workers = workers
        self._began = time.monotonic()
        self._running: dict[str, tuple[Job, float]] = {}
        self._took: defaultdict[str, list[float]] = defaultdict(list)  # seconds for a cost of 1, by group

    def starts(self, job: Job) -> None:
        self._running[job.id] = (job, time.monotonic())

    def line(self, job: Job, shown: str, waiting: Sequence[Job], *, failed: bool = False) -> str:
        """The line for a job that has just ended, and shows ``shown``."""
        now = time.monotonic()
        took = now - self._running.pop(job.id)[1]
        if not failed:
            self._took[job.group].append(took / job.cost)
            self._done += job.kind == "cell"
        running = "; ".join(_name(other) for other, _ in self._running.values())
        what = f"{_name(job)}{': ' if shown else ''}{shown} ({took:.0f} s)"
        times = f"elapsed {_clock(now - self._began)}, left {self._left(now, waiting)}"
        return f"[{self._done}/{self._cells} cells] {what} | {times}" + (f" | running: {running}" if running else "")

    def _left(self, now: float, waiting: Sequence[Job]) -> str:
        seconds, known = 0.0, True
        for job, since in (*((job, now) for job in waiting), *self._running.values()):
            if took := self._took.get(job.group):
                seconds += max(0.0, sum(took) / len(took) * job.cost - (now - since))
            else:
                known = False
        if not known and not seconds:
            return "unknown"
        return ("about " if known else "more than ") + _clock(seconds / self._workers)


def _name(job: Job) -> str:
    return f"{job.kind} {job.label}"


def _shown(figures: Figures) -> str:
    return ", ".join(f"{name} {value}" for name, value in figures.items())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
