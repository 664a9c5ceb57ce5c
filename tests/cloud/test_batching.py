"""One thread computes whatever waits, without delay, and an error, a late or a lost request costs nobody else."""

import queue
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitleak.cloud.batching import BatchingConfig, ComputeWorker

WAIT_S = 10


class Model:
    """Doubles its input, refuses negative numbers, and computes only while its gate is open."""

    def __init__(self):
        self.batches = []
        self.gate = threading.Event()
        self.entered = threading.Event()

    def predict(self, batch):
        self.entered.set()
        assert self.gate.wait(WAIT_S)
        self.batches.append(batch[:, 0].tolist())
        if (batch < 0).any():
            raise ValueError("negative")
        return 2 * batch


def rows(*values):
    return np.array(values, np.float32)[:, None]


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def worker(model):
    """A worker that is busy with one request until the test opens the gate."""
    with ComputeWorker(model.predict, BatchingConfig(max_batch_size=4, max_queue=4)) as worker:
        worker.submit(rows(100), "busy", WAIT_S)
        assert model.entered.wait(WAIT_S)
        yield worker
        model.gate.set()


def test_a_request_that_comes_alone_is_computed_alone_and_at_once(model):
    model.gate.set()
    with ComputeWorker(model.predict, BatchingConfig()) as worker:
        for value in range(3):
            answer = worker.submit(rows(value), "", WAIT_S).result(WAIT_S)
            np.testing.assert_array_equal(answer.output, rows(2 * value))
    assert model.batches == [[0], [1], [2]]


def test_whatever_waits_is_computed_together_in_order_up_to_the_limit(model, worker):
    waiting = [rows(1), rows(2, 3), rows(4), rows(5, 6, 7)]
    futures = [worker.submit(batch, str(number), WAIT_S) for number, batch in enumerate(waiting)]
    model.gate.set()
    for batch, future in zip(waiting, futures, strict=True):
        np.testing.assert_array_equal(future.result(WAIT_S).output, 2 * batch)
    assert model.batches == [[100], [1, 2, 3, 4], [5, 6, 7]]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=20))
@settings(max_examples=30)
def test_every_request_gets_its_own_rows_however_they_are_batched(sizes):
    with ComputeWorker(lambda batch: batch + 1, BatchingConfig(max_batch_size=4)) as worker:
        batches = [np.random.default_rng(size).normal(size=(size, 2)).astype(np.float32) for size in sizes]
        futures = [worker.submit(batch, "", WAIT_S) for batch in batches]
        for batch, future in zip(batches, futures, strict=True):
            np.testing.assert_array_equal(future.result(WAIT_S).output, batch + 1)


def test_the_model_gets_an_array_of_its_own(model):
    sent = rows(1, 2)
    sent.flags.writeable = False

    def predict(batch):
        batch += 1
        return batch

    with ComputeWorker(predict, BatchingConfig()) as worker:
        np.testing.assert_array_equal(worker.submit(sent, "", WAIT_S).result(WAIT_S).output, rows(2, 3))
    np.testing.assert_array_equal(sent, rows(1, 2))


def test_a_full_queue_refuses_one_more_until_there_is_room(model, worker):
    futures = [worker.submit(rows(1), "", WAIT_S) for _ in range(4)]
    with pytest.raises(queue.Full, match="expected at most 4 waiting requests"):
        worker.submit(rows(1), "", WAIT_S)
    model.gate.set()
    assert [future.result(WAIT_S).output[0, 0] for future in futures] == [2] * 4
    assert worker.submit(rows(3), "", WAIT_S).result(WAIT_S).output[0, 0] == 6


def test_what_is_cancelled_takes_no_room_in_the_queue(model, worker):
    gone = [worker.submit(rows(1), "", WAIT_S) for _ in range(4)]
    assert all(future.cancel() for future in gone[1:])
    futures = [worker.submit(rows(value), "", WAIT_S) for value in (2, 3, 4)]
    with pytest.raises(queue.Full):
        worker.submit(rows(5), "", WAIT_S)
    model.gate.set()
    assert [future.result(WAIT_S).output[0, 0] for future in (gone[0], *futures)] == [2, 4, 6, 8]
    assert model.batches == [[100], [1, 2, 3, 4]]


