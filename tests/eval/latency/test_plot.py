"""The plot of a sweep names every way, marks where they break even, and is the same for the same figures."""

import pytest
from matplotlib.figure import Figure

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


@pytest.mark.parametrize("name", ["a.svg", "a.png"])
def test_a_plot_of_another_command_or_of_other_settings_is_drawn_over_with_force_alone(tmp_path, monkeypatch, name):
    place, settings = tmp_path / name, tmp_path / "b & <c>.toml"
    settings.write_text("samples = 10")
    asked = ["splitleak", "latency", "mine", "--config", str(settings), "--plot", str(place)]
    monkeypatch.setattr("sys.argv", asked)
    draw_latency(SWEEP, place)
    check_plot(place)
    check_plot(place, force=False)
    monkeypatch.setattr("sys.argv", [*asked, "--force"])
    check_plot(place, force=False)
    for change in ([*asked, "--samples", "20"], [*asked[:2], "other", *asked[3:]]):
        monkeypatch.setattr("sys.argv", change)
        with pytest.raises(FileExistsError, match=r"a plot of splitleak's with these settings.*--force replaces it"):
            check_plot(place, force=False)
        check_plot(place, force=True)
    monkeypatch.setattr("sys.argv", asked)
    settings.write_text("samples = 11")
    with pytest.raises(FileExistsError, match="--force replaces it"):
        check_plot(place, force=False)


def test_an_older_plot_that_does_not_say_what_made_it_is_drawn_over_with_force_alone(tmp_path):
    Figure().savefig(tmp_path / "a.png", metadata={"Software": "splitleak"})
    Figure().savefig(tmp_path / "a.svg", metadata={"Creator": "splitleak", "Date": None})
    for name in ("a.png", "a.svg"):
        with pytest.raises(FileExistsError, match="--force replaces it"):
            check_plot(tmp_path / name, force=False)
        check_plot(tmp_path / name, force=True)


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ending in \.png or \.svg, got"):
        draw_latency(SWEEP, tmp_path / "a.pdf")
    with pytest.raises(ValueError, match="over loopback"):
        draw_latency({**SWEEP, "cells": [cell("split", 5.0, 100, link="lte")]}, tmp_path / "a.svg")
