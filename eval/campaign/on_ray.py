"""Runs a campaign's jobs as tasks of Ray, one a job, on whatever nodes there are; needs the extra ``ray``.

A task does what a worker of one machine does, in a folder of its own on its node: all processes of a job are on one
node. What it reads comes to a node once, and stays there for other jobs. What it writes goes back to the folder of the
campaign, whole or not at all, so that a run may be killed and goes on as any other.
"""

import os
import shutil
import subprocess
import tempfile
import threading
import traceback
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from splitleak.eval.campaign.bench import Bench, Figures
from splitleak.eval.campaign.jobs import do
from splitleak.eval.campaign.merging import files_of
from splitleak.eval.campaign.packing import pack, unpack, unpack_into
from splitleak.eval.campaign.plan import Job, Kind
from splitleak.eval.campaign.processes import Children
from splitleak.eval.campaign.store import Store, is_whole
from splitleak.plugins import permissions

_HERE: tuple[Kind, ...] = ("split", "import", "latency")
"""Kinds that read files of the user's own, or time what is done: done by the machine that runs the campaign."""
_TIMED = "training time"
_RETRIES = 50  # of a task whose worker or node died
_GPU: Mapping[Kind, float] = {"train": 0.5, "prior": 0.5, "cell": 0.25}
_LITTLE_GPU = 0.1


@dataclass(frozen=True)
class Failed:
    """Why a job failed, as its node says it: the command, the node's traceback, and what processes wrote."""

    command: str
    error: str
    log: bytes


@dataclass(frozen=True)
class Given:
    """The output of a job, packed, and where it lies."""

    job: str
    packed: "ray.ObjectRef[bytes]"


