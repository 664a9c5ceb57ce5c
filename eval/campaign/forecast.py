"""How long the jobs of a campaign will take, by the times of jobs that ended: of this run, or of recorded ones."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, Self

from pydantic import Field, ValidationError

from splitleak.config import Document
from splitleak.eval.campaign.plan import Job, training_cost
from splitleak.eval.record.schema import Provenance, Record, load_lines
from splitleak.logs import clock

TIMES = "times.jsonl"
RECORDED = Path(__file__).parents[1] / "results"

_RECORDS = "records.jsonl"
_WITH_RECORDS = ("train", "cell")  # kinds whose end a record tells


class Took(Document):
    """The wall time of one job that succeeded; ``cost`` is relative to other jobs of its ``group``, see `Job`."""

    job: str = Field(description="its id")
    group: str
    cost: float = Field(gt=0, allow_inf_nan=False)
    seconds: float = Field(ge=0, allow_inf_nan=False)
    hardware: str


@dataclass(frozen=True)
class Times:
    """The times of the jobs of a folder, which was a campaign's or has recorded results."""

    folder: Path
    jobs: tuple[Took, ...]
    of_ends: bool = False
    """Whether they follow from when jobs ended, see `_between`: those of other kinds are within them."""

    @classmethod
    def recorded(cls, folder: Path) -> Self:
        """Reads the times that a run recorded, in a campaign's folder or in that of its report; none if there are none.

        A line that was cut off, as power fails, or that is of another format tells no time.
        """
        path, jobs = folder / TIMES, []
        for line in path.read_bytes().splitlines() if path.is_file() else ():
            with suppress(ValidationError):
                jobs.append(Took.model_validate_json(line))
        return cls(folder, tuple(jobs))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The times that a run recorded, or those that follow from when trainings and cells ended: see `_between`.

        Raises:
            ValueError: A record is invalid.
        """
        times = cls.recorded(folder)
        if not times.jobs and (folder / _RECORDS).is_file():
            return cls(folder, tuple(_between(load_lines(folder / _RECORDS))), of_ends=True)
        return times

    def __str__(self) -> str:
        number = f"{len(self.jobs)} job{'s' * (len(self.jobs) > 1)}"
        return f"{number} in {_below_here(self.folder)} ({'; '.join(self.hardware)})"

    def of(self, groups: Iterable[str]) -> Self:
        """Those of some groups alone."""
        kept = set(groups)
        return replace(self, jobs=tuple(took for took in self.jobs if took.group in kept))

    @property
    def hardware(self) -> tuple[str, ...]:
        """What the jobs ran on."""
        return tuple(sorted({took.hardware for took in self.jobs}))


@dataclass(frozen=True)
class Left:
    """Time left: ``seconds`` for jobs of known groups, and how many jobs there are of groups without a time."""

    seconds: float
    unknown: Counter[str]

    def __str__(self) -> str:
        if self.unknown and not self.seconds:
            return "unknown"
        return ("more than " if self.unknown else "about ") + clock(self.seconds)


class OpenJobs(NamedTuple):
    """Jobs of one group that have not ended: how many, the sum of their costs, and how long they have run so far."""

    group: str
    number: int
    cost: float
    so_far_s: float = 0.0


class Waiting:
    """Jobs that have not begun, by group."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._ids, self._counts, self._costs = set[str](), Counter[str](), defaultdict[str, float](float)
        for job in jobs:
            group = job.group
            self._ids.add(job.id)
            self._counts[group] += 1
            self._costs[group] += job.cost

    def drop(self, job: Job) -> None:
        """Counts a job no longer, if it was counted."""
        if job.id not in self._ids:
            return
        self._ids.remove(job.id)
        group = job.group
        self._counts[group] -= 1
        self._costs[group] -= job.cost

    def __iter__(self) -> Iterator[OpenJobs]:
        return (OpenJobs(group, count, self._costs[group]) for group, count in self._counts.items() if count)


class Pace:
    """The mean time per cost of each group of jobs."""

    def __init__(self, times: Iterable[Took] = ()) -> None:
        """Knows ``times`` from the start."""
        self._sums: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0])
        for took in times:
            self.add(took)

    def add(self, took: Took) -> None:
        """Counts the time of a job that ended."""
        total = self._sums[took.group]
        total[0] += took.seconds / took.cost
        total[1] += 1

    def left(self, jobs: Iterable[OpenJobs], workers: int) -> Left:
        """Time left for jobs that are shared among ``workers``, each of whom does one at a time."""
        seconds, longest, unknown = 0.0, 0.0, Counter[str]()
        for group, number, cost, so_far in jobs:
            total, known = self._sums.get(group, (0.0, 0))
            if known:
                more = max(0.0, total / known * cost - so_far)
                seconds, longest = seconds + more, max(longest, more / number)
            else:
                unknown[group] += number
        return Left(max(seconds / workers, longest), unknown)


