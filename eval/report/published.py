"""The published tables as data: the printed figures, with corrections of known misprints.

``eval/published/<name>.toml`` holds one: ``cem_*`` of features, ``bido_*``, ``tldmi_*``, ``calor_*`` of classes.
No number in them was measured here. What a published "±" is, and the set-up of an attack, is in a table's remarks.
"""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, Self

from pydantic import Field, model_validator

from splitleak.config import Config

Metric = Literal[
    "accuracy",
    "ssim",
    "psnr",
    "mse",
    "parameters",
    "macs",
    "time",
    "attack_accuracy",
    "attack_accuracy_top5",
    "knn_distance",
    "delta_eval",
    "delta_face",
    "feature_distance",
    "fid",
    "knowledge_extraction",
    "attack_success",
    "attack_success_targeted",
    "parameters_trained",
    "seconds",
]

UNDEFENDED = "none"
"""The method of a row without any defense."""

ABSENT = "-"
"""A figure that is not printed, or not legible in the copy at hand: the remarks say which."""


class Column(Config):
    """A column: a metric of an attack's reconstructions, of a half of the network, or of the target.

    If a table repeats the accuracy for each attack, that column has the attack too.
    """

    key: str
    metric: Metric
    unit: str = ""
    attack: str | None = None
    half: Literal["edge", "cloud"] | None = None
    images: Literal["validation", "training"] = "validation"


class Place(Config):
    """The key of a row: a method, the defenses on top of it, and the setting and setup if there are several."""

    method: str
    plus: str | None = None
    setting: str | None = Field(default=None, description="of the defense, where a table has several")
    setup: str | None = Field(default=None, description="what defended and undefended rows share: network or images")

    @property
    def place(self) -> tuple[str, str | None, str | None, str | None]:
        return self.method, self.plus, self.setting, self.setup

    @property
    def name(self) -> str:
        """The method with the defense on top of it: "TL-DMI + BiDO-HSIC"."""
        return f"{self.method} + {self.plus}" if self.plus else self.method


class Row(Place):
    """One row of a table."""

    values: tuple[float | Literal["-"], ...]


class Correction(Place):
    """A misprint: its place, the corrected figure, and the reason."""

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
    """A table as printed, with corrections."""

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
        places = [row.place for row in (*self.rows, *self.averages)]
        if twice := [place for place in places if places.count(place) > 1]:
            raise ValueError(f"expected each row once, got {twice[0]} again")
        for correction in self.corrections:
            figure = self.figure_at(correction, correction.column)
            if figure is None or figure.printed != correction.printed:
                raise ValueError(f"expected a correction of a printed figure, got {correction.document()}")
        return self

    def figure(
        self, method: str, plus: str | None, column: str, *, setting: str | None = None, setup: str | None = None
    ) -> Figure | None:
        """The figure of ``method`` (with ``plus`` on top) in the column of that key; None if not in the table.

        The averages are the rows of the method "average".
        """
        return self.figure_at(Place(method=method, plus=plus, setting=setting, setup=setup), column)

    def figure_at(self, where: Place, column: str) -> Figure | None:
        """The figure at ``where``, a row or another `Place`, in the column of that key; None if not in the table."""
        index = next((index for index, entry in enumerate(self.columns) if entry.key == column), None)
        row = next((row for row in (*self.rows, *self.averages) if row.place == where.place), None)
        value = ABSENT if index is None or row is None else row.values[index]
        if isinstance(value, str):
            return None
        for correction in self.corrections:
            if (correction.place, correction.column) == (where.place, column):
                return Figure(value, correction.corrected, correction.reason)
        return Figure(value)

    def key(self, attack: str | None, metric: str) -> str | None:
        """The key of the column with ``metric`` of ``attack`` on validation images; None if the table has none."""
        wanted = (attack, metric, "validation")
        keys = (column.key for column in self.columns if (column.attack, column.metric, column.images) == wanted)
        return next(keys, None)


def names() -> tuple[str, ...]:
    """The names of the tables, for `load`."""
    entries = (entry.name for entry in files("splitleak.eval").joinpath("published").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in entries if name.endswith(".toml")))


@cache
def defenses() -> tuple[str, ...]:
    """The defenses (`Place.name`) with an attack accuracy in a table."""
    tables = [load(name) for name in names()]
    rated = [table for table in tables if any(column.metric == "attack_accuracy" for column in table.columns)]
    return tuple(sorted({row.name for table in rated for row in table.rows if row.method != UNDEFENDED}))


@cache
def load(name: str) -> PublishedTable:
    """The table ``name``, one of `names`: "cem_s1", "bido_t2", "calor_t1".

    Raises:
        ValueError: There is no such table.
    """
    if name not in names():
        raise ValueError(f"expected a published table of {', '.join(names())}, got {name!r}")
    text = files("splitleak.eval").joinpath("published", f"{name}.toml").read_text(encoding="utf-8")
    return PublishedTable.parse(tomllib.loads(text), source=f"published/{name}.toml")
