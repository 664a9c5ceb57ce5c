"""The one thread that computes: it batches whatever waits, and never waits for more."""

import itertools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from splitleak.config import Config
from splitleak.errors import WireError
from splitleak.wire.protocol.answer import Answer
from splitleak.wire.server.statistics import Statistics

_LOGGER = logging.getLogger(__name__)


class BatchingConfig(Config):
    """How much waits, and how much is computed together."""

    max_batch_size: int = Field(default=64, ge=1, description="rows computed together, and rows of one request")
    max_queue: int = Field(default=128, ge=1, description="requests that may wait; one more is refused")
    drain_s: float = Field(default=10.0, ge=0, description="seconds to compute what still waits at the end")


@dataclass(frozen=True)
class _Job:
    batch: NDArray[np.float32]
    request_id: str
    submitted_ns: int  # on the monotonic clock
    deadline: float  # seconds on the same clock
    future: Future[Answer] = field(default_factory=Future)


class ComputeWorker:
    """Computes requests on one thread of its own while the ``with`` block runs; at the end it drains what it accepted.

    Triton's rule of dynamic batching: a request that comes alone is computed at once; those that come meanwhile wait
    and are computed together, in order, as many as fit. Cancelled and expired requests are dropped before they cost
    anything. A batch that fails is computed again one request at a time, so that an error reaches only the request
    that made it.

    Args:
        predict: ``(N, *feature)`` float32 to ``(N, *output)``; called on this thread only, with an array of its own.
        config: The limits.
    """

    def __init__(self, predict: Callable[[NDArray[np.float32]], NDArray[np.float32]], config: BatchingConfig) -> None:
        self.config = config
        self._predict = predict
        self._waiting: deque[_Job] = deque()
        self.statistics = Statistics(waiting=lambda: len(self._waiting))
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(self.config.drain_s)
        with self._changed:
            left = list(self._waiting)
            self._waiting.clear()
        for job in left:
            job.future.cancel()
        if left or self._thread.is_alive():
            _LOGGER.warning("stopped after %g s of draining, with %d requests left", self.config.drain_s, len(left))

    def submit(self, batch: NDArray[np.float32], request_id: str, timeout_s: float) -> Future[Answer]:
        """Queues ``(N, *feature)``; N above ``max_batch_size`` makes a batch of its own.

        The future fails with TimeoutError when ``timeout_s`` passed before its turn came, with WireError when the model
        refused these values, and with RuntimeError when it failed.

        Raises:
            queue.Full: ``max_queue`` requests wait already.
            ConnectionError: The worker has been stopped.
        """
        now_ns = time.monotonic_ns()
        job = _Job(batch, request_id, now_ns, now_ns / 1e9 + timeout_s)
        with self._changed:
            if self._closed:
                raise ConnectionError("expected a running server, got one that is stopping")
            if len(self._waiting) >= self.config.max_queue:
                raise queue.Full(f"expected at most {self.config.max_queue} waiting requests, got one more")
            self._waiting.append(job)
            self._changed.notify()
        return job.future

    def _run(self) -> None:
        while jobs := self._take():
            live = [job for job in jobs if _claim(job)]
            if live:
                self._compute(live)

    def _take(self) -> list[_Job]:
        """Whatever waits, as much as fits into one batch; nothing only when the worker is stopped and drained."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            jobs: list[_Job] = []
            rows = 0
            while self._waiting and (not jobs or rows + len(self._waiting[0].batch) <= self.config.max_batch_size):
                jobs.append(self._waiting.popleft())
                rows += len(jobs[-1].batch)
            return jobs

    def _compute(self, jobs: list[_Job]) -> None:
        started = time.monotonic_ns()
        try:
            batch = np.concatenate([job.batch for job in jobs]) if len(jobs) > 1 else jobs[0].batch.copy()
            joined = time.monotonic_ns()
            outputs = self._predict(batch)
            predicted = time.monotonic_ns()
            rows = [len(job.batch) for job in jobs]
            if len(outputs) != sum(rows):
                raise ValueError(f"expected {sum(rows)} rows from the model, got {len(outputs)}")
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(_failure(error))
                return
            for job in jobs:
                self._compute([job])
            return
        ends = itertools.accumulate(rows)
        parts = [outputs[end - count : end] for end, count in zip(ends, rows, strict=True)]
        ended = time.monotonic_ns()
        waited = [started - job.submitted_ns for job in jobs]
        self.statistics.computed(
            sum(rows), waited, predicted - joined, input_ns=joined - started, output_ns=ended - predicted
        )
        compute_us = round((ended - started) / 1000)
        for job, output, waited_ns in zip(jobs, parts, waited, strict=True):
            job.future.set_result(Answer(output, round(waited_ns / 1000), compute_us))


def _failure(error: Exception) -> Exception:
    """A WireError is about what was sent, and the client's; all else is the server's."""
    if isinstance(error, WireError):
        return error
    failure = RuntimeError(f"the model failed: {error}")
    failure.__cause__ = error
    return failure


def _claim(job: _Job) -> bool:
    """Takes a job on, unless its client is gone or its time is over."""
    if not job.future.set_running_or_notify_cancel():
        return False
    now = time.monotonic()
    if job.deadline <= now:
        waited = now - job.submitted_ns / 1e9
        job.future.set_exception(TimeoutError(f"expected an answer in time, but the request waited {waited:.3f} s"))
        return False
    return True
