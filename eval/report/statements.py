"""Statements about results, each with its verdict, margin, and standard error over seeds."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Literal

from splitleak.eval.report.seed_tests import SeedTest, Sign

Verdict = Literal["holds", "does not hold", "refuted", "cannot be told", "not measured"]
_OF_SIGN: Mapping[Sign, Verdict] = {"above": "holds", "below": "refuted", "cannot be told": "cannot be told"}


@dataclass(frozen=True)
class Case:
    """One instance of a statement: its figures as text, and its margin in each seed (negative: it does not hold).

    ``of_means``: the margin of the means over seeds, if that is not the mean of the margins.
    """

    text: str
    margins: tuple[float, ...]
    of_means: float | None = None

    @property
    def margin(self) -> float:
        """The margin on means over seeds."""
        return fmean(self.margins) if self.of_means is None else self.of_means

    @property
    def error(self) -> float | None:
        """Standard error over seeds of the mean margin; None for fewer than two."""
        return stdev(self.margins) / math.sqrt(len(self.margins)) if len(self.margins) > 1 else None


@dataclass(frozen=True)
class Statement:
    """A statement and its measured cases; it holds if it holds in all of them.

    ``claimed``: it is a claim of the campaign's file, and ``tested`` over seeds: it holds or is refuted where the test
    says so, else it cannot be told.
    """

    text: str
    cases: tuple[Case, ...]
    figures: str
    seeds: tuple[int, ...] = ()
    claimed: bool = False
    tested: SeedTest | None = None
    strict: bool = field(default=False, kw_only=True)

    @property
    def verdict(self) -> Verdict:
        """The verdict on means over seeds; ``strict``: a margin of zero does not suffice."""
        if not self.cases:
            return "not measured"
        if self.tested is not None:
            return _OF_SIGN[self.tested.sign]
        return "does not hold" if any(self._fails(case) for case in self.cases) else "holds"

    def _fails(self, case: Case) -> bool:
        return case.margin < 0 or (self.strict and case.margin == 0)

    @property
    def closest(self) -> Case | None:
        """The case with the smallest margin."""
        return min(self.cases, key=lambda case: case.margin, default=None)

    @property
    def margin(self) -> float | None:
        """The smallest margin; negative if the statement does not hold."""
        return None if self.closest is None else self.closest.margin

    @property
    def error(self) -> float | None:
        """Standard error of that margin over seeds; None for fewer than two."""
        return None if self.closest is None else self.closest.error

    @property
    def margin_text(self) -> str:
        """Margin and standard error as text."""
        if self.margin is None:
            return ""
        return f"{self.margin:.3g}{'' if self.error is None else f' ± {self.error:.2g}'}"


def over_cases(text: str, cases: Iterable[Case], *, strict: bool = True) -> Statement:
    """A statement of many cases; its figures list the cases that break it, else all."""
    measured = tuple(cases)
    statement = Statement(text, measured, "", strict=strict)
    if not measured:
        return statement
    breaking = [case for case in measured if statement._fails(case)]
    listed = "; ".join(case.text for case in breaking or measured)
    count = f"{len(measured) - len(breaking)} of {len(measured)}"
    return replace(statement, figures=f"{count}; not in {listed}" if breaking else f"{count}: {listed}")
