"""A campaign's folder on disk: outputs, failures, logs, the current plan, and the lock of a run."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from splitleak.artifacts import are_tensors, provenance, write_json
from splitleak.config import Document, read_table
from splitleak.datasets.splits import PARTS, SPLITS
from splitleak.defenses.artifact import ARTIFACT
from splitleak.eval.campaign.forecast import TIMES, Took
from splitleak.eval.campaign.leases import Leases
from splitleak.eval.campaign.plan import KINDS, Job, Kind, Plan
from splitleak.eval.record import MEASURES
from splitleak.eval.record.metrics import headline, lacks_measure
from splitleak.eval.record.schema import FILE, load_record
from splitleak.locks import lock_file
from splitleak.outputs import beside, locked

PLAN = "campaign.json"
PACKED = ".packed-"
"""Begins the name of a folder in which what was packed is unpacked, and which is left where that is killed."""


def _single(name: str) -> str:
    if not name.strip(".") or Path(name).name != name or not name.isprintable():
        raise ValueError(f"expected a name that a file can have, got {name!r}")
    return name


def _below(output: str) -> str:
    if not (parts := Path(output).parts) or ".." in parts or not output.isprintable():
        raise ValueError(f"expected a place below the campaign's folder, got {output!r}")
    return output


_Name = Annotated[str, AfterValidator(_single)]
_Output = Annotated[str, AfterValidator(_below)]  # an absolute one is a target of another folder's


class _Part(BaseModel):
    """What is asked of a part of a file in the folder; it may tell more."""


class _Job(_Part):
    id: _Name
    kind: Kind
    label: str
    output: _Output


class _Cell(_Part):
    id: _Name


class _Measure(_Part):
    measure: str
    target: str
    seed: int
    output: _Output


class _Plan(Document):
    model_config = ConfigDict(extra="ignore")

    name: str
    title: str | None = None
    config: dict[str, Any]
    cells: tuple[_Cell, ...]
    jobs: tuple[_Job, ...] = ()
    besides: tuple[_Measure, ...] = ()
    threads: int | None = Field(default=None, ge=1)
    failures: tuple[dict[str, Any], ...] = ()
    doubts: tuple[tuple[str, str], ...] | None = None


class _Failure(Document):
    model_config = ConfigDict(extra="ignore")

    job: str
    label: str
    command: str
    error: str


WEIGHTS = {
    "train": ("edge/weights.safetensors", "cloud/weights.safetensors"),
    "purify": ("weights.safetensors",),
    "prior": ("generator.safetensors",),
}
"""The files of weights of each kind of output that has any."""
NETWORKS = {"train": ("edge/network.onnx", "cloud/network.onnx"), "prior": ("generator.onnx",)}
"""Where a network of one's own stands for them."""
_FILES = {
    "cell": (FILE,),
    "capture": ("ledger.json", "tap.capture", "pairs.npz"),
    "predict": ("service.json",),
    "import": (ARTIFACT.mark,),
}
"""Other files that are in a whole output: a copy of a folder that was cut off may have it without them."""
_ORPHANS_S = 30.0
_POLL_S = 0.05
_SHORT_S = 0.5
_LAST = 5


