"""A shard of a campaign: one of several runs that share its jobs, on machines with one folder or each with its own."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from splitleak.eval.campaign.leases import Leases
from splitleak.eval.campaign.plan import Job
from splitleak.eval.campaign.store import Store

Turn = Literal["ours", "done", "failed", "later"]


@dataclass(frozen=True)
class ShardOf:
    """The ``number``-th of ``count`` shards, from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads ``3/16``.

        Raises:
            ValueError: It is something else.
        """
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise ValueError(f"expected a shard such as 3/16, the third of sixteen, got {text!r}")
        return cls(int(number), int(count))

    @property
    def role(self) -> str:
        """Its name among the holders of leases."""
        return f"{self.number}-of-{self.count}"

    def part(self, jobs: Sequence[Job]) -> set[str]:
        """The ids of its jobs, and of all that these need.

        Targets are dealt in turn, each with all that depends on it; those that start from one pre-trained target stay
        together, so that each is made once. What needs the targets of several shards is in no part.

        Args:
            jobs: Of the campaign, in topological order.
        """
        units = _units(jobs)
        if self.count == 1:
            return set(units)
        numbers = {unit: place for place, unit in enumerate(dict.fromkeys(unit for unit in units.values() if unit))}
        mine = {job for job, unit in units.items() if unit and numbers[unit] % self.count == self.number - 1}
        for job in reversed(jobs):
            if job.id in mine:
                mine.update(job.needs)
        return mine & set(units)


def _units(jobs: Sequence[Job]) -> dict[str, str]:
    """Of each job, the target that stands for its unit; empty: it needs none, as others need it, or several."""
    leader: dict[str, str] = {}  # of a target, another of its unit, or itself
    below: dict[str, frozenset[str]] = {}  # of a job, the targets that it needs, by leaders

    def lead(target: str) -> str:
        while leader[target] != target:
            target = leader[target]
        return target

    needed = {need for job in jobs for need in job.needs}
    for job in jobs:
        targets = frozenset(lead(target) for need in job.needs for target in below.get(need, ()))
        if job.kind == "train":
            leader[job.id] = job.id
            leader.update(dict.fromkeys(targets, job.id))
            targets = frozenset([job.id])
        elif not targets and job.id not in needed:
            leader[job.id] = job.id
            targets = frozenset([job.id])
        below[job.id] = targets
    leaders = {name: {lead(target) for target in targets} for name, targets in below.items()}
    return {name: next(iter(found)) if len(found) == 1 else "" for name, found in leaders.items()}


class Shard:
    """Says whose turn each job is, in a run beside others."""

    def __init__(self, of: ShardOf, jobs: Sequence[Job], store: Store, leases: Leases) -> None:
        self._of, self._store, self._leases = of, store, leases
        self._company = False
        self._mine = of.part(jobs)
        self._failed_before = {job.id: failure for job in jobs if (failure := store.failure(job.id)) is not None}

    def in_order(self, jobs: Iterable[Job]) -> list[Job]:
        """``jobs`` with those of its own part first."""
        return sorted(jobs, key=lambda job: job.id not in self._mine)

    def own(self, jobs: Iterable[Job]) -> list[Job]:
        """Those of ``jobs`` that are of its own part."""
        return [job for job in jobs if job.id in self._mine]

    def concerns(self, job: Job) -> bool:
        """Whether a job is of its own part, or may be taken over from another shard that is in the folder too."""
        return job.id in self._mine or self._in_company()

    def turn(self, job: Job) -> Turn:
        """Takes the lease on a job, which makes it ``ours``, unless another has done it, failed in it or is at it.

        A job of another part is for ``later`` until another shard is seen in the folder.
        """
        if not self.concerns(job):
            return "later"
        if (ended := self._ended(job)) is not None:
            return ended
        if not self._leases.take(job.id):
            return "later"
        if (ended := self._ended(job)) is not None:  # meanwhile
            self.ended(job)
            return ended
        return "ours"

    def _ended(self, job: Job) -> Literal["done", "failed"] | None:
        """How a job ended in this run of all shards, if it has."""
        if self._store.is_done(job):
            return "done"
        return "failed" if self._store.failure(job.id) not in (None, self._failed_before.get(job.id)) else None

    def ended(self, job: Job) -> None:
        """Gives the lease on a job back, after its output or its failure is there."""
        self._leases.give_back(job.id)

    def _in_company(self) -> bool:
        others = (role for role in self._leases.roles() if role != self._of.role)
        self._company = self._company or any(role.endswith(f"-of-{self._of.count}") for role in others)
        return self._company