class RayNodes:
    """Does jobs on the nodes of a cluster, each call of it one job, from a thread of its own."""

    def __init__(self, bench: Bench, jobs: Iterable[Job]) -> None:
        self._bench, self._jobs = bench, {job.id: job for job in jobs}
        self._packed: dict[str, ray.ObjectRef[bytes]] = {}
        self._running: set[ray.ObjectRef[Any]] = set()
        self._lock = threading.Lock()
        self._node_folder = f"splitleak-{uuid.uuid4().hex}"

    @classmethod
    @contextmanager
    def connected(cls, address: str | None, bench: Bench, jobs: Sequence[Job]) -> Iterator["RayNodes"]:
        """Connects to a cluster while the block runs.

        Args:
            address: Of its head; None: that of ``RAY_ADDRESS`` or of this machine, else a cluster of this machine.
            bench: Of the folder.
            jobs: The campaign's.

        Raises:
            ValueError: The campaign reads outputs that lie elsewhere than in its folder.
        """
        if elsewhere := [job.output for job in jobs if Path(job.output).is_absolute()]:
            raise ValueError(f"expected a campaign that makes all that it attacks, for Ray, got {elsewhere[0]}")
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        try:
            yield cls(bench, jobs)
        finally:
            ray.shutdown()

    @property
    def workers(self) -> int:
        """Jobs at a time that its processors have room for."""
        return max(1, int(ray.cluster_resources().get("CPU", 1)) // self._bench.threads)

    def __call__(self, job: Job) -> Figures:
        """Does a job on some node.

        Raises:
            subprocess.CalledProcessError: It failed.
            ray.exceptions.RayError: Its node died again and again.
        """
        bench = self._bench
        if stays_here(job) or is_whole(job.kind, bench.store.path(job)):  # which lacks a measure of a plug-in alone
            return do(bench, job)
        log = bench.store.log(job)
        log.parent.mkdir(parents=True, exist_ok=True)
        given = [Given(need, self._output(self._jobs[need])) for need in self._needs(job)]
        jobs = {each.job: self._jobs[each.job] for each in given}
        gpus = _GPU.get(job.kind, _LITTLE_GPU) if self._wants_gpu() else 0
        asked = _task.options(num_cpus=bench.threads, num_gpus=gpus, name=f"{job.kind} {job.label}")
        result = asked.remote(job, jobs, given, self._node_folder, bench.device, bench.threads, permissions())
        with self._lock:
            self._running.add(result)
        try:
            came: tuple[bytes, Figures] | Failed = ray.get(result)
        finally:
            with self._lock:
                self._running.discard(result)
        if isinstance(came, Failed):
            with log.open("ab") as file:
                file.write(came.log)
            failed = subprocess.CalledProcessError(1, came.command)
            failed.add_note(came.error.rstrip())
            raise failed
        archive, figures = came
        unpack_into(archive, job, bench.store.folder)
        return figures if bench.store.is_done(job) else do(bench, job)  # judged here, where such a measure is

    def stop(self) -> None:
        """Ends all tasks that run."""
        with self._lock:
            running = list(self._running)
        for result in running:
            ray.cancel(result, force=True)
        self._bench.children.stop()

    def _wants_gpu(self) -> bool:
        return self._bench.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0

    def _needs(self, job: Job) -> list[str]:
        """All that a job depends on, transitively."""
        found: dict[str, None] = {}
        open_needs = [*job.needs]
        while open_needs:
            need = open_needs.pop()
            if need not in found:
                found[need] = None
                open_needs += self._jobs[need].needs
        return list(found)

    def _output(self, job: Job) -> "ray.ObjectRef[bytes]":
        with self._lock:
            if job.id not in self._packed:
                self._packed[job.id] = ray.put(pack(self._bench.store.folder, job))
            return self._packed[job.id]


def stays_here(job: Job) -> bool:
    """Whether the machine that runs the campaign does a job, for it reads files of the user's own or times things."""
    if job.kind in _HERE or job.settings.get("measure") == _TIMED or "embedder" in job.settings:
        return True
    prior = job.settings.get("prior")
    if isinstance(prior, Mapping) and "folder" in prior:
        return True
    started = job.settings["target"]["defenses"] if job.kind == "train" and "target" in job.settings else ()
    return any(defense["config"].get("pretrained") is not None for defense in started)


def perform(
    job: Job, inputs: Mapping[str, Path], folder: Path, device: str, threads: int
) -> tuple[bytes, Figures] | Failed:
    """Does a job in an empty ``folder``.

    Args:
        job: The job.
        inputs: Paths below the folder that it reads, and where they are.
        folder: Of this job alone.
        device: For commands that compute.
        threads: Of the job.

    Returns:
        Its packed output and figures, or why it failed.
    """
    store = Store(folder)
    for place, there in inputs.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).symlink_to(there)
    torch.set_num_threads(threads)
    children = Children({"OMP_NUM_THREADS": str(threads), "SPLITLEAK_DEBUG": "1"})
    try:
        figures = do(Bench(store, children, device, threads), job)
        return pack(folder, job), figures
    except Exception as error:
        command = error.cmd if isinstance(error, subprocess.CalledProcessError) else f"{job.kind} {job.label}"
        log = store.log(job)
        trace = "".join(traceback.format_exception(error))
        return Failed(str(command), trace, log.read_bytes() if log.exists() else b"")
    finally:
        children.stop()


def _on_node(
    job: Job,
    jobs: Mapping[str, Job],
    given: Sequence[Given],
    name: str,
    device: str,
    threads: int,
    allowed: Mapping[str, str],
) -> tuple[bytes, Figures] | Failed:
    """`perform` on a node, which keeps what its jobs read, and lets run what the user has allowed."""
    os.environ.update(allowed)
    node = Path(tempfile.gettempdir()) / name / ray.get_runtime_context().get_node_id()
    kept = node / "kept"
    kept.mkdir(parents=True, exist_ok=True)
    inputs: dict[str, Path] = {}
    for each in given:
        there = kept / each.job
        if not there.exists():
            came = unpack(ray.get(each.packed), kept)
            try:
                came.rename(there)
            except OSError:  # another job of the node was faster
                shutil.rmtree(came)
        inputs |= {str(path.relative_to(there)): path for path in files_of(jobs[each.job].document(), there)}
    with tempfile.TemporaryDirectory(dir=node) as folder:
        return perform(job, inputs, Path(folder), device, threads)


_task = ray.remote(max_retries=_RETRIES, retry_exceptions=False)(_on_node)
