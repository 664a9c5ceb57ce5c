"""The plot of a sweep names every way, marks where they break even, and is the same for the same figures."""

import pytest

from splitleak.eval.latency.plot import check_plot, draw_latency


def cell(way, total_ms, sent, **more):
    base = {"target": "toy", "batch": 1, "engine": "auto", "way": way, "codec": "fp32"}
    base |= {"edge_engine": "onnx", "cloud_engine": "onnx"}
    return {
        **base,
        "link": "loopback",
        "window": 1,
        "bytes_per_image": sent,
        "parts": {"total_ms": {"p50": total_ms}},
        **more,
    }


SWEEP = {
    "rtt_ms": 20.0,
    "emulated_device": {"name": "phone"},
    "cells": [
        cell("split", 5.0, 100),
        cell("image", 4.0, 1000, codec="uint8"),
        cell("device", 50.0, 0, codec=None, link=None, window=None),
    ],
}


@pytest.mark.slow
def test_the_same_figures_give_the_same_plot_which_names_the_ways_and_the_emulation(tmp_path):
    for name in ("a.svg", "b.svg", "a.png"):
        draw_latency(SWEEP, tmp_path / name)
    first = (tmp_path / "a.svg").read_text()
    assert first == (tmp_path / "b.svg").read_text()
    for words in (
        "engines onnx → onnx",
        "all on the device",
        "image to the cloud, uint8",
        "an emulated phone",
        "<!-- 7.2 -->",
    ):
        assert words in first
    assert (tmp_path / "a.png").stat().st_size > 5000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.svg", "a.png"])
def test_a_plot_is_drawn_again_and_nothing_else_is_drawn_over(tmp_path, name):
    draw_latency(SWEEP, tmp_path / name)
    draw_latency(SWEEP, tmp_path / name)
    (tmp_path / name).write_bytes(b"a picture of one's own")
    with pytest.raises(FileExistsError, match=rf"expected a plot of splitleak's or none at .*{name}"):
        check_plot(tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"a picture of one's own"


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ending in \.png or \.svg, got"):
        draw_latency(SWEEP, tmp_path / "a.pdf")
    with pytest.raises(ValueError, match="over loopback"):
        draw_latency({**SWEEP, "cells": [cell("split", 5.0, 100, link="lte")]}, tmp_path / "a.svg")
