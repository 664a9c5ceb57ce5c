"""What a served model has done since the start: one set of counts, told in Triton's words and in Prometheus's."""

import bisect
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
OK = "OK"
_NOTES = 64  # that wait to be added up, about


@dataclass
class Histogram:
    """How many values were at most each of ``bounds``, which ascend, and above the one before; the last has no end."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value

    def copy(self) -> "Histogram":
        return Histogram(self.bounds, self.counts.copy(), self.total)


@dataclass
class Counts:
    """Sums since the start; durations in nanoseconds, sizes in bytes of tensors without their messages' heads.

    A request's duration runs from its arrival to its answer's being ready, its place in a stream's order included. As
    in Triton, ``input_ns``, ``infer_ns`` and ``output_ns`` have an execution's duration once for each of its requests.
    """

    requests: Counter[tuple[str, str]] = field(default_factory=Counter)  # by method and name of the status
    success_ns: int = 0
    fail_ns: int = 0
    rows: int = 0
    executions: int = 0
    computed: int = 0  # requests
    queue_ns: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    last_ms: int = 0  # since 1970
    batch_rows: Histogram = field(default_factory=lambda: Histogram(_ROWS))  # an execution
    queue_s: Histogram = field(default_factory=lambda: Histogram(_SECONDS))  # a request
    compute_s: Histogram = field(default_factory=lambda: Histogram(_SECONDS))  # an execution

    @property
    def succeeded(self) -> int:
        return sum(count for (_, status), count in self.requests.items() if status == OK)

    @property
    def failed(self) -> int:
        return self.requests.total() - self.succeeded


class Statistics:
    """Counts from any thread. A call leaves a note and takes no lock: the notes are added up when there are many.

    Between two computations, with the processor's caches full of other things, adding up would cost ten times as much.

    Args:
        waiting: How many requests wait to be computed; None where there is no queue.
    """

    def __init__(self, waiting: Callable[[], int] | None = None) -> None:
        self.waiting = waiting
        self._lock = threading.Lock()
        self._counts = Counts()
        self._notes: deque[Callable[[Counts], None]] = deque()

    def received(self, size: int) -> None:
        self._note(partial(_received, size))

    def sent(self, size: int) -> None:
        self._note(partial(_sent, size))

    def ended(self, method: str, status: str, duration_ns: int) -> None:
        """One request has its answer, or the name of the gRPC status with which it failed."""
        self._note(partial(_ended, method, status, duration_ns))

    def computed(
        self, rows: int, queue_ns: Sequence[int], infer_ns: int, *, input_ns: int = 0, output_ns: int = 0
    ) -> None:
        """One successful execution of ``rows`` rows in ``len(queue_ns)`` requests, each with its time in the queue."""
        self._note(partial(_computed, time.time_ns(), rows, queue_ns, input_ns, infer_ns, output_ns))

    def snapshot(self) -> Counts:
        """All counts at one moment, as a copy."""
        with self._lock:
            self._add_up()
            counts = self._counts
            return replace(
                counts,
                requests=counts.requests.copy(),
                batch_rows=counts.batch_rows.copy(),
                queue_s=counts.queue_s.copy(),
                compute_s=counts.compute_s.copy(),
            )

    def _note(self, note: Callable[[Counts], None]) -> None:
        self._notes.append(note)
        if len(self._notes) >= _NOTES:
            with self._lock:
                self._add_up()

    def _add_up(self) -> None:
        """Called with the lock held; what is noted meanwhile may stay for the next time."""
        for _ in range(len(self._notes)):
            self._notes.popleft()(self._counts)


def _received(size: int, counts: Counts) -> None:
    counts.bytes_in += size


def _sent(size: int, counts: Counts) -> None:
    counts.bytes_out += size


def _ended(method: str, status: str, duration_ns: int, counts: Counts) -> None:
    counts.requests[method, status] += 1
    if status == OK:
        counts.success_ns += duration_ns
    else:
        counts.fail_ns += duration_ns


def _computed(
    now_ns: int, rows: int, queue_ns: Sequence[int], input_ns: int, infer_ns: int, output_ns: int, counts: Counts
) -> None:
    requests = len(queue_ns)
    counts.rows += rows
    counts.executions += 1
    counts.computed += requests
    counts.queue_ns += sum(queue_ns)
    counts.input_ns += input_ns * requests
    counts.infer_ns += infer_ns * requests
    counts.output_ns += output_ns * requests
    counts.last_ms = now_ns // 1_000_000
    counts.batch_rows.add(rows)
    counts.compute_s.add(infer_ns / 1e9)
    for each in queue_ns:
        counts.queue_s.add(each / 1e9)
