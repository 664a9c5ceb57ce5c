"""The report of a run: one self-contained HTML file with the table, the flags and every victim beside its copies."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from numpy.typing import NDArray
from PIL import Image

from splitleak.artifacts import written_file
from splitleak.config import read_document
from splitleak.eval.report.flags import flags
from splitleak.eval.report.run_table import COLUMNS, LEGEND, rows


def load_run(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """The cell records below ``folder`` in the order in which they were made, and ``latency.json`` if it is there.

    Raises:
        FileNotFoundError: There is no record.
    """
    found = sorted(folder.rglob("record.json"))
    if not found:
        raise FileNotFoundError(f"expected records (record.json, from `splitleak score`) below {folder}, found none")
    records = [{**read_document(path), "folder": str(path.parent)} for path in found]
    records.sort(key=lambda record: (record["order"], record["folder"]))
    latency = folder / "latency.json"
    return records, read_document(latency) if latency.exists() else None


def write_report(folder: Path, output: Path, *, title: str, pictures: int) -> None:
    """Writes the report of the run in ``folder``, with the first ``pictures`` victims; no other file is needed.

    Raises:
        FileNotFoundError: The run has no record.
        ValueError: Its records did not rebuild the same victims.
    """
    records, latency = load_run(folder)
    loader, escape = PackageLoader("splitleak.eval", "templates"), select_autoescape(default=True)
    environment = Environment(loader=loader, autoescape=escape, undefined=StrictUndefined)
    html = environment.get_template("report.html.jinja").render(
        title=title,
        columns=COLUMNS,
        legend=LEGEND,
        rows=rows(records, latency),
        names=[record["target"]["name"] for record in records],
        gallery=_gallery(records, pictures),
        flags=[(record["target"]["name"], flag) for record in records for flag in flags(record)],
        latency=latency,
        records=[(r["target"]["name"], json.dumps(_without_values(r), indent=2)) for r in records],
    )
    with written_file(output) as partial:
        partial.write_text(html, encoding="utf-8")


def _gallery(records: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """For each victim its picture, and for each record what was rebuilt, with its SSIM."""
    loaded = []
    for record in records:
        loaded.append(load_pictures(Path(record["folder"])))
    shared = sorted(set.intersection(*(set(map(int, cell["places"])) for cell in loaded)))
    if not shared:
        raise ValueError("expected records of one run to rebuild the same victims, but they share none")
    gallery = []
    for place in shared[:count]:
        at = [int(np.flatnonzero(cell["places"] == place)[0]) for cell in loaded]
        gallery.append(
            {
                "truth": png(loaded[0]["truth"][at[0]]),
                "rebuilt": [
                    (png(cell["rebuilt"][index]), record["score"]["ssim"]["values"][index])
                    for cell, record, index in zip(loaded, records, at, strict=True)
                ],
            }
        )
    return gallery


def load_pictures(folder: Path) -> dict[str, NDArray[Any]]:
    """What the judge left to look at: ``truth`` and ``rebuilt`` ``(N, C, H, W)``, and ``places`` or ``classes``."""
    with np.load(folder / "pictures.npz", allow_pickle=False) as file:
        return dict(file)


def png(image: NDArray[np.uint8]) -> str:
    """A ``(C, H, W)`` uint8 picture as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _without_values(document: Any) -> Any:  # noqa: ANN401  # any JSON
    """``document`` without the long lists of one value an image."""
    if isinstance(document, dict):
        return {key: _without_values(value) for key, value in document.items() if key not in ("values", "history")}
    return document
