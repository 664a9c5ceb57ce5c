"""What a campaign has measured so far: its planned cells, their records, and figures over seeds."""

import statistics
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from splitleak.config import read_document
from splitleak.eval.campaign.store import Store

Record = dict[str, Any]
Row = tuple[str, str | None]
"""A row of the table: the method, and what is stacked on top of it or None."""


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


_LABELS = ("id", "dataset", "model", "method", "plus", "attack", "seed", "views", "target")

OF_TARGET: dict[str, Callable[[Record, Record], float | None]] = {
    "accuracy": lambda record, _: 100 * float(record["target"]["accuracy"]),
    "wire_accuracy": lambda record, _: _percent(record["wire"]["accuracy"]),
    "bytes": lambda record, _: float(record["wire"]["bytes_per_image"]),
    "bound": lambda _, leakage: leakage["mse_bound"] if leakage else None,
    "fsinfo": lambda _, leakage: leakage["fsinfo_nats_per_pixel"] if leakage else None,
    "effective_dimensions": lambda _, leakage: leakage["effective_dimensions"] if leakage else None,
}
"""Figures of a target, from a record of any attack on it and the target's attack-free measures (empty if none).

``accuracy`` is that of the target on its test images, ``wire_accuracy`` what came back for the victims' images, under
the codec that carried their features, and ``bytes`` the size of a message.
"""

OF_ATTACK: dict[str, Callable[[Record], float]] = {
    "ssim": lambda record: float(record["score"]["ssim_zero_padded"]["mean"]),
    "psnr": lambda record: float(record["score"]["batch_psnr"]),
    "mse": lambda record: float(record["score"]["mse"]["mean"]),
    "ssim_valid": lambda record: float(record["score"]["ssim"]["mean"]),
    "psnr_image": lambda record: float(record["score"]["psnr"]["mean"]),
}
"""Figures of an attack. The first three are by the definitions of the published tables: SSIM zero padded, PSNR of the
batch's MSE; ``ssim_valid`` and ``psnr_image`` are the usual ones."""


@dataclass(frozen=True)
class Spread:
    """Mean over ``n`` seeds, and their standard deviation (n - 1); None of one seed."""

    mean: float
    std: float | None
    n: int

    @classmethod
    def of(cls, values: Collection[float]) -> "Spread | None":
        """The spread of ``values``; None of none."""
        if not values:
            return None
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Cell:
    """A planned cell, and its record once there is one."""

    id: str
    dataset: str
    model: str
    method: str
    plus: str | None
    attack: str
    seed: int
    views: int
    target: str
    codec: str
    folder: Path
    record: Record | None
    leakage: Record

    @property
    def row(self) -> Row:
        return self.method, self.plus

    @property
    def group(self) -> tuple[str, str]:
        """Data set and model: one table each."""
        return self.dataset, self.model

    @property
    def label(self) -> str:
        """The cell in words, for people."""
        return f"{row_label(self.row)}, {self.attack}, seed {self.seed}"

    def figure(self, metric: str) -> float | None:
        """A figure of `OF_TARGET` or `OF_ATTACK`; None where it is not measured."""
        if self.record is None:
            return None
        if metric in OF_TARGET:
            return OF_TARGET[metric](self.record, self.leakage)
        return OF_ATTACK[metric](self.record)


