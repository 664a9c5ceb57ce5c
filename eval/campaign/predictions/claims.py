"""A claim of a campaign's file: a statement about two rows in one metric, which the results are tested against."""

from collections.abc import Collection, Mapping, Sequence
from typing import Self

from pydantic import Field, model_validator

from splitleak.config import Config
from splitleak.eval.record.metrics import metric_names
from splitleak.eval.report.seed_tests import SeedTest


class ClaimEntry(Config):
    """``factor`` times row ``lower`` is at most row ``higher`` in one metric; or both are ``within`` a distance.

    By a paired test over the seeds that have both rows, corrected for the number of claims. Accuracies and shares of
    images are in percent.
    """

    text: str = Field(min_length=1, description="the claim in words, as the report prints it")
    figure: str = Field(description="name of the figure with both rows")
    metric: str = Field(description="of `eval.record.metrics`")
    lower: str = Field(description="name of a row")
    higher: str = Field(description="name of another row")
    against: str | None = Field(default=None, description="the figure with higher, if it is another")
    factor: float = Field(default=1.0, gt=0, description="lower times this is claimed to be at most higher")
    within: float | None = Field(default=None, ge=0, description="instead: both differ by at most this, either way")

    @model_validator(mode="after")
    def _is_one_claim(self) -> Self:
        if self.lower == self.higher and self.against in (None, self.figure):
            raise ValueError(f"expected two different rows, got {self.lower!r} twice")
        if self.within is not None and self.factor != 1:
            raise ValueError(f"expected either factor or within, got {self.factor} and {self.within}")
        if self.metric not in metric_names():
            raise ValueError(f"expected a metric of {', '.join(metric_names())}, got {self.metric!r}")
        return self

    def check_names(self, figures: Mapping[str, Collection[str]]) -> None:
        """Validates the claim against ``figures``: names of figures, each with those of its rows.

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
        """(figure, row) of the lower and of the higher."""
        return (self.figure, self.lower), (self.against or self.figure, self.higher)

    def margin(self, lower: float, higher: float) -> float:
        """The margin by which two values satisfy the claim; negative if they do not."""
        return self.within - abs(higher - lower) if self.within is not None else higher - self.factor * lower

    def tested(self, lower: Sequence[float], higher: Sequence[float]) -> SeedTest:
        """The test of the claim on values of the same seeds: above 0 it holds, below it is refuted.

        Two values are within a distance if the test tells each of the two margins, up and down, from 0 (two one-sided
        tests), and further apart if it tells one of them on the other side; the interval is that of the lesser margin.
        """
        pairs = list(zip(lower, higher, strict=True))
        if self.within is None:
            return SeedTest.of(self.margin(*pair) for pair in pairs)
        up, down = (SeedTest.of(self.within - sign * (above - below) for below, above in pairs) for sign in (1, -1))
        return min(up, down, key=lambda each: each.mean)

    @property
    def statement(self) -> str:
        """The claim as a formula."""
        higher = f"{self.higher!r}{f' of {self.against}' if self.against else ''}"
        if self.within is not None:
            return f"{self.metric}: |{self.lower!r} - {higher}| ≤ {self.within:g}"
        factor = "" if self.factor == 1 else f"{self.factor:g} x "
        return f"{self.metric}: {factor}{self.lower!r} ≤ {higher}"
