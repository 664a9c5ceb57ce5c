"""The published tables as data: what was printed, and beside each known misprint what it must have been.

``eval/published/<name>.toml`` holds one table. No number in them was measured here.
"""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, Self

from pydantic import model_validator

from splitleak.config import Config


class Column(Config):
    """What a column holds: a metric of an attack's reconstructions, of a half of the network, or of the target."""

    key: str
    metric: Literal["accuracy", "ssim", "psnr", "mse", "parameters", "macs", "time"]
    unit: str = ""
    attack: str | None = None
    half: Literal["edge", "cloud"] | None = None
    images: Literal["validation", "training"] = "validation"


class Row(Config):
    """One row: a method, and what was stacked on top of it."""

    method: str
    plus: str | None = None
    values: tuple[float, ...]


class Correction(Config):
    """A misprint: where it stands, what it must have been, and how that is known."""

    method: str
    plus: str | None = None
    column: str
    printed: float
    corrected: float
    reason: str


@dataclass(frozen=True)
class Figure:
    """One cell of a published table; ``corrected`` and ``reason`` are None unless it is a known misprint."""

    printed: float
    corrected: float | None = None
    reason: str | None = None

    @property
    def value(self) -> float:
        """The corrected figure where there is one, else the printed one."""
        return self.printed if self.corrected is None else self.corrected


class PublishedTable(Config):
    """A table as printed, with its corrections beside it."""

    source: str
    dataset: str
    model: str
    remarks: tuple[str, ...] = ()
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    averages: tuple[Row, ...] = ()
    corrections: tuple[Correction, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for row in (*self.rows, *self.averages):
            if len(row.values) != len(self.columns):
                raise ValueError(f"expected {len(self.columns)} values in row {row.method!r}, got {len(row.values)}")
        for each in self.corrections:
            figure = self.figure(each.method, each.plus, each.column)
            if figure is None or figure.printed != each.printed:
                raise ValueError(f"expected a correction of a printed figure, got {each.document()}")
        return self

    def figure(self, method: str, plus: str | None, column: str) -> Figure | None:
        """The figure of ``method`` (with ``plus`` on top) in the column of that key; None if not in the table.

        The averages are the rows of the method "average".
        """
        place = next((index for index, each in enumerate(self.columns) if each.key == column), None)
        row = next((row for row in (*self.rows, *self.averages) if (row.method, row.plus) == (method, plus)), None)
        if place is None or row is None:
            return None
        where = (method, plus, column)
        for each in self.corrections:
            if (each.method, each.plus, each.column) == where:
                return Figure(row.values[place], each.corrected, each.reason)
        return Figure(row.values[place])

    def key(self, attack: str | None, metric: str) -> str | None:
        """The key of the column with ``metric`` of ``attack`` on validation images; None if the table has none."""
        wanted = (attack, metric, "validation")
        found = (each.key for each in self.columns if (each.attack, each.metric, each.images) == wanted)
        return next(found, None)


def names() -> tuple[str, ...]:
    """The tables there are, for `load`."""
    found = (entry.name for entry in files("eval").joinpath("published").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml")))


@cache
def load(name: str) -> PublishedTable:
    """The table ``name``, "cem_s1" to "cem_s6".

    Raises:
        ValueError: There is no such table.
    """
    if name not in names():
        raise ValueError(f"expected a published table of {', '.join(names())}, got {name!r}")
    text = files("eval").joinpath("published", f"{name}.toml").read_text(encoding="utf-8")
    return PublishedTable.parse(tomllib.loads(text), source=f"published/{name}.toml")
