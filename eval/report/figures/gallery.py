"""Galleries: strips of true images on top, then the reconstructions of each attack."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from splitleak.artifacts import written_file
from splitleak.eval.record.metrics import metrics_of
from splitleak.eval.record.scoring import PICTURES, load_pictures
from splitleak.eval.report.figures.drawing import data_uri
from splitleak.eval.report.results import Cell, Results, TableRows

_HEIGHT, _GAP, _FONT = 48, 3, 13  # pixels of a picture, between two, and of the letters
_INK, _PAPER = (27, 31, 36), (255, 255, 255)
_FILE_BYTES = 300_000
_BESIDE = ("mse", "ssim", "recognised")  # metrics named beside a strip

Shown = TypeVar("Shown")


@dataclass(frozen=True)
class Strip:
    """Pictures ``(N, C, H, W)`` uint8 side by side, with their row, attack and figures."""

    row: str
    attack: str
    figures: str
    pictures: NDArray[np.uint8]

    @cached_property
    def picture(self) -> str:
        """All of them as one data URI."""
        return png(np.concatenate(list(self.pictures), axis=2))


@dataclass(frozen=True)
class Gallery:
    """The strips of one table and seed: the truth first, then every target under every attack."""

    title: str
    strips: tuple[Strip, ...]


def galleries(results: Results, pictures: int, budget: int) -> dict[str, Gallery]:
    """The galleries by table, for tables with pictures.

    Args:
        results: The results.
        pictures: At most, in a strip.
        budget: Characters of all pictures as data URIs; above it, fewer pictures are shown.
    """
    return fewer_until(
        lambda count: {table.name: shown for table in results.tables if (shown := _gallery(results, table, count))},
        lambda shown: sum(len(strip.picture) for gallery in shown.values() for strip in gallery.strips) <= budget,
        pictures,
    )


def draw_gallery(results: Results, table: TableRows, pictures: int, out: Path) -> bool:
    """Writes a gallery as a PNG of less than 300 kB, if need be with fewer pictures; returns whether there is one."""

    def make(count: int) -> bytes:
        gallery = _gallery(results, table, count)
        return b"" if gallery is None else drawn(gallery)

    image = fewer_until(make, lambda image: len(image) < _FILE_BYTES, pictures)
    if image:
        with written_file(out) as partial:
            partial.write_bytes(image)
    return bool(image)


def fewer_until(make: Callable[[int], Shown], fits: Callable[[Shown], bool], pictures: int) -> Shown:
    """``make(pictures)``, with half as many ``pictures`` until the result fits, or there is one."""
    result = make(pictures)
    while pictures > 1 and not fits(result):
        pictures = pictures // 2
        result = make(pictures)
    return result


def png(image: NDArray[np.uint8]) -> str:
    """A ``(C, H, W)`` uint8 picture as a data URI; see `visible`."""
    buffer = io.BytesIO()
    shown = visible(image)
    Image.fromarray(shown[0] if shown.shape[0] == 1 else shown.transpose(1, 2, 0)).save(buffer, "PNG", optimize=True)
    return data_uri(buffer.getvalue(), "image/png")


def visible(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pictures ``(..., C, H, W)`` with one or three channels: of two their mean, of more the first three."""
    channels = pictures.shape[-3]
    if channels == 2:
        mean: NDArray[np.uint8] = np.round(pictures.mean(-3, keepdims=True)).astype(np.uint8)
        return mean
    return pictures[..., :3, :, :]


def visible_channels(channels: int) -> str:
    """What a caption says of pictures with so many channels: nothing where all are shown."""
    if channels in (1, 3):
        return ""
    return f"{'the mean' if channels == 2 else 'the first three'} of {channels} channels"


def _gallery(results: Results, table: TableRows, pictures: int) -> Gallery | None:
    """The gallery of the seed with the most rows; true images once if all rows share them, else for each target.

    None if no cell has pictures, or the rows of a target share none.
    """
    cells = [cell for row in table.rows for cell in results.of(table.name, row) if has_pictures(cell)]
    if not cells:
        return None
    seed = max(results.seeds, key=lambda seed: sum(cell.seed == seed for cell in cells))
    cells = [cell for cell in cells if cell.seed == seed]
    strips = list(_strips(cells, pictures))
    if not strips:
        of_target = groupby(cells, key=lambda cell: (cell.kind, cell.place.dataset, _classes(cell)))
        strips = [strip for _, group in of_target for strip in _strips(list(group), pictures)]
    if not strips:
        return None
    title = filter(None, (table.title, f"seed {seed}", visible_channels(strips[0].pictures.shape[1])))
    return Gallery(", ".join(title), tuple(strips))


