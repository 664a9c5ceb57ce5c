"""The pictures of a figure in rows as in the paper: the truth on top, then what each row made of it."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from splitleak.artifacts import written_file
from splitleak.eval.report.features_gallery import fewer_until
from splitleak.eval.report.figures_results import PredictionCell, PredictionFigure, PredictionResults
from splitleak.eval.report.run_report import load_pictures, png

_HEIGHT, _GAP, _FONT = 48, 3, 13  # pixels of a picture, between two, and of the letters
_INK, _PAPER = (27, 31, 36), (255, 255, 255)
_FILE_BYTES = 300_000


@dataclass(frozen=True)
class PictureStrip:
    """Pictures ``(N, C, H, W)`` uint8 side by side, and what they are of."""

    row: str
    attack: str
    figures: str
    pictures: NDArray[np.uint8]

    @cached_property
    def picture(self) -> str:
        """All of them as one data URI."""
        return png(np.concatenate(list(self.pictures), axis=2))


@dataclass(frozen=True)
class FigureGallery:
    """The strips of one figure and seed."""

    figure: str
    title: str
    strips: tuple[PictureStrip, ...]


def figure_galleries(results: PredictionResults, pictures: int, budget: int) -> dict[str, FigureGallery]:
    """By its name the gallery of each figure that has pictures, at most ``pictures`` a strip.

    ``budget`` is how many characters all of them may take together as data URIs.
    """
    return fewer_until(
        lambda count: {figure.name: found for figure in results.figures if (found := _gallery(results, figure, count))},
        lambda made: sum(len(strip.picture) for each in made.values() for strip in each.strips) <= budget,
        pictures,
    )


def draw_gallery(results: PredictionResults, figure: PredictionFigure, pictures: int, out: Path) -> None:
    """Writes the figure's gallery as a PNG of less than 300 kB, with fewer pictures where it takes that; or nothing."""

    def make(count: int) -> bytes:
        gallery = _gallery(results, figure, count)
        return b"" if gallery is None else _drawn(gallery)

    found = fewer_until(make, lambda made: len(made) < _FILE_BYTES, pictures)
    if found:
        with written_file(out) as partial:
            partial.write_bytes(found)


def _gallery(results: PredictionResults, figure: PredictionFigure, pictures: int) -> FigureGallery | None:
    """Of the seed with the most rows, the first of them. One truth on top if all rows share it, else one a target."""
    cells = [cell for row in figure.rows for cell in results.of(figure.name, row) if _has_pictures(cell)]
    if not cells:
        return None
    seed = max(results.seeds, key=lambda seed: sum(cell.seed == seed for cell in cells))
    cells = [cell for cell in cells if cell.seed == seed]
    strips = _strips(cells, pictures)
    if not strips:
        of_target = groupby(cells, key=lambda cell: (cell.kind, cell.planned["dataset"], cell.planned["classes"]))
        strips = [strip for _, group in of_target for strip in _strips(list(group), pictures)]
    return FigureGallery(figure.name, f"{figure.title}, seed {seed}", tuple(strips))


def _has_pictures(cell: PredictionCell) -> bool:
    return cell.record is not None and (cell.folder / "pictures.npz").is_file()


def _strips(cells: Sequence[PredictionCell], pictures: int) -> list[PictureStrip]:
    """The truth that all cells share, by its pixels, and what each rebuilt of it; none if they share nothing."""
    loaded = [load_pictures(cell.folder) for cell in cells]
    places = [{each.tobytes(): index for index, each in enumerate(found["truth"])} for found in loaded]
    shared = set.intersection(*(set(each) for each in places))
    first = loaded[0]
    order = [first["truth"][index].tobytes() for index in np.argsort(_keys(first), kind="stable")]
    shown = [key for key in order if key in shared][:pictures]
    if not shown:
        return []
    classes = cells[0].planned["classes"]
    title = f"{'class means' if cells[0].kind == 'classes' else 'victims'}{f', {classes} classes' if classes else ''}"
    strips = [PictureStrip(title, "", "", first["truth"][[places[0][key] for key in shown]])]
    for cell, found, at in zip(cells, loaded, places, strict=True):
        strips.append(
            PictureStrip(cell.row, cell.planned["attack"], _figures(cell), found["rebuilt"][[at[key] for key in shown]])
        )
    return strips


def _keys(pictures: dict[str, NDArray[Any]]) -> NDArray[Any]:
    return pictures["classes"] if "classes" in pictures else pictures["places"]


def _figures(cell: PredictionCell) -> str:
    named = {"mse": "MSE {:.4f}", "ssim": "SSIM {:.3f}", "recognised": "recognised {:.0f} %"}
    found = ((text, cell.measure(metric)) for metric, text in named.items())
    return ", ".join(text.format(value) for text, value in found if value is not None)


def _drawn(gallery: FigureGallery) -> bytes:
    """The strips below each other, each with its name on the left."""
    font = ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", _FONT)
    side = int(max(font.getlength(strip.row) for strip in gallery.strips)) + 4 * _GAP
    lines = [_enlarged(strip.pictures) for strip in gallery.strips]
    width = side + max(line.width for line in lines) + _GAP
    page = Image.new("RGB", (width, sum(line.height + _GAP for line in lines) + _GAP), _PAPER)
    draw, top = ImageDraw.Draw(page), _GAP
    for strip, line in zip(gallery.strips, lines, strict=True):
        draw.text((2 * _GAP, top + line.height / 2), strip.row, _INK, font, anchor="lm")
        page.paste(line, (side, top))
        top += line.height + _GAP
    buffer = io.BytesIO()
    page.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _enlarged(pictures: NDArray[np.uint8]) -> Image.Image:
    """The pictures beside each other in colour, each pixel a square of whole pixels."""
    coloured = np.broadcast_to(pictures, (len(pictures), 3, *pictures.shape[2:])).transpose(0, 2, 3, 1)
    times = max(1, _HEIGHT // pictures.shape[2])
    size = (pictures.shape[3] * times, pictures.shape[2] * times)
    line = Image.new("RGB", ((size[0] + _GAP) * len(pictures) - _GAP, size[1]), _PAPER)
    for index, each in enumerate(coloured):
        line.paste(
            Image.fromarray(np.ascontiguousarray(each)).resize(size, Image.Resampling.NEAREST),
            (index * (size[0] + _GAP), 0),
        )
    return line
