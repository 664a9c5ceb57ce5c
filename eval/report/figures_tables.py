"""The tables of a campaign of predictions: one a figure and kind, rows as in its file."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from splitleak.eval.report.figures_results import (
    METRICS,
    OF_REFERENCE,
    Kind,
    PredictionFigure,
    PredictionResults,
)
from splitleak.eval.report.page import Sheet, Text, decimals, seeds_note, spread_text

_LABELS = ("dataset", "classes", "auxiliary", "share", "policy", "purify", "attack", "target")
_IGNORES = "†"


@dataclass(frozen=True)
class _Column:
    heading: str
    name: str
    metric: str
    digits: int
    needed: bool = True
    """Whether it stands in the table though nothing of it is measured."""


_BEHIND = "behind its policy"
_TARGET = (
    _Column("classifier", "accuracy %", "accuracy", 1),
    _Column(_BEHIND, "accuracy %", "service_accuracy", 1, needed=False),
    _Column(_BEHIND, "distortion", "distortion", 3, needed=False),
)
_COLUMNS: dict[Kind, tuple[_Column, ...]] = {
    "victims": (
        *_TARGET,
        _Column("rebuilt victims", "MSE", "mse", 4),
        _Column("rebuilt victims", "constant", "constant_mse", 4, needed=False),
        _Column("rebuilt victims", "SSIM", "ssim", 3),
        _Column("rebuilt victims", "PSNR dB", "psnr", 2),
        _Column("right class by the evaluator %", "rebuilt", "reclassified", 1),
        _Column("right class by the evaluator %", "victims", "evaluator_on_truth", 1, needed=False),
        _Column("right class by the evaluator %", "test images", "evaluator_accuracy", 1, needed=False),
        _Column("attacker's own held-out images", "MSE", "held_out_mse", 4, needed=False),
        _Column("attacker's own held-out images", "mean image", "mean_image_mse", 4, needed=False),
    ),
    "classes": (
        *_TARGET,
        _Column("pictures of classes", "recognised %", "recognised", 1),
        _Column("pictures of classes", "standard error", "recognised_error", 1, needed=False),
        _Column("pictures of classes", "top-5 %", "top5", 1, needed=False),
        _Column("pictures of classes", "re-identified %", "rank1", 1, needed=False),
        _Column("pictures of classes", "nearest mean %", "nearest_mean", 1),
        _Column("pictures of classes", "chance %", "chance", 1),
        _Column("pictures of classes", "MSE to the mean", "mse", 4),
        _Column("pictures of classes", "constant", "constant_mse", 4, needed=False),
        _Column("pictures of classes", "target's confidence", "target_confidence", 3),
        _Column("evaluator's features", "δ", "delta_eval", 2, needed=False),
        _Column("evaluator's features", "Fréchet", "frechet_eval", 1, needed=False),
        _Column("evaluator's features", "coverage", "coverage", 2, needed=False),
        _Column("evaluator %", "class means", "evaluator_on_truth", 1, needed=False),
        _Column("evaluator %", "test images", "evaluator_accuracy", 1, needed=False),
    ),
}
_NOTES: dict[Kind, str] = {
    "victims": (
        "SSIM zero padded, PSNR of the batch's MSE. Constant: the MSE of the victims' own mean given to all, which no "
        "attacker has. Held-out images: what the attack says of itself, on auxiliary images that it did not train on, "
        "beside the mean of those it did."
    ),
    "classes": (
        "Recognised: the evaluator puts the picture in its class. Re-identified: in a gallery of all private images, "
        "and of others' if there are any, the likest by the evaluator's features is of its class (rank 1, closed set). "
        "Nearest mean: of all standardised mean images of the private classes, that of its class is the closest. "
        "Constant: the MSE of one and the same picture for all, the mean of the class means. Standard error over the "
        "pictures of one target. δ: the distance (L2) to the nearest private image of the class; Fréchet: of all "
        "pictures, recognised or not, to all private images; "
        "coverage: the share of private images that have a picture near by."
    ),
}
_DISTORTION = "Distortion: mean L1 distance of what the policy lets out from what the model says, from 0 to 2."
_WHITE_BOX = f"{_IGNORES} The attack runs the model itself, whatever the output policy: its figures are those without."


def sheets(results: PredictionResults, figure: PredictionFigure) -> list[Sheet]:
    """The tables of a figure: of victims rebuilt, and of one picture a class, where it has rows of the kind."""
    kinds: dict[Kind, list[str]] = {}
    for row in figure.rows:
        for cell in results.of(figure.name, row)[:1]:
            kinds.setdefault(cell.kind, []).append(row)
    return [_sheet(results, figure, kind, rows) for kind, rows in kinds.items()]


def _sheet(results: PredictionResults, figure: PredictionFigure, kind: Kind, rows: Sequence[str]) -> Sheet:
    spreads = {column: [results.spread(figure.name, row, column.metric) for row in rows] for column in _COLUMNS[kind]}
    cells = [cell for row in rows for cell in results.of(figure.name, row)]
    open_door = not any(cell.policy for cell in cells)
    shown = [
        column
        for column, found in spreads.items()
        if column.needed or (any(found) and not (open_door and column.heading == _BEHIND))
    ]
    ignoring = {cell.row for cell in cells if cell.ignores_policy}
    lines = tuple(
        (
            Text(f"{row} {_IGNORES}" if row in ignoring else row),
            *(
                Text(spread_text(spreads[column][index], decimals(column.digits), len(results.seeds)))
                for column in shown
            ),
        )
        for index, row in enumerate(rows)
    )
    notes = [f"{seeds_note(results.seeds)} {_NOTES[kind]}"]
    notes += [_DISTORTION] if any(column.metric == "distortion" for column in shown) else []
    notes += [_WHITE_BOX] if ignoring else []
    columns = (("", "row"), *((column.heading, column.name) for column in shown))
    return Sheet("Victims rebuilt" if kind == "victims" else "Pictures of classes", columns, lines, tuple(notes))


def csv_rows(results: PredictionResults) -> Iterator[dict[str, Any]]:
    """One row a planned cell and place: its labels and all figures, unrounded; empty where not measured."""
    for cell in results.cells:
        labels = {"id": cell.id, "figure": cell.figure, "row": cell.row, "seed": cell.seed, "kind": cell.kind}
        labels |= {name: _flat(cell.planned.get(name)) for name in _LABELS}
        yield labels | {metric: cell.measure(metric) for metric in (*METRICS, *OF_REFERENCE)}


def _flat(value: object) -> object:
    return json.dumps(value) if isinstance(value, dict) else value
