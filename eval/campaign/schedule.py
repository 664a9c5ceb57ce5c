"""The order of a campaign's jobs: which are ready, by counts of the needs that are still open.

While other work runs and no target is trained, a training goes first: most of a campaign waits for its targets, and one
that is trained last leaves all workers idle but one. A single worker brings each target to its last cell instead. What
times the targets is begun when nothing else is ready or runs, and nothing is begun beside it.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Sequence

from splitleak.eval.campaign.plan import Job

_TRAINING = "train"
_TIMING = "latency"


class Schedule:
    """Jobs that wait for others, and queues of those that are ready, in their order.

    Every job and every need is looked at a bounded number of times, however many jobs there are.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        """Of ``jobs``, by priority; a need that is not among them is met."""
        self._place = {job.id: place for place, job in enumerate(jobs)}
        self._waiting = {job.id: job for job in jobs}
        self._dependants: defaultdict[str, list[Job]] = defaultdict(list)
        self._open: dict[str, int] = {}
        self._ready: list[tuple[int, Job]] = []
        self._trainings: list[tuple[int, Job]] = []
        self._timings: list[tuple[int, Job]] = []
        self._taken: Counter[str] = Counter()  # of each kind, and not ended
        for job in jobs:
            needs = [need for need in dict.fromkeys(job.needs) if need in self._place]
            self._open[job.id] = len(needs)
            for need in needs:
                self._dependants[need].append(job)
            if not needs:
                self._is_ready(job)

    def __bool__(self) -> bool:
        """Whether a job has not been taken yet."""
        return bool(self._waiting)

    def take(self) -> Job | None:
        """The first job that is ready, which waits no longer; None: all that wait need the end of another one first."""
        if self._taken[_TIMING]:
            return None
        queues = [queue for queue in (self._trainings, self._ready) if queue]
        if not queues and self._timings and not self._taken.total():
            queues = [self._timings]
        if not queues:
            return None
        overdue = self._taken.total() and not self._taken[_TRAINING]
        job = heapq.heappop(queues[0] if overdue else min(queues))[1]
        self._taken[job.kind] += 1
        del self._waiting[job.id]
        return job

    def put_back(self, job: Job) -> None:
        """Lets a job that was taken be taken again."""
        self._taken[job.kind] -= 1
        self._waiting[job.id] = job
        self._is_ready(job)

    def ended(self, job: Job) -> None:
        """Counts the need for ``job`` as met."""
        self._taken[job.kind] -= 1
        for dependant in self._dependants[job.id]:
            self._open[dependant.id] -= 1
            if not self._open[dependant.id]:
                self._is_ready(dependant)

    def failed(self, job: Job) -> list[Job]:
        """Drops the jobs that depend on ``job``, transitively, and returns them in their order."""
        self._taken[job.kind] -= 1
        lost: dict[str, Job] = {}
        reached = [job]
        while reached:
            for dependant in self._dependants[reached.pop().id]:
                if dependant.id in self._waiting:
                    lost[dependant.id] = self._waiting.pop(dependant.id)
                    reached.append(dependant)
        return sorted(lost.values(), key=lambda dependant: self._place[dependant.id])

    def _is_ready(self, job: Job) -> None:
        queue = {_TRAINING: self._trainings, _TIMING: self._timings}.get(job.kind, self._ready)
        heapq.heappush(queue, (self._place[job.id], job))
