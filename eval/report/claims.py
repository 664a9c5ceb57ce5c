"""What a campaign of predictions is said to show: each claim typed in its file, then held against the records."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal, Self

from pydantic import Field, model_validator

from splitleak.config import Config
from splitleak.eval.report.figures_results import Metric, PredictionResults


class ClaimEntry(Config):
    """``factor`` times row ``lower`` is at most row ``higher`` in one metric; or both are ``within`` a distance.

    On means over the seeds that have both rows. Accuracies and shares of images are in percent.
    """

    text: str = Field(min_length=1, description="the claim in words, as the report prints it")
    figure: str = Field(description="name of the figure that both rows stand in")
    metric: Metric
    lower: str = Field(description="name of a row")
    higher: str = Field(description="name of another row")
    against: str | None = Field(default=None, description="the figure that higher stands in, where it is another")
    factor: float = Field(default=1.0, gt=0, description="lower times this is claimed to be at most higher")
    within: float | None = Field(default=None, ge=0, description="instead: both differ by at most this, either way")

    @model_validator(mode="after")
    def _is_one_claim(self) -> Self:
        if self.lower == self.higher and self.against in (None, self.figure):
            raise ValueError(f"expected two different rows, got {self.lower!r} twice")
        if self.within is not None and self.factor != 1:
            raise ValueError(f"expected either factor or within, got {self.factor} and {self.within}")
        return self

    def check_names(self, figures: Mapping[str, Collection[str]]) -> None:
        """Refuses a claim about what the campaign does not have; ``figures`` are names, each with those of its rows.

        Raises:
            ValueError: No figure has the claim's name, or the figure has no row of one of its names.
        """
        for figure, row in self.places:
            if figure not in figures:
                raise ValueError(f"claim {self.text!r}: expected a figure of {', '.join(figures)}, got {figure!r}")
            if row not in figures[figure]:
                raise ValueError(f"claim {self.text!r}: expected a row of {', '.join(figures[figure])}, got {row!r}")

    @property
    def places(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """Figure and row of the lower and of the higher."""
        return (self.figure, self.lower), (self.against or self.figure, self.higher)

    def holds(self, lower: float, higher: float) -> bool:
        """Whether the two figures are as claimed."""
        return self.margin(lower, higher) >= 0

    def margin(self, lower: float, higher: float) -> float:
        """By how much the two figures are as claimed; negative where they are not."""
        return self.within - abs(higher - lower) if self.within is not None else higher - self.factor * lower

    @property
    def statement(self) -> str:
        """The claim as it is checked."""
        higher = f"{self.higher!r}{f' of {self.against}' if self.against else ''}"
        if self.within is not None:
            return f"{self.metric}: |{self.lower!r} - {higher}| ≤ {self.within:g}"
        factor = "" if self.factor == 1 else f"{self.factor:g} x "
        return f"{self.metric}: {factor}{self.lower!r} ≤ {higher}"


@dataclass(frozen=True)
class Checked:
    """A claim, whether it holds (None: not measured), and the figures: means over the seeds that have both rows."""

    claim: ClaimEntry
    holds: bool | None
    lower: float | None
    higher: float | None
    seeds: tuple[int, ...]
    margins: tuple[float, ...]
    """By how much it holds in each seed, see `ClaimEntry.margin`."""

    @property
    def held(self) -> tuple[int, ...]:
        """The seeds in which it holds taken alone."""
        return tuple(seed for seed, margin in zip(self.seeds, self.margins, strict=True) if margin >= 0)

    @property
    def error(self) -> float | None:
        """Standard error over seeds of the mean margin; None of fewer than two."""
        return stdev(self.margins) / math.sqrt(len(self.margins)) if len(self.margins) > 1 else None

    @property
    def doubtful(self) -> bool:
        """Whether two standard errors would turn the verdict; with few seeds that is not much to ask."""
        return self.error is not None and abs(fmean(self.margins)) < 2 * self.error

    @property
    def verdict(self) -> Literal["holds", "does not hold", "not measured"]:
        """``holds`` in words."""
        return "not measured" if self.holds is None else "holds" if self.holds else "does not hold"

    @property
    def figures(self) -> str:
        """The means, by how much it holds, with the standard error over seeds, and in how many of these it held."""
        if self.lower is None or self.higher is None:
            return ""
        names = [row for _, row in self.claim.places]
        if self.claim.against:
            names = [f"{row} ({figure})" for figure, row in self.claim.places]
        told = f"{names[0]}: {self.lower:.4g}, {names[1]}: {self.higher:.4g}"
        told += "" if self.error is None else f"; margin {fmean(self.margins):.3g} ± {self.error:.2g}"
        return f"{told}; in {len(self.held)} of {len(self.seeds)} seed{'s' * (len(self.seeds) > 1)}"


def check(results: PredictionResults, claims: Sequence[ClaimEntry]) -> list[Checked]:
    """Holds each claim against the records, seeds paired: a seed that lacks one of the two rows does not count."""
    return [_checked(results, claim) for claim in claims]


def _checked(results: PredictionResults, claim: ClaimEntry) -> Checked:
    lower, higher = (results.by_seed(*place, claim.metric) for place in claim.places)
    seeds = tuple(seed for seed in lower if seed in higher)
    if not seeds:
        return Checked(claim, None, None, None, (), ())
    means = fmean(lower[seed] for seed in seeds), fmean(higher[seed] for seed in seeds)
    margins = tuple(claim.margin(lower[seed], higher[seed]) for seed in seeds)
    return Checked(claim, claim.holds(*means), *means, seeds, margins)
