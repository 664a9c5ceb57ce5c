import time
from random import Random

import pytest

from splitleak.wire.link.relay import Lane, LinkDirection


def arrivals(config, sizes, seed=0):
    """When each of ``sizes`` arrives, in seconds after it entered, all at once."""
    lane, started = Lane(config, Random(seed)), time.monotonic()
    return [lane.take(size) - started for size in sizes]


def test_bytes_wait_for_those_before_them_at_the_rate_and_then_for_the_delay():
    found = arrivals(LinkDirection(rate_mbps=8, delay_ms=1000), [50_000, 50_000])
    assert found == pytest.approx([1.05, 1.1], abs=0.04)


def test_one_seed_gives_one_sequence_of_delays():
    config = LinkDirection(delay_ms=1000, jitter_ms=100_000, stall_probability=0.5, stall_ms=1_000_000)
    first, second, other = (arrivals(config, [1] * 20, seed) for seed in (3, 3, 4))
    assert first == pytest.approx(second, abs=1)
    assert first != pytest.approx(other, abs=1)


def test_packets_are_lost_as_often_as_asked():
    config = LinkDirection(stall_probability=0.1, stall_ms=100_000)
    trains = arrivals(config, [3 * 1460] * 4000)
    assert sum(each > 50 for each in trains) / 4000 == pytest.approx(1 - 0.9**3, abs=0.03)


@pytest.mark.parametrize(("rate", "expected"), [(None, 65536), (50, 12_500), (0.5, 1460), (10_000, 65536)])
def test_a_train_is_two_milliseconds_of_the_rate_and_at_least_a_packet(rate, expected):
    assert LinkDirection(rate_mbps=rate).train_bytes == expected


def test_what_may_be_in_flight_fills_the_link_and_its_buffer():
    config = LinkDirection(rate_mbps=8, delay_ms=300, jitter_ms=100, buffer_kib=10)
    assert config.in_flight_bytes == 400_000 + 10_240