@dataclass(frozen=True)
class Forecast:
    """How long jobs that were not begun will take, and by which times."""

    left: Left
    workers: int
    told_by: tuple[Times, ...]
    within: tuple[str, ...]
    """Groups of jobs whose time is within that of the others."""

    @classmethod
    def of(cls, jobs: Sequence[Job], folders: Iterable[Path], workers: int) -> Self:
        """The forecast for ``jobs``, each group of them by the first of ``folders`` that has times of it.

        Raises:
            ValueError: A record is invalid.
        """
        waiting = Waiting(jobs)
        missing, told_by = {group for group, *_ in waiting}, []
        for folder in folders:
            if missing and (times := Times.load(folder).of(missing)).jobs:
                missing -= {took.group for took in times.jobs}
                told_by.append(times)
        pace = Pace(took for times in told_by for took in times.jobs)
        of_ends = any(times.of_ends for times in told_by)
        within = {group for group in missing if of_ends and group.split()[0] not in _WITH_RECORDS}
        left = pace.left((jobs for jobs in waiting if jobs.group not in within), workers)
        return cls(left, workers, tuple(told_by), tuple(sorted(within)))

    def __str__(self) -> str:
        unknown = ", ".join(f"{count} {group}" for group, count in sorted(self.left.unknown.items()))
        parts = [f"Left: {self.left} with {self.workers} worker{'s' * (self.workers > 1)}"]
        parts += [f"by the times of {' and '.join(map(str, self.told_by))}"] if self.told_by else []
        parts += [f"no time is on record for {unknown} jobs"] if unknown else []
        parts += [f"that of {', '.join(self.within)} jobs is within them"] if self.within else []
        return "; ".join(parts)

    def document(self) -> dict[str, Any]:
        """As JSON; ``seconds`` are of the jobs of known groups alone."""
        return {
            "seconds": self.left.seconds,
            "workers": self.workers,
            "unknown": dict(self.left.unknown),
            "within": list(self.within),
            "told_by": [
                {"folder": str(times.folder), "jobs": len(times.jobs), "hardware": list(times.hardware)}
                for times in self.told_by
            ],
        }


def _below_here(folder: Path) -> Path:
    place = folder.resolve()
    return place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else folder


def _between(records: Sequence[Record]) -> Iterator[Took]:
    """Times of trainings and cells from the moments when they ended, in a run of ``w`` workers.

    A worker takes up a job when it ends another, so that the job that ended i-th began about when the (i-w)-th ended.
    Jobs that leave no record, captures for instance, are counted with those that do. Each job is given the
    median of its group: what was measured while the run was stopped, or did other jobs, is no time of it.
    """
    ends: dict[str, tuple[str, float, Provenance]] = {}
    for record in records:
        design = record.target.design
        if design.training:
            cost = training_cost(design.training, [step.config for step in design.defenses])
            ends[f"train-{record.target.name}"] = ("train", cost, record.target.provenance)
        ends[f"cell-{record.id}"] = (f"cell {record.attack.name}", 1.0, record.provenance)
    commands = Counter(record.provenance.command for record in records)
    asked = re.search(r"--workers[ =](\d+)", commands.most_common(1)[0][0]) if commands else None
    cores = re.search(r"(\d+) cores", records[0].provenance.hardware) if records else None
    workers = int((asked or cores or [0, 1])[1])
    ordered = sorted((datetime.fromisoformat(made.time), job) for job, (_, _, made) in ends.items())
    took: defaultdict[str, list[Took]] = defaultdict(list)
    for (before, _), (end, job) in zip(ordered, ordered[workers:], strict=False):
        group, cost, made = ends[job]
        seconds = (end - before).total_seconds()
        took[group].append(Took(job=job, group=group, cost=cost, seconds=seconds, hardware=made.hardware))
    for times in took.values():
        usual = median(each.seconds / each.cost for each in times)
        yield from (each.model_copy(update={"seconds": usual * each.cost}) for each in times)
