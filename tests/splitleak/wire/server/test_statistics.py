"""Counts are Triton's sums, whoever adds to them at once, and a snapshot does not move."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from splitleak.wire.server.statistics import Histogram, Statistics


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 4.0, 5.0, 100.0])))
@settings(max_examples=50)
def test_a_bound_is_in_the_bucket_below_it_as_in_prometheus(values):
    ours = Histogram((1.0, 2.0, 4.0))
    for value in values:
        ours.add(value)
    at_most = [sum(value <= bound for value in values) for bound in (*ours.bounds, float("inf"))]
    assert np.cumsum(ours.counts).tolist() == at_most
    assert ours.total == sum(values)


def test_an_execution_counts_its_duration_once_for_each_of_its_requests():
    statistics = Statistics()
    statistics.computed(7, [10, 20, 30], 1000, input_ns=5, output_ns=3)
    statistics.computed(1, [40], 500)
    counts = statistics.snapshot()
    assert (counts.rows, counts.executions, counts.computed) == (8, 2, 4)
    assert (counts.queue_ns, counts.input_ns, counts.infer_ns, counts.output_ns) == (100, 15, 3500, 9)
    assert (sum(counts.batch_rows.counts), sum(counts.queue_s.counts), sum(counts.compute_s.counts)) == (2, 4, 2)


def test_only_what_is_ok_succeeded():
    statistics = Statistics()
    for status, duration in (("OK", 5), ("NOT_FOUND", 7), ("OK", 1), ("CANCELLED", 100)):
        statistics.ended("ModelInfer", status, duration)
    counts = statistics.snapshot()
    assert (counts.succeeded, counts.success_ns, counts.failed, counts.fail_ns) == (2, 6, 2, 107)


def test_nothing_is_lost_when_many_threads_count():
    statistics = Statistics()

    def count(_):
        for _ in range(500):
            statistics.received(3)
            statistics.ended("ModelInfer", "OK", 2)
            statistics.computed(1, [1], 1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(8)))
    counts = statistics.snapshot()
    assert (counts.bytes_in, counts.succeeded, counts.success_ns, counts.rows) == (12000, 4000, 8000, 4000)


def test_a_snapshot_does_not_move():
    statistics = Statistics()
    before = statistics.snapshot()
    statistics.ended("ModelInfer", "OK", 2)
    statistics.computed(1, [1], 1)
    assert (before.succeeded, before.rows, sum(before.queue_s.counts)) == (0, 0, 0)


def test_a_snapshot_has_all_that_was_counted_before_it_however_little_or_much():
    statistics = Statistics()
    for number in range(1, 200):
        statistics.received(1)
        statistics.sent(2)
        counts = statistics.snapshot()
        assert (counts.bytes_in, counts.bytes_out) == (number, 2 * number)


def test_what_is_counted_does_not_pile_up_while_nobody_asks():
    statistics = Statistics()
    tracemalloc.start()
    try:
        for _ in range(20_000):
            statistics.received(1)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 100_000
