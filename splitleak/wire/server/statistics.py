"""Request and execution statistics of a served model, for Triton's statistics and Prometheus alike."""

import bisect
import copy
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
OK = "OK"
_MAX_PENDING = 64  # updates until they are applied, about


@dataclass
class Histogram:
    """Counts of values by bucket; ``bounds`` are the ascending upper bounds, and a last bucket has none."""

    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass
class Counts:
    """Totals since the start; durations in nanoseconds, sizes in bytes of tensors without the rest of the message.

    A request's duration runs from its arrival until its response is ready, which includes waiting for its turn in the
    stream. As in Triton, ``input_ns``, ``infer_ns`` and ``output_ns`` count an execution once for each of its requests.
    """

    requests: Counter[tuple[str, str]] = field(default_factory=Counter)  # by method and status name
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
    last_ms: int = 0  # wall clock, milliseconds since 1970
    batch_rows: Histogram = field(default_factory=lambda: Histogram(_ROWS))  # by execution
    queue_s: Histogram = field(default_factory=lambda: Histogram(_SECONDS))  # by request
    compute_s: Histogram = field(default_factory=lambda: Histogram(_SECONDS))  # by execution

    @property
    def succeeded(self) -> int:
        return sum(count for (_, status), count in self.requests.items() if status == OK)

    @property
    def failed(self) -> int:
        return self.requests.total() - self.succeeded


class Statistics:
    """Thread-safe statistics. A call only appends an update, without a lock; updates are applied in batches.

    Applied one by one between two computations, with cold caches, they would cost ten times as much.

    Args:
        waiting: Returns the length of the queue; None where there is none.
    """

    def __init__(self, waiting: Callable[[], int] | None = None) -> None:
        self.waiting = waiting
        self._lock = threading.Lock()
        self._counts = Counts()
        self._pending: deque[Callable[[Counts], None]] = deque()

    def received(self, size: int) -> None:
        self._defer(partial(_received, size))

    def sent(self, size: int) -> None:
        self._defer(partial(_sent, size))

    def ended(self, method: str, status: str, duration_ns: int) -> None:
        """One request ended with the gRPC status of that name, after ``duration_ns`` nanoseconds."""
        self._defer(partial(_ended, method, status, duration_ns))

    def computed(
        self, rows: int, queue_ns: Sequence[int], infer_ns: int, *, input_ns: int = 0, output_ns: int = 0
    ) -> None:
        """Records a successful execution.

        Args:
            rows: Rows in the batch.
            queue_ns: Of each request in it, its nanoseconds in the queue.
            infer_ns: Nanoseconds in the model.
            input_ns: Nanoseconds to assemble the batch.
            output_ns: Nanoseconds to split the output.
        """
        self._defer(partial(_computed, time.time_ns(), rows, queue_ns, input_ns, infer_ns, output_ns))

    def snapshot(self) -> Counts:
        """A consistent copy of all counts."""
        with self._lock:
            self._apply_pending()
            return copy.deepcopy(self._counts)

    def _defer(self, update: Callable[[Counts], None]) -> None:
        self._pending.append(update)
        if len(self._pending) >= _MAX_PENDING:
            with self._lock:
                self._apply_pending()

    def _apply_pending(self) -> None:
        """Applies the pending updates; called with the lock held."""
        for _ in range(len(self._pending)):
            self._pending.popleft()(self._counts)


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
    for waited_ns in queue_ns:
        counts.queue_s.add(waited_ns / 1e9)
