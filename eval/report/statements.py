"""What results are held to: a statement, whether it holds, by what margin, and how sure that is."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Literal

Verdict = Literal["holds", "does not hold", "not measured"]


@dataclass(frozen=True)
class Case:
    """One instance of a statement: its figures in words, and by how much it holds in each seed (negative: not).

    ``of_means``: by how much the means over seeds bear it out, where that is not the mean of the margins.
    """

    text: str
    margins: tuple[float, ...]
    of_means: float | None = None

    @property
    def margin(self) -> float:
        """By how much it holds on means over seeds."""
        return fmean(self.margins) if self.of_means is None else self.of_means

    @property
    def error(self) -> float | None:
        """Standard error over seeds of the mean margin; None of fewer than two."""
        return stdev(self.margins) / math.sqrt(len(self.margins)) if len(self.margins) > 1 else None


@dataclass(frozen=True)
class Statement:
    """A statement and the cases that it was held against: it holds if it holds in every one that is measured.

    ``claimed`` are statements of a campaign's file, which are doubted where seeds are too few to tell.
    """

    text: str
    cases: tuple[Case, ...]
    figures: str
    seeds: tuple[int, ...] = ()
    claimed: bool = False
    strict: bool = field(default=False, kw_only=True)

    @property
    def verdict(self) -> Verdict:
        """Whether it holds on means over seeds; ``strict``: a margin of zero is not enough."""
        if not self.cases:
            return "not measured"
        return "does not hold" if any(self._fails(case) for case in self.cases) else "holds"

    def _fails(self, case: Case) -> bool:
        return case.margin < 0 or (self.strict and case.margin == 0)

    @property
    def closest(self) -> Case | None:
        """The case with the least margin."""
        return min(self.cases, key=lambda case: case.margin, default=None)

    @property
    def margin(self) -> float | None:
        """By how much it holds where it holds least; negative where it does not."""
        return None if self.closest is None else self.closest.margin

    @property
    def error(self) -> float | None:
        """Standard error of that margin over seeds; None of fewer than two."""
        return None if self.closest is None else self.closest.error

    @property
    def margin_text(self) -> str:
        """Margin and standard error as reports print them."""
        if self.margin is None:
            return ""
        return f"{self.margin:.3g}{'' if self.error is None else f' ± {self.error:.2g}'}"

    @property
    def doubtful(self) -> bool:
        """Whether two standard errors would turn the verdict; with few seeds that is not much to ask."""
        return self.margin is not None and self.error is not None and abs(self.margin) < 2 * self.error


def over_cases(text: str, cases: Iterable[Case]) -> Statement:
    """A statement of many cases, strictly; those that break it are named, else all are."""
    found = tuple(cases)
    statement = Statement(text, found, "", strict=True)
    if not found:
        return statement
    breaking = [case.text for case in found if statement._fails(case)]
    count = f"{len(found) - len(breaking)} of {len(found)}"
    figures = f"{count}; not in {'; '.join(breaking)}" if breaking else f"{count}: {_listed(found)}"
    return Statement(text, found, figures, strict=True)


def _listed(cases: Sequence[Case]) -> str:
    return "; ".join(case.text for case in cases)
