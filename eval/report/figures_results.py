"""What a campaign of predictions has measured so far: figures of rows, the cells behind each, and their spread."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from splitleak.attacker.class_inversion import CLASS_ATTACKS
from splitleak.config import read_document
from splitleak.eval.campaign.store import Store
from splitleak.eval.report.features_results import OF_ATTACK, Record, Spread, failures_of
from splitleak.eval.report.run_report import load_pictures

Kind = Literal["victims", "classes"]
Metric = Literal[
    "accuracy",
    "service_accuracy",
    "distortion",
    "mse",
    "ssim",
    "psnr",
    "ssim_valid",
    "psnr_image",
    "reclassified",
    "recognised",
    "recognised_error",
    "top5",
    "nearest_mean",
    "delta_eval",
    "frechet_eval",
    "coverage",
    "rank1",
    "rank5",
    "verified",
    "target_confidence",
]
METRICS: tuple[Metric, ...] = get_args(Metric)

STRONGEST = "strongest"
"""The figure that no file writes: of each target of a campaign against classes, the attack that did most in a seed."""


def _share(name: str) -> Callable[[Record], float | None]:
    return lambda record: 100 * float(record["score"][name]["mean"]) if name in record["score"] else None


def _service(name: str, scale: float) -> Callable[[Record], float | None]:
    def figure(record: Record) -> float | None:
        service = record["cell"].get("service")
        return scale * float(service[name]) if service else None

    return figure


def _evaluator(name: str) -> Callable[[Record], float | None]:
    return lambda record: 100 * float(record["evaluator"][name]) if name in record.get("evaluator", {}) else None


OF_SERVICE: dict[str, Callable[[Record], float | None]] = {
    "accuracy": lambda record: 100 * float(record["target"]["accuracy"]),
    "service_accuracy": _service("accuracy", 100),
    "distortion": _service("distortion", 1),
}
"""Of what is attacked: the classifier's accuracy, and what its policy costs, where that is measured."""

OF_VICTIMS: dict[str, Callable[[Record], float | None]] = {
    "mse": OF_ATTACK["mse"],
    "ssim": OF_ATTACK["ssim"],
    "psnr": OF_ATTACK["psnr"],
    "ssim_valid": OF_ATTACK["ssim_valid"],
    "psnr_image": OF_ATTACK["psnr_image"],
    "reclassified": _share("reclassified"),
}
"""Of victims rebuilt, as in the report of features; the share that an independent classifier puts in its true class."""


def _error(record: Record) -> float | None:
    """Standard error of the share recognised over a target's pictures, in percent; None of one picture."""
    found = record["score"]["recognised"]
    hits = np.array(found.get("images", found.get("values", [])))
    return 100 * float(hits.std(ddof=1) / np.sqrt(hits.size)) if hits.size > 1 else None


def _figure_of(*path: str, scale: float = 1.0) -> Callable[[Record], float | None]:
    """A figure of `class_figures` by its place; None where it is not defined, or the record is older."""

    def figure(record: Record) -> float | None:
        found: Any = record.get("figures")
        for name in path:
            found = found.get(name) if found else None
        return None if found is None else scale * float(found)

    return figure


OF_CLASSES: dict[str, Callable[[Record], float | None]] = {
    "recognised": _share("recognised"),
    "recognised_error": _error,
    "top5": _figure_of("top5", "mean", scale=100),
    "nearest_mean": _share("nearest_mean"),
    "delta_eval": _figure_of("delta_eval", "mean"),
    "frechet_eval": _figure_of("frechet_eval", "distance"),
    "coverage": _figure_of("diversity_eval", "coverage"),
    "rank1": _figure_of("identification", "rank1", scale=100),
    "rank5": _figure_of("identification", "rank5", scale=100),
    "verified": _figure_of("identification", "verification", "true_match_rate", scale=100),
    "mse": OF_ATTACK["mse"],
    "target_confidence": lambda record: float(record["score"]["target_confidence"]["mean"]),
}
"""Of pictures of classes: shares that are taken for their own, how near they are, and the target's own belief."""

OF_REFERENCE: dict[str, Callable[[Record], float | None]] = {
    "chance": lambda record: 100 * float(record["score"]["chance"]) if "chance" in record["score"] else None,
    "constant_mse": lambda record: record["constant_mse"],
    "held_out_mse": lambda record: record["attack"]["findings"].get("held_out_mse"),
    "mean_image_mse": lambda record: record["attack"]["findings"].get("mean_image_mse"),
    "evaluator_accuracy": _evaluator("accuracy"),
    "evaluator_on_truth": _evaluator("on_truth"),
}
"""What the others are to be read beside. ``constant_mse``: of always answering the mean of the true pictures, the best
constant there is, which no attacker has. The next two are the attacker's own, on images held out of its auxiliary set.
"""

OF_KIND: dict[str, dict[str, Callable[[Record], float | None]]] = {"victims": OF_VICTIMS, "classes": OF_CLASSES}


