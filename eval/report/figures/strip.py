"""The first picture of a report: victims above, below them what the strongest attack on each target rebuilt of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitleak.eval.record.metrics import is_baseline
from splitleak.eval.record.scoring import load_pictures
from splitleak.eval.report.figures.gallery import Gallery, Strip, by_pixels, figures_beside, has_pictures, png
from splitleak.eval.report.results import Cell, Results

_COLUMNS = 7
_ENDS = {0: "worst", _COLUMNS // 2: "median", _COLUMNS - 1: "best"}
_RULE = (
    "The same {count} of {victims} victims in each row, under the attack on each target that is the strongest by "
    "{by} of those that saw them once ({seed}): in the order of {measure} over all rows, from the worst "
    "rebuilt over the median to the best, in equal steps. They were not picked by looking."
)
_RULE_OF_CLASSES = (
    "The first {count} classes, in their order, under the strongest attack on each target ({seed}); above, the mean "
    "picture of each class, which no attacker has. They were not picked by looking."
)


@dataclass(frozen=True)
class Comparison:
    """Pictures in columns that are the same victims; the first row is the truth. ``rule`` says how they were chosen."""

    title: str
    rule: str
    captions: tuple[str, ...]
    strips: tuple[Strip, ...]

    def gallery(self) -> Gallery:
        """The same as a gallery, for drawing it to a file."""
        return Gallery(self.title, self.strips)

    def pictures(self, strip: Strip) -> list[str]:
        """The pictures of a row, each a data URI."""
        return list(map(png, strip.pictures))


def compare(results: Results) -> Comparison | None:
    """The comparison of the first table whose rows have pictures of the same truth; None if there is none.

    Each attack on classes is a table of its own: the strongest is one of them all.
    """
    if results.together:
        return _of_rows(
            results.title,
            (
                [replace(cell, attack=table) for table in results.together for cell in results.of(table, row)]
                for row in results.targets
            ),
        )
    of_tables = (_of_rows(table.title, (results.of(table.name, row) for row in table.rows)) for table in results.tables)
    return next(filter(None, of_tables), None)


def _of_rows(title: str, rows: Iterable[Sequence[Cell]]) -> Comparison | None:
    cells = [cell for row in rows if (cell := _strongest(row)) is not None]
    if not cells:
        return None
    loaded = [load_pictures(cell.folder) for cell in cells if cell.folder is not None]
    at = [by_pixels(pictures["truth"]) for pictures in loaded]
    shared = [key for key in at[0] if all(key in places for places in at)]
    if not shared:
        return None
    of_classes = cells[0].kind == "classes"
    if of_classes:
        chosen, rule, captions = shared[:_COLUMNS], _RULE_OF_CLASSES, ("",) * _COLUMNS
    else:
        likeness, measure = _likeness(cells, loaded, at, shared)
        order = np.argsort(likeness, kind="stable")
        count = min(_COLUMNS, len(shared))
        chosen = [shared[order[index]] for index in np.linspace(0, len(shared) - 1, count).round().astype(int)]
        captions = tuple(_ENDS.get(index, "") if count == _COLUMNS else "" for index in range(count))
        by = "MSE" if cells[0].measure("ssim") is None else "zero-padded SSIM"  # which small pictures do not have
        rule = _RULE.replace("{measure}", measure).replace("{by}", by)
    truth = loaded[0]["truth"][[at[0][key] for key in chosen]]
    strips = [Strip("class means" if of_classes else "victims", "", "", truth)]
    for cell, pictures, places in zip(cells, loaded, at, strict=True):
        rebuilt = pictures["rebuilt"][[places[key] for key in chosen]]
        strips.append(Strip(cell.row.label, cell.attack or cell.place.attack, figures_beside(cell), rebuilt))
    seed = f"seed {cells[0].seed}"
    said = rule.format(count=len(chosen), victims=len(shared), seed=seed)
    return Comparison(f"{title}, {seed}", said, captions[: len(chosen)], tuple(strips))


def _strongest(cells: Sequence[Cell]) -> Cell | None:
    """Of the first seed with pictures, the cell with the best that were rebuilt, by an attack that saw victims once."""
    measured = [
        cell for cell in cells if has_pictures(cell) and cell.record is not None and not is_baseline(cell.record)
    ]
    measured = [cell for cell in measured if cell.views == 1 and cell.seed == measured[0].seed]
    name = "ssim" if measured and measured[0].kind == "victims" else "recognised"
    return max(measured, key=lambda cell: (cell.measure(name) or 0.0, -(cell.measure("mse") or 0.0)), default=None)


def _likeness(
    cells: Sequence[Cell],
    loaded: Sequence[dict[str, NDArray[Any]]],
    at: Sequence[dict[bytes, int]],
    shared: Sequence[bytes],
) -> tuple[NDArray[np.float64], str]:
    """How like each shared victim its reconstructions are, on average over rows, and by what; higher is liker."""
    scores = [None if cell.record is None else cell.record.scores.get("ssim") for cell in cells]
    values = [None if score is None else score.values for score in scores]
    by_row = []
    if all(row is not None and len(row) == len(places) for row, places in zip(values, at, strict=True)):
        for row, places in zip(values, at, strict=True):
            by_row.append(np.array(row)[[places[key] for key in shared]])
        return np.mean(by_row, axis=0), "their mean SSIM"
    for pictures, places in zip(loaded, at, strict=True):
        errors = np.square((pictures["rebuilt"] / 255.0) - (pictures["truth"] / 255.0)).mean(axis=(1, 2, 3))
        by_row.append(-errors[[places[key] for key in shared]])
    return np.mean(by_row, axis=0), "their mean squared error"
