"""A scan as a table, a verdict, CSV, a plot and one page."""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure

from splitleak.artifacts import write_json, written_folder
from splitleak.eval.report.figures.drawing import data_uri
from splitleak.eval.report.figures.gallery import png
from splitleak.eval.report.page import NOTHING, render, write_csv, write_text
from splitleak.eval.scan.latency import evenly
from splitleak.eval.scan.scan import FEW_VICTIMS, Pictures, judged_row, plain_rows
from splitleak.outputs import FolderKind

SCAN = FolderKind("scan", "scan.json", ("scan.csv", "scan.png", "scan.html"))
COLUMNS = (
    *("cut", "defense", "sent", "KiB", "device MACs", "%", "MSE", "PSNR dB", "SSIM", "leaks", "retrieved SSIM"),
    *("moved %", "brighter %", "device ms", "cloud ms"),
)
LEGEND = (
    "PSNR and SSIM: what a linear map, fitted to public pictures, rebuilds of the victims' (a floor: a trained attack "
    "rebuilds more). Leaks: the largest SSIM of this cut and those after it. Retrieved: the nearest public picture by "
    "the feature. Moved, brighter: victims found again by their feature, a pixel aside or a tenth brighter."
)
_ABOVE_MEAN = 0.1  # of what there is between the mean image and the picture
_STRIP = 9  # rows of pictures on the page
_MILLION, _KIB = 1e6, 1024