@dataclass(frozen=True)
class Campaign:
    """A campaign's folder as it stands."""

    name: str
    title: str
    config: dict[str, Any]
    cells: tuple[Cell, ...]
    failures: tuple[dict[str, Any], ...]
    provenance: dict[str, Any]

    @classmethod
    def load(cls, folder: Path) -> "Campaign":
        """Reads ``campaign.json`` and what there is of its cells; cells of another plan are not looked at.

        Raises:
            FileNotFoundError: There is no campaign at ``folder``.
        """
        plan = Store(folder).read_plan()
        return cls(
            plan["name"],
            plan.get("title") or plan["name"],
            plan["config"],
            tuple(_cell(folder, planned) for planned in plan["cells"]),
            failures_of(folder, plan),
            plan["provenance"],
        )

    @cached_property
    def groups(self) -> tuple[tuple[str, str], ...]:
        """Data set and model of each table, in the order of the plan."""
        return tuple(dict.fromkeys(cell.group for cell in self.cells))

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """Every method alone and with what is on top, in the order of the plan."""
        return tuple(dict.fromkeys(cell.row for cell in self.cells))

    @cached_property
    def pairs(self) -> tuple[tuple[Row, Row], ...]:
        """Each method alone beside its twin with something on top."""
        return tuple(((method, None), (method, plus)) for method, plus in self.rows if plus is not None)

    @cached_property
    def attacks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.attack for cell in self.cells))

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(cell.seed for cell in self.cells))

    @property
    def measured(self) -> Iterator[tuple[Cell, Record]]:
        """The cells that have a record, with it."""
        return ((cell, cell.record) for cell in self.cells if cell.record is not None)

    def by_seed(self, group: tuple[str, str], row: Row, metric: str, attack: str | None = None) -> dict[int, float]:
        """A figure by seed, where measured; of an attack, or of the target itself."""
        found = {}
        for cell in self.cells:
            if (cell.group, cell.row) == (group, row) and attack in (None, cell.attack):
                figure = cell.figure(metric)
                if figure is not None:
                    found[cell.seed] = figure
        return found

    def spread(self, group: tuple[str, str], row: Row, metric: str, attack: str | None = None) -> Spread | None:
        """A figure over seeds."""
        return Spread.of(self.by_seed(group, row, metric, attack).values())

    def differences(
        self, group: tuple[str, str], pair: tuple[Row, Row], metric: str, attack: str | None = None
    ) -> dict[int, float]:
        """By seed, the figure with something on top minus that without."""
        without, with_plus = (self.by_seed(group, row, metric, attack) for row in pair)
        return {seed: with_plus[seed] - figure for seed, figure in without.items() if seed in with_plus}

    def strongest(self, group: tuple[str, str], row: Row, metric: str) -> Spread | None:
        """The figure of the attack that comes closest to the victims: lowest MSE, or highest of another metric."""
        found = [each for attack in self.attacks if (each := self.spread(group, row, metric, attack))]
        if not found:
            return None
        return min(found, key=lambda each: each.mean if metric == "mse" else -each.mean)


def failures_of(folder: Path, plan: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Why jobs of ``plan`` failed when they were last tried; those of another plan are left out."""
    jobs = {job["id"] for job in plan.get("jobs", ())}
    failures = [read_document(found) for found in sorted((folder / "failures").glob("*.json"))]
    return tuple(failure for failure in failures if failure["job"] in jobs)


def row_label(row: Row) -> str:
    """The row's name as the paper writes it.

    >>> row_label(("ResSFL", "CEM"))
    'ResSFL + CEM'
    """
    method, plus = row
    return f"{method} + {plus}" if plus else method


def averages(campaign: Campaign, group: tuple[str, str], metric: str, attack: str | None) -> Sequence[float | None]:
    """The mean over methods without and with what is on top, of those methods that have both figures."""
    found = [[campaign.spread(group, row, metric, attack) for row in pair] for pair in campaign.pairs]
    both = [(without.mean, with_plus.mean) for without, with_plus in found if without and with_plus]
    return [statistics.fmean(side) for side in zip(*both, strict=True)] if both else [None, None]


def _cell(folder: Path, planned: Mapping[str, Any]) -> Cell:
    score = folder / "cells" / planned["id"] / "score"
    record, leakage = score / "record.json", folder / "leakage" / f"{planned['target']}.json"
    return Cell(
        **{name: planned[name] for name in _LABELS},
        codec=planned.get("codec", "fp32"),
        folder=score,
        record={**read_document(record), "cell": dict(planned)} if record.is_file() else None,
        leakage=read_document(leakage) if leakage.is_file() else {},
    )