@dataclass(frozen=True)
class PredictionCell:
    """A planned cell in its place in a figure, and its record once there is one."""

    figure: str
    row: str
    seed: int
    id: str
    planned: Mapping[str, Any]
    folder: Path
    record: Record | None

    @property
    def kind(self) -> Kind:
        """Whether victims are rebuilt, or one picture a class."""
        return "classes" if self.planned["kind"] == "classes" else "victims"

    @property
    def policy(self) -> bool:
        """Whether something is done to what the service lets out."""
        return bool(self.planned["policy"]) or self.planned.get("purify") is not None

    @property
    def ignores_policy(self) -> bool:
        """Whether there is an output policy, and the attack runs the model itself, so that it is nothing to it."""
        attack = CLASS_ATTACKS.get(self.planned["attack"])
        return self.policy and attack is not None and attack.ignores_output_policy()

    def measure(self, metric: str) -> float | None:
        """A metric of `OF_SERVICE`, `OF_REFERENCE` or that of the cell's kind; None where it is not measured."""
        figure = {**OF_SERVICE, **OF_REFERENCE, **OF_KIND[self.kind]}.get(metric)
        return None if self.record is None or figure is None else figure(self.record)


@dataclass(frozen=True)
class PredictionFigure:
    """Rows that are to be read beside each other, in the order of the file."""

    name: str
    title: str
    note: str
    rows: tuple[str, ...]


@dataclass(frozen=True)
class PredictionResults:
    """A folder of a campaign of predictions as it stands."""

    name: str
    title: str
    config: dict[str, Any]
    figures: tuple[PredictionFigure, ...]
    cells: tuple[PredictionCell, ...]
    failures: tuple[dict[str, Any], ...]
    provenance: dict[str, Any]

    @classmethod
    def load(cls, folder: Path) -> "PredictionResults":
        """Reads ``campaign.json`` and what there is of its cells; cells of another plan are not looked at.

        Raises:
            FileNotFoundError: There is no campaign at ``folder``.
        """
        plan = Store(folder).read_plan()
        records = {key: _record(folder / "cells" / key / "score") for key in {each["id"] for each in plan["cells"]}}
        return cls(
            plan["name"],
            plan.get("title") or plan["name"],
            plan["config"],
            tuple(_figure(each) for each in plan["config"]["figures"]),
            tuple(_cell(folder, planned, records[planned["id"]]) for planned in plan["cells"]),
            failures_of(folder, plan),
            plan["provenance"],
        )

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(cell.seed for cell in self.cells))

    @property
    def measured(self) -> Iterator[tuple[PredictionCell, Record]]:
        """The cells that have a record, with it; one that stands in several figures comes once for each."""
        return ((cell, cell.record) for cell in self.cells if cell.record is not None)

    def of(self, figure: str, row: str) -> Sequence[PredictionCell]:
        """The cells of a row, by seed in the order of the file."""
        return [cell for cell in self.cells if (cell.figure, cell.row) == (figure, row)]

    @cached_property
    def together(self) -> tuple[str, ...]:
        """The figures of a campaign's attacks on its first setting, among which the strongest is looked for."""
        attacks = [entry["name"] for entry in self.config.get("attacks", ())]
        return tuple(figure.name for figure in self.figures if figure.name in attacks)

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """The rows of these figures."""
        return tuple(
            dict.fromkeys(row for figure in self.figures if figure.name in self.together for row in figure.rows)
        )

    @cached_property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """By name the figures among which the strongest attack is looked for."""
        given = {name: tuple(attacks) for name, attacks in self.config.get("strongest", {}).items()}
        return {STRONGEST: self.together, **given} if self.together else {}

    def strongest(self, row: str, group: str = STRONGEST) -> dict[int, PredictionCell]:
        """By seed the cell with most pictures recognised, where all attacks of the group on the target are measured."""
        cells = [cell for figure in self.groups[group] for cell in self.of(figure, row)]
        found: dict[int, PredictionCell] = {}
        for seed in self.seeds:
            rated = [(cell.measure("recognised"), cell) for cell in cells if cell.seed == seed]
            if rated and all(share is not None for share, _ in rated):
                found[seed] = max(rated, key=lambda each: each[0] or 0.0)[1]
        return found

    def by_seed(self, figure: str, row: str, metric: str) -> dict[int, float]:
        """A metric of a row by seed, where measured."""
        cells = self.strongest(row, figure).values() if figure in self.groups else self.of(figure, row)
        found = ((cell.seed, cell.measure(metric)) for cell in cells)
        return {seed: value for seed, value in found if value is not None}

    def spread(self, figure: str, row: str, metric: str) -> Spread | None:
        """A metric of a row over seeds."""
        return Spread.of(self.by_seed(figure, row, metric).values())


def _figure(entry: Mapping[str, Any]) -> PredictionFigure:
    rows = tuple(row["name"] for row in entry["rows"])
    return PredictionFigure(entry["name"], entry.get("title") or entry["name"], entry.get("note", ""), rows)


def _record(folder: Path) -> Record | None:
    """What the judge wrote to ``folder``, with the error of the best constant picture."""
    if not (folder / "record.json").is_file():
        return None
    constant = None
    if (folder / "pictures.npz").is_file():
        truth = load_pictures(folder)["truth"] / 255.0
        constant = float(np.square(truth - truth.mean(0)).mean())
    return {**read_document(folder / "record.json"), "constant_mse": constant}


def _cell(folder: Path, planned: Mapping[str, Any], record: Record | None) -> PredictionCell:
    """One record may stand in several places: what it says of its place is that of the plan."""
    if record is not None:
        record = {**record, "cell": {**record.get("cell", {}), **planned}}
    return PredictionCell(
        planned["figure"],
        planned["row"],
        planned["seed"],
        planned["id"],
        planned,
        folder / "cells" / planned["id"] / "score",
        record,
    )
