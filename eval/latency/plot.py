"""Plot of latency against bandwidth, one line per deployment, with break-even points."""

import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from splitleak.artifacts import made_by, written_file
from splitleak.eval.latency.break_even import break_even, comparable, line, way_label
from splitleak.eval.latency.table import engine_text
from splitleak.outputs import check_file

_RATES = np.geomspace(0.1, 1000, 200)
_SUFFIXES = ("png", "svg")
_AUTHOR: Mapping[str, Mapping[str, str | None]] = {
    "png": {"Software": "splitleak"},
    "svg": {"Creator": "splitleak", "Date": None},
}


def draw_latency(document: Mapping[str, Any], path: Path) -> None:
    """Plots a latency sweep to a ``.png`` or ``.svg`` file, one panel per target, batch and engine.

    Lines are the latency model of `break_even`, from measurements over loopback; dots are break-even points of a split
    and an alternative.

    Args:
        document: The result of `measure`.
        path: Of the file.

    Raises:
        ValueError: Another suffix, or nothing was measured over loopback with one request in flight.
    """
    suffix = check_plot(path)
    cells = comparable(document["cells"])
    panels = list(dict.fromkeys((cell["target"], cell["batch"], cell["engine"]) for cell in cells))
    if not any(cell["way"] == "split" for cell in cells):
        raise ValueError("expected a sweep over loopback with one request in flight, got none to plot")
    with mpl.rc_context({"svg.hashsalt": "splitleak", "font.size": 9}):
        figure = Figure(figsize=(5.5 * len(panels), 4.2), layout="constrained")
        for panel, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
            own = [cell for cell in cells if (cell["target"], cell["batch"], cell["engine"]) == panel]
            _panel(own, document["rtt_ms"], axes)
            axes.set(title=f"{own[0]['target']}, batch {own[0]['batch']}, engines {engine_text(own[0])}")
        emulated = document["emulated_device"]
        device = f"; the device is an emulated {emulated['name']}" if emulated else ""
        figure.suptitle(f"From measured medians, with a round trip of {document['rtt_ms']:g} ms{device}", fontsize=9)
        with written_file(path) as partial:
            about = {"Description": json.dumps(made_by())}
            figure.savefig(partial, format=suffix, dpi=110, metadata={**_AUTHOR[suffix], **about})


def check_plot(path: Path, *, force: bool = True) -> str:
    """``png`` or ``svg``, of a file that may be drawn.

    Args:
        path: Of the file.
        force: Whether it may replace a plot that another command, or another file of settings, gave.

    Raises:
        FileExistsError: There is a file that may not be replaced.
        ValueError: The file's name ends in neither.
    """
    suffix = path.suffix[1:]
    if suffix not in _SUFFIXES:
        raise ValueError(f"expected a file ending in .png or .svg, got {path}")
    check_file(path, "a plot of splitleak's", _asked_by, made_by(), force=force)
    return suffix


def _asked_by(path: Path) -> dict[str, Any] | Literal[False]:
    """What the command of a plot was told; nothing, where it does not say so."""
    if path.suffix == ".png":
        with Image.open(path) as image:
            ours, said = image.info.get("Software") == "splitleak", image.info.get("Description")
    else:
        plot = path.read_text(encoding="utf-8")
        ours, found = ">splitleak<" in plot, re.search(r"<dc:description>(.*?)</dc:description>", plot, re.DOTALL)
        said = html.unescape(found[1]) if found else None
    told = json.loads(said) if ours and said else {}
    return told if ours and isinstance(told, dict) else False


def _panel(cells: Sequence[Mapping[str, Any]], rtt_ms: float, axes: Axes) -> None:
    splits = [cell for cell in cells if cell["way"] == "split"]
    others = [cell for cell in cells if cell["way"] != "split"]
    for index, cell in enumerate((*splits, *others)):
        style = "-" if cell["way"] == "split" else "--"
        times = [line(cell, rtt_ms).at(rate) for rate in _RATES]
        axes.plot(_RATES, times, style, color=f"C{index}", linewidth=1.5, label=way_label(cell))
    for split in splits:
        for other in others:
            _, rate = break_even(line(split, rtt_ms), line(other, rtt_ms))
            if rate is not None and _RATES[0] <= rate <= _RATES[-1]:
                place = (rate, line(split, rtt_ms).at(rate))
                axes.scatter(*place, color="0.2", s=24, zorder=3)
                axes.annotate(f"{rate:.3g}", place, xytext=(3, 5), textcoords="offset points", fontsize=7)
    axes.set(xscale="log", yscale="log", xlabel="link, Mbit/s", ylabel="ms a request")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(fontsize=7)
