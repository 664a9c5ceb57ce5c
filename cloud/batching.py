"""Dynamic batching on a single compute thread: it batches the waiting requests, and never waits for more."""

import itertools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from splitleak.config import Config, Seconds
from splitleak.errors import WireError
from splitleak.wire.protocol.answer import Answer
from splitleak.wire.server.statistics import Statistics

_LOGGER = logging.getLogger(__name__)


class BatchingConfig(Config):
    """Limits of queue and batch."""

    max_batch_size: int = Field(default=64, ge=1, description="most rows in a batch, and in a request")
    max_queue: int = Field(default=128, ge=1, description="most waiting requests; one more is refused")
    drain_s: Seconds = Field(default=10.0, ge=0, description="seconds for the waiting requests at shutdown")


@dataclass(frozen=True)
class _Job:
    batch: NDArray[np.float32]
    request_id: str
    submitted_ns: int  # on the monotonic clock
    deadline: float  # seconds on the same clock
    future: Future[Answer] = field(default_factory=Future)


class ComputeWorker:
    """Computes requests on a thread of its own while the ``with`` block runs, and drains its queue on exit.

    As Triton's dynamic batcher without a delay: a request that finds the worker idle is computed at once; requests that
    arrive meanwhile are batched in order, as many as fit. Cancelled and expired requests are dropped before they are
    computed. A batch that fails is computed again one request at a time, so that only the request at fault fails.

    Args:
        predict: ``(N, *feature)`` float32 to ``(N, *output)``; called on this thread only, with a copy.
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

    def __exit__(self, *_: object) -> None:
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
        """Queues a request; its future fails with TimeoutError, WireError (refused values) or RuntimeError.

        Args:
            batch: ``(N, *feature)`` float32; N above ``max_batch_size`` makes a batch of its own.
            request_id: The request's id.
            timeout_s: Seconds until it is dropped if its computation has not begun.

        Raises:
            queue.Full: ``max_queue`` requests wait already.
            ConnectionError: The worker has been stopped.
        """
        now_ns = time.monotonic_ns()
        job = _Job(batch, request_id, now_ns, now_ns / 1e9 + timeout_s)
        with self._changed:
            if self._closed:
                raise ConnectionError("expected a running server, got one that is stopping")
            if len(self._waiting) >= self.config.max_queue:  # forgets what nobody waits for any more
                live = [job for job in self._waiting if not job.future.done()]
                self._waiting.clear()
                self._waiting.extend(live)
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
        """Waits for requests and takes as many as fit into a batch; none once the worker is stopped and drained."""
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
    """A WireError is the client's fault, any other error the server's."""
    if isinstance(error, WireError):
        return error
    failure = RuntimeError(f"the model failed: {error}")
    failure.__cause__ = error
    return failure


def _claim(job: _Job) -> bool:
    """Whether to compute the job: not if it was cancelled or has expired."""
    if not job.future.set_running_or_notify_cancel():
        return False
    now = time.monotonic()
    if job.deadline <= now:
        waited = now - job.submitted_ns / 1e9
        job.future.set_exception(TimeoutError(f"expected an answer in time, but the request waited {waited:.3f} s"))
        return False
    return True
