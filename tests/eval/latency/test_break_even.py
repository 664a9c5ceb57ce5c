"""Where two lines of time over a link's rate meet, and what happens on either side of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitleak.eval.latency.break_even import Line, break_even, break_evens, comparable, line

LINES = st.builds(Line, st.integers(0, 300).map(float), st.integers(0, 10**6).map(float))


def faster(split, other, rate):
    return split.at(rate) < other.at(rate)


@given(LINES, LINES)
def test_the_verdict_agrees_with_the_latencies_on_both_sides_of_the_rate(split, other):
    verdict, rate = break_even(split, other)
    if rate is None:
        assert {faster(split, other, each) for each in (1e-6, 1.0, 1e6)} == {verdict == "always"}
    else:
        assert split.at(rate) == pytest.approx(other.at(rate))
        assert faster(split, other, rate / 2) == (verdict == "below")
        assert faster(split, other, rate * 2) == (verdict == "above")


def cell(way, total_ms, sent, **more):
    base = {"target": "t", "batch": 1, "engine": "auto", "way": way, "codec": "fp32", "link": "loopback", "window": 1}
    return {
        **base,
        "bytes_per_image": sent,
        "parts": {"total_ms": {"p50": total_ms}},
        "median_interval_ms": (total_ms, total_ms),
        **more,
    }


def test_on_device_inference_has_no_round_trip():
    assert line(cell("split", 5.0, 100), 20.0).fixed_ms == 25.0
    device = cell("device", 5.0, 0, codec=None, link=None, window=None)
    assert line(device, 20.0) == Line(5.0, 0)
    assert line(cell("split", 5.0, 100, batch=8), 0.0).sent_bytes == 800


def test_a_split_is_compared_within_its_target_batch_and_engine_over_loopback():
    cells = [
        cell("split", 5.0, 100),
        cell("split", 5.0, 100, link="lte"),
        cell("split", 5.0, 100, window=4),
        cell("image", 4.0, 1000, codec="uint8"),
        cell("image", 4.0, 1000, codec="uint8", batch=8),
        cell("device", 50.0, 0, codec=None, link=None, window=None),
    ]
    assert len(comparable(cells)) == 4
    found = break_evens(cells, 20.0)
    assert [(each["beside"], each["split_is_faster"]) for each in found] == [
        ("image to the cloud, uint8", "below"),
        ("all on the device", "above"),
    ]
    assert found[0]["mbit_s"] == pytest.approx(8 * 900 / 1000)
    assert found[1]["mbit_s"] == pytest.approx(8 * 100 / 1000 / 25)


def test_a_verdict_is_within_noise_if_the_median_intervals_overlap():
    split = cell("split", 5.0, 100, median_interval_ms=(4.8, 5.2))
    near = cell("image", 5.1, 1000, codec="uint8", median_interval_ms=(5.0, 5.3))
    far = cell("image", 6.0, 1000, codec="fp32", median_interval_ms=(5.9, 6.1))
    device = cell("device", 5.0, 0, codec=None, link=None, window=None, median_interval_ms=(4.9, 5.1))
    assert [each["within_noise"] for each in break_evens([split, near, far, device], 20.0)] == [True, False, False]
    assert [each["within_noise"] for each in break_evens([split, near, far, device], 0.0)] == [True, False, True]