def test_an_error_reaches_only_the_request_that_made_it(model, worker):
    good, bad, other = (worker.submit(rows(value), str(value), WAIT_S) for value in (1, -1, 2))
    model.gate.set()
    assert good.result(WAIT_S).output[0, 0] == 2
    assert other.result(WAIT_S).output[0, 0] == 4
    with pytest.raises(RuntimeError, match="the model failed: negative") as caught:
        bad.result(WAIT_S)
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_model_that_loses_rows_is_an_error_not_a_mix_up():
    with ComputeWorker(lambda batch: batch[1:], BatchingConfig()) as worker:
        future = worker.submit(rows(1, 2), "", WAIT_S)
    with pytest.raises(RuntimeError, match="expected 2 rows from the model, got 1"):
        future.result(WAIT_S)


def test_an_expired_or_cancelled_request_is_not_computed(model, worker):
    late, gone, good = (worker.submit(rows(value), "", left) for value, left in ((1, 0), (2, WAIT_S), (3, WAIT_S)))
    assert gone.cancel()
    model.gate.set()
    assert good.result(WAIT_S).output[0, 0] == 6
    with pytest.raises(TimeoutError, match=r"expected an answer in time, but the request waited 0\.\d+ s"):
        late.result(WAIT_S)
    assert model.batches == [[100], [3]]


def test_queue_time_is_the_time_waited(model, worker):
    future = worker.submit(rows(1), "", WAIT_S)
    submitted = time.monotonic()
    worker.submit(rows(2), "", WAIT_S)
    waited = time.monotonic() - submitted
    model.gate.set()
    answer = future.result(WAIT_S)
    assert waited * 1e6 - 1 <= answer.queue_us <= WAIT_S * 1e6
    assert 0 <= answer.compute_us <= WAIT_S * 1e6


def test_what_was_accepted_is_computed_before_the_worker_stops(model):
    with ComputeWorker(model.predict, BatchingConfig(max_batch_size=1)) as worker:
        futures = [worker.submit(rows(value), "", WAIT_S) for value in range(5)]
        model.gate.set()
    assert [future.result(0).output[0, 0] for future in futures] == [0, 2, 4, 6, 8]
    with pytest.raises(ConnectionError, match="expected a running server"):
        worker.submit(rows(1), "", WAIT_S)


def test_a_model_that_hangs_does_not_hold_up_the_stop(model, caplog):
    with ComputeWorker(model.predict, BatchingConfig(drain_s=0.05)) as worker:
        worker.submit(rows(1), "", WAIT_S)
        assert model.entered.wait(WAIT_S)
        left = worker.submit(rows(2), "", WAIT_S)
    assert left.cancelled()
    assert "with 1 requests left" in caplog.text
    model.gate.set()


def test_statistics_count_rows_executions_and_requests_that_were_computed(model, worker):
    futures = [worker.submit(batch, "", WAIT_S) for batch in (rows(1), rows(2, 3), rows(-1))]
    assert worker.statistics.waiting() == 3
    model.gate.set()
    answers = [future.result(WAIT_S) for future in futures[:2]]
    assert futures[2].exception(WAIT_S)
    counts = worker.statistics.snapshot()
    assert (counts.rows, counts.executions, counts.computed) == (1 + 1 + 2, 3, 3)  # after the failure each alone
    assert worker.statistics.waiting() == 0
    told_us = np.array([(answer.queue_us, answer.compute_us) for answer in answers]).sum(0)
    computed_ns = counts.input_ns + counts.infer_ns + counts.output_ns
    assert min(np.array([counts.queue_ns, computed_ns]) - 1000 * (told_us - len(answers))) >= 0  # plus the first's


def test_a_batch_counts_its_requests_and_one_execution(model, worker):
    futures = [worker.submit(rows(value), "", WAIT_S) for value in (1, 2, 3)]
    model.gate.set()
    assert len({future.result(WAIT_S).compute_us for future in futures}) == 1
    counts = worker.statistics.snapshot()
    assert (counts.rows, counts.executions, counts.computed) == (4, 2, 4)
    assert counts.batch_rows.total == 4