class Store:
    """The folder of one campaign. A job is done when its output exists; nothing here deletes a whole output."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, job: Job) -> Path:
        """Path of the job's output."""
        return self.folder / job.output

    def log(self, job: Job) -> Path:
        """File for the stderr of the job's child processes."""
        return self.folder / "logs" / f"{job.id}.log"

    def is_done(self, job: Job) -> bool:
        """Whether its output is there, with its images, and its weights, where it has any, can be read.

        A record without a measure of a plug-in that is allowed is not: its cell is judged again, and not attacked.
        """
        output = self.path(job)
        if not is_whole(job.kind, output):
            return False
        return job.kind != "cell" or not MEASURES.allowed() or not lacks_measure(load_record(output))

    def clear_half(self, job: Job) -> None:
        """Removes a folder in the place of the job's output that lacks some of its files, so that it can be made."""
        output = self.path(job)
        if not Path(job.output).is_absolute() and output.is_dir() and not _has_files(job.kind, output):
            partial = beside(output, "partial")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(output.rename(partial))

    def write_plan(self, plan: Plan, threads: int = 1) -> None:
        """Makes ``plan`` the current one; outputs of an earlier plan stay on disk, but are no longer reported."""
        write_json(self.folder / PLAN, {**plan.document(), "threads": threads, "provenance": provenance()})

    def threads(self, asked: int | None) -> int:
        """The number of threads of each job: that of the folder's first run, ``asked``, or one.

        Raises:
            ValueError: The folder's jobs have had another number than ``asked``.
        """
        so_far = self.read_plan().get("threads") if (self.folder / PLAN).is_file() else None
        if None not in (asked, so_far) and asked != so_far:
            expected = f"expected --threads {so_far}, as the jobs in {self.folder} have had so far"
            raise ValueError(f"{expected}, got {asked}: their results differ")
        return int(asked or so_far or 1)

    def read_plan(self) -> dict[str, Any]:
        """Reads what `write_plan` wrote.

        Raises:
            FileNotFoundError: The folder has no plan.
            ValueError: It is not what `write_plan` wrote, or names a place that is not below the folder.
        """
        path = self.folder / PLAN
        if not path.is_file():
            raise FileNotFoundError(f"expected a folder that `splitleak campaign run` wrote, got {self.folder}")
        document = read_table(path)
        _Plan.parse(document, source=str(path))
        return document

    def status(self) -> dict[str, Any]:
        """Progress of the current plan: jobs done, failed and to do by kind, the latest scores, and the failures.

        Raises:
            FileNotFoundError: The folder has no plan.
        """
        plan = self.read_plan()
        kinds: dict[str, dict[str, int]] = {kind: {"done": 0, "failed": 0, "to do": 0} for kind in KINDS}
        failures, records = [], []
        for job in plan["jobs"]:
            output = self.folder / job["output"]
            failure = self.failure(job["id"])
            state = "done" if is_whole(job["kind"], output) else "failed" if failure else "to do"
            kinds[job["kind"]][state] += 1
            if state == "failed" and failure:
                failures.append({**failure, "error": (failure["error"].strip().splitlines() or [""])[-1]})
            if state == "done" and job["kind"] == "cell":
                records.append((output.stat().st_mtime, job["label"], output))
        scores = []
        for _, label, path in sorted(records)[-_LAST:]:
            shown = headline(load_record(path))
            values = {metric.name: value for metric, value in shown}
            text = ", ".join(f"{metric.label} {metric.text(value)}" for metric, value in shown)
            scores.append({"cell": label, "figures": values, "text": text})
        planned = {kind: counts for kind, counts in kinds.items() if any(counts.values())}
        return {"name": plan["name"], "jobs": planned, "scores": scores, "failures": failures}

    def record_time(self, took: Took) -> None:
        """Records the wall time of a job that has succeeded, in a line of its own: shards may write beside."""
        with (self.folder / TIMES).open("ab") as file:
            file.write(took.model_dump_json().encode() + b"\n")

    def record_failure(self, job: Job, command: str, error: str) -> None:
        """Records why the job failed, until `forget_failure`; by its time it is told from an earlier one like it."""
        failure = {"job": job.id, "label": job.label, "command": command, "error": error, "log": str(self.log(job))}
        write_json(self._failure(job.id), {**failure, "time": datetime.now(UTC).isoformat()})

    def forget_failure(self, job: Job) -> None:
        """Removes the failure of a job that has now succeeded."""
        self._failure(job.id).unlink(missing_ok=True)

    def failure(self, job_id: str) -> dict[str, Any] | None:
        """The failure of the last attempt at the job, or None."""
        path = self._failure(job_id)
        return read_failure(path) if path.exists() else None

    def _failure(self, job_id: str) -> Path:
        return self.folder / "failures" / f"{job_id}.json"

    @contextmanager
    def claimed(self) -> Iterator[int]:
        """Holds the folder's lock while the block runs; yields a file descriptor for child processes to inherit.

        While a child of a killed run has it open, the next run waits: no two processes write one output.

        Raises:
            BlockingIOError: Another run holds the lock, a child process of an earlier one is still running, or a run
                that shares the folder is alive.
            FileExistsError: There is something else than a campaign in the folder.
        """
        with self.entered(patience_s=_SHORT_S):
            leases = Leases(self.folder, "alone")
            if (living := leases.living_holder()) is not None:
                raise BlockingIOError(f"expected to be alone in {self.folder}, but the shard {living} runs in it")
            leases.forget()
            for left in self.folder.glob(f"{PACKED}*"):
                shutil.rmtree(left)
            with (self.folder / ".children.lock").open("a") as shared:
                if not _locked(shared.fileno(), _ORPHANS_S):
                    raise BlockingIOError(
                        f"expected the processes of an earlier run in {self.folder} to end, but one is left"
                    )
                yield shared.fileno()

    @contextmanager
    def entered(self, *, patience_s: float = _ORPHANS_S) -> Iterator[None]:
        """Holds the folder's lock while the block runs, which is made where it is missing.

        Raises:
            BlockingIOError: Another run holds the lock.
            FileExistsError: There is something else than a campaign in the folder.
        """
        with locked(self.folder.resolve(), patience_s):
            expected = f"expected a folder that `splitleak campaign run` wrote, or a new one, at {self.folder}"
            if self.folder.exists() and not self.folder.is_dir():
                raise FileExistsError(f"{expected}, got a file; it was not touched")
            if self.folder.exists() and not (self.folder / PLAN).is_file():
                strangers = [path.name for path in self.folder.iterdir() if not path.name.startswith(".")]
                if strangers:
                    raise FileExistsError(f"{expected}, got one with {strangers[0]}; it was not touched")
            self.folder.mkdir(parents=True, exist_ok=True)
            yield


def read_failure(path: Path) -> dict[str, Any]:
    """Reads what `Store.record_failure` wrote."""
    document = read_table(path)
    _Failure.parse(document, source=str(path))
    return document


def is_whole(kind: str, output: Path) -> bool:
    """Whether a job's output is there, with the files that go with it, and its weights, if any, can be read."""
    if not output.exists() or (output.is_dir() and not _has_files(kind, output)):
        return False
    if output.name == SPLITS.mark:
        return all((output.parent / f"{part}.npz").is_file() for part in PARTS)
    own = NETWORKS.get(kind, ())
    if own and all((output / name).is_file() for name in own) and not (kind == "train" and _is_trained(output)):
        return True
    return all(are_tensors(output / name) for name in WEIGHTS.get(kind, ()))


def _has_files(kind: str, output: Path) -> bool:
    return all((output / name).is_file() for name in _FILES.get(kind, ()))


def _is_trained(artifact: Path) -> bool:
    """Whether a network of one's own has weights beside it; imported as it came, it has none."""
    try:
        return read_table(artifact / ARTIFACT.mark)["target"]["training"] is not None
    except (ValueError, LookupError, TypeError, OSError):
        return True


def _locked(descriptor: int, patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            lock_file(descriptor)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)
        else:
            return True