def has_pictures(cell: Cell) -> bool:
    """Whether the judge's pictures of a cell are there; those of recorded results are not."""
    return cell.folder is not None and (cell.folder / PICTURES).is_file()


def by_pixels(truth: NDArray[np.uint8]) -> dict[bytes, int]:
    """Where each true picture ``(N, C, H, W)`` is, by its pixels: cells may have the same ones in another order."""
    return {picture.tobytes(): index for index, picture in enumerate(truth)}


def _classes(cell: Cell) -> int | None:
    return getattr(cell.place, "classes", None)


def _strips(cells: Sequence[Cell], pictures: int) -> Iterator[Strip]:
    """The true images that all cells share, compared by pixels, and each cell's reconstructions of them."""
    loaded = [load_pictures(cell.folder) for cell in cells if cell.folder is not None]
    indices = [by_pixels(arrays["truth"]) for arrays in loaded]
    shared = set.intersection(*(set(picture) for picture in indices))
    first = loaded[0]
    order = [first["truth"][index].tobytes() for index in np.argsort(_keys(first), kind="stable")]
    shown = [key for key in order if key in shared][:pictures]
    if not shown:
        return
    classes = _classes(cells[0])
    title = f"{'class means' if cells[0].kind == 'classes' else 'victims'}{f', {classes} classes' if classes else ''}"
    yield Strip(title, "", "", first["truth"][[indices[0][key] for key in shown]])
    for cell, arrays, at in zip(cells, loaded, indices, strict=True):
        rebuilt = arrays["rebuilt"][[at[key] for key in shown]]
        yield Strip(cell.row.label, cell.attack or cell.place.attack, figures_beside(cell), rebuilt)


def _keys(pictures: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    return pictures["classes"] if "classes" in pictures else pictures["places"]


def figures_beside(cell: Cell) -> str:
    """The figures of a cell that are named beside its pictures."""
    named = ((metric, cell.measure(metric.name)) for metric in metrics_of(cell.kind) if metric.name in _BESIDE)
    return ", ".join(f"{metric.label} {metric.text(value)}" for metric, value in named if value is not None)


def drawn(gallery: Gallery, height: int = _HEIGHT) -> bytes:
    """The strips below each other, with their names on the left, as PNG."""
    font = ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", _FONT)
    several = len({strip.attack for strip in gallery.strips if strip.attack}) > 1
    names = [", ".join(filter(None, (strip.row, strip.attack * several))) for strip in gallery.strips]
    side = int(max(map(font.getlength, names))) + 4 * _GAP
    lines = [_enlarged(strip.pictures, height) for strip in gallery.strips]
    width = side + max(line.width for line in lines) + _GAP
    page = Image.new("RGB", (width, sum(line.height + _GAP for line in lines) + _GAP), _PAPER)
    draw, top = ImageDraw.Draw(page), _GAP
    for name, line in zip(names, lines, strict=True):
        draw.text((2 * _GAP, top + line.height / 2), name, _INK, font, anchor="lm")
        page.paste(line, (side, top))
        top += line.height + _GAP
    buffer = io.BytesIO()
    page.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _enlarged(pictures: NDArray[np.uint8], height: int) -> Image.Image:
    """The pictures side by side in RGB, enlarged by an integer factor."""
    coloured = np.broadcast_to(visible(pictures), (len(pictures), 3, *pictures.shape[2:])).transpose(0, 2, 3, 1)
    times = max(1, height // pictures.shape[2])
    size = (pictures.shape[3] * times, pictures.shape[2] * times)
    line = Image.new("RGB", ((size[0] + _GAP) * len(pictures) - _GAP, size[1]), _PAPER)
    for index, picture in enumerate(coloured):
        line.paste(
            Image.fromarray(np.ascontiguousarray(picture)).resize(size, Image.Resampling.NEAREST),
            (index * (size[0] + _GAP), 0),
        )
    return line