def table_rows(document: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """A line of `COLUMNS` for each row."""
    for row in document["rows"]:
        yield (
            row["cut"],
            row["defense"],
            " + ".join("×".join(map(str, shape)) for shape in row["sent"]),
            f"{row['bytes'] / _KIB:,.1f}",
            f"{row['device_macs'] / _MILLION:,.2f} M",
            f"{100 * row['device_share']:.0f}",
            _shown(row["mse"], ".4f"),
            _shown(row["psnr"], ".1f"),
            _shown(row["ssim"], ".3f"),
            _shown(row["leaks"], ".3f"),
            _shown(row["retrieved"]["ssim"], ".3f"),
            *(_shown(row["refound"][kind], ".0f", 100) for kind in ("moved", "brighter")),
            *(_shown(row[half], ".2f") for half in ("edge_ms", "cloud_ms")),
        )


def _shown(figure: float | None, form: str, factor: float = 1) -> str:
    return NOTHING if figure is None else f"{factor * figure:{form}}"


def floors(document: Mapping[str, Any]) -> str:
    """What needs no feature: the mean image, and chance."""
    mean = document["mean_image"]
    figures = f"MSE {mean['mse']:.4f}, PSNR {mean['psnr']:.1f} dB, SSIM {mean['ssim']:.3f}"
    return (
        f"{document['victims']} victims, {document['public']} public pictures. The mean image: {figures}. Found again "
        f"by chance: {100 * document['chance']:.1f} %."
    )


def limit(document: Mapping[str, Any]) -> float:
    """The SSIM from which on pictures count as rebuilt: of smooth pictures even the mean image has a high one."""
    mean = document["mean_image"]["ssim"]
    return float(max(document["config"]["threshold"], mean + _ABOVE_MEAN * (1 - mean)))


def verdict(document: Mapping[str, Any]) -> str:
    """In a sentence, up to where pictures can be rebuilt, and from where on they cannot; of cuts that were measured."""
    rows, threshold = [row for row in plain_rows(document) if not row["unmeasured"]], limit(document)
    if not rows:
        return "No cut could be measured: see the notes."
    above = [place for place, row in enumerate(rows) if row["leaks"] >= threshold]
    rebuilt = (
        f"a linear map rebuilds pictures with an SSIM of {threshold:{'.2f' if threshold < 0.9 else '.3f'}} or more"
    )
    if not above:
        most = max(rows, key=lambda row: row["ssim"])
        return f"At no cut {rebuilt}; the most is {most['ssim']:.2f} at `{most['cut']}`."
    last = rows[above[-1]]
    said = f"Up to `{last['cut']}` ({100 * last['device_share']:.0f} % of the MACs on the device) {rebuilt}"
    if above[-1] + 1 == len(rows):
        return f"{said}: no cut that was scanned is below."
    first = rows[above[-1] + 1]
    found = f"{100 * first['refound']['moved']:.0f} % of pictures moved by a pixel are still found again by the feature"
    share = f"{100 * first['device_share']:.0f} % of the MACs on the device"
    return f"{said}; the first cut below is `{first['cut']}` (SSIM {first['leaks']:.2f}), which puts {share}; {found}."


def judgement(document: Mapping[str, Any], most: float) -> tuple[bool, str]:
    """Whether the cut that is judged leaks more than ``most``, or was not measured, and that in words.

    Raises:
        ValueError: There is nothing to choose it by, see `judged_row`, or too few victims to pass anything.
    """
    if document["victims"] < FEW_VICTIMS:
        raise ValueError(f"expected at least {FEW_VICTIMS} victims to judge a cut by, got {document['victims']}")
    row, mean = judged_row(document), document["mean_image"]["ssim"]
    scanned, there_are = len(plain_rows(document)), document["cuts_there_are"]
    few = document["config"]["cut"] is None and scanned < there_are
    chosen = f"; the choice was of {scanned} of {there_are} cuts" if few else ""
    which = f"`{row['cut']}` ({100 * row['device_share']:.0f} % of the MACs on the device{chosen})"
    if row["unmeasured"]:
        return True, f"FAILED: {which} was not measured: {row['unmeasured']}."
    fails = row["leaks"] > most
    beside = f" The mean image alone has {mean:.3f}." if mean > most else ""
    said = f"{which} leaks SSIM {row['leaks']:.3f}, at most {most:g} allowed.{beside}"
    return fails, f"{'FAILED' if fails else 'Passed'}: {said}"


def write_scan(
    out: Path, document: Mapping[str, Any], pictures: Pictures, *, settings: Mapping[str, Any], force: bool = False
) -> None:
    """Writes the folder ``out``: ``scan.json``, ``scan.csv``, ``scan.png`` and ``scan.html``.

    Raises:
        FileExistsError: There is something else, or, without ``force``, a scan of other ``settings``.
    """
    with written_folder(out, SCAN, settings, force=force) as partial:
        write_json(partial / "scan.json", document)
        write_csv(partial / "scan.csv", [_flat(row) for row in document["rows"]])
        plot = _plot(document)
        (partial / "scan.png").write_bytes(plot)
        encoded = data_uri(plot, "image/png")
        write_text(
            partial / "scan.html",
            render(
                "scan.html.jinja",
                document=document,
                verdict=verdict(document),
                floors=floors(document),
                legend=LEGEND,
                columns=COLUMNS,
                rows=list(table_rows(document)),
                plot=encoded,
                strips=list(_strips(document, pictures)),
            ),
        )


def _flat(row: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{above}{key}_")
        else:
            flat[above + key] = str(value) if isinstance(value, list) else value
    return flat


def _strips(document: Mapping[str, Any], pictures: Pictures) -> Iterator[tuple[str, str]]:
    """Of rows evenly spaced, the name and a strip of the first victims, as rebuilt; the true ones first."""
    rows = [place for place, row in enumerate(document["rows"]) if row["defense"] == "none" and str(place) in pictures]
    yield "the victims", _strip(pictures["truth"])
    for place in evenly(len(rows), _STRIP):
        row = document["rows"][rows[place]]
        yield f"{row['cut']}: SSIM {row['ssim']:.2f}", _strip(pictures[str(rows[place])])


def _strip(images: torch.Tensor) -> str:
    shown = images if images.shape[1] in (1, 3) else images[:, :1]
    return png(np.concatenate(list(shown.numpy()), axis=2))


def _plot(document: Mapping[str, Any]) -> bytes:
    """SSIM and PSNR of every cut against the share of MACs on the device, a line for each defense."""
    names = list(dict.fromkeys(row["defense"] for row in document["rows"]))
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(10, 4), layout="constrained")
        panels: Sequence[Any] = figure.subplots(1, 2)
        for axes, measure, label in zip(panels, ("ssim", "psnr"), ("SSIM", "PSNR, dB"), strict=True):
            for index, name in enumerate(names):
                rows = [row for row in document["rows"] if row["defense"] == name]
                places = [100 * row["device_share"] for row in rows]
                axes.plot(
                    places,
                    [math.nan if row[measure] is None else row[measure] for row in rows],
                    "o-",
                    color=f"C{index}",
                    markersize=3,
                    label=name,
                )
            axes.axhline(document["mean_image"][measure], color="0.5", linestyle=":", label="mean image")
            axes.set(xlabel="% of the MACs on the device", ylabel=f"{label} of what is rebuilt")
            axes.grid(visible=True, alpha=0.3)
        panels[0].axhline(limit(document), color="0.2", linewidth=0.8, linestyle="--")
        panels[0].legend(fontsize=7)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=110, metadata={"Software": "splitleak"})
    return drawn.getvalue()
