"""Paired tests over seeds: t tests, Holm's correction for their number, intervals, and the seeds that are needed.

Values that are the same in all seeds, as shares of few images may be, say nothing of how much they vary. They get the
exact sign test, which counts seeds alone: 0.25 for three, below 0.05 from six on.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Literal, Self

from scipy.special import nctdtr, stdtr, stdtrit  # `scipy.stats` takes a second to import

LEVEL = 0.05
_POWER = 0.8
_MOST_SEEDS = 1000
_DIGITS = 12

Sign = Literal["above", "below", "cannot be told"]


@dataclass(frozen=True)
class SeedTest:
    """A two-sided t test of whether the mean of ``values``, one a seed, is 0; a sign test where all are the same.

    ``p`` is None for fewer than two seeds; ``tests`` is the number of tests that it was corrected for.
    """

    values: tuple[float, ...]
    p: float | None
    tests: int = 1

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """The test of ``values``, as if it were the only one.

        >>> round(SeedTest.of([1.0, 2.0, 3.0]).p, 4)
        0.0742
        """
        kept = tuple(round(value, _DIGITS) for value in values)  # no difference is left to rounding errors
        if len(kept) < 2:
            return cls(kept, None)
        error = stdev(kept) / math.sqrt(len(kept))
        if not error:
            return cls(kept, 1.0 if fmean(kept) == 0 else 2.0 ** (1 - len(kept)))
        return cls(kept, 2 * float(stdtr(len(kept) - 1, -abs(fmean(kept)) / error)))

    @property
    def mean(self) -> float:
        """Over seeds."""
        return fmean(self.values)

    @property
    def sign(self) -> Sign:
        """On which side of 0 the mean is, if the test can tell."""
        if self.p is None or self.p > LEVEL or self.mean == 0:
            return "cannot be told"
        return "above" if self.mean > 0 else "below"

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval of the mean, not corrected; None where nothing varies, as for one seed."""
        if len(set(self.values)) < 2:
            return None
        half = float(stdtrit(len(self.values) - 1, 1 - LEVEL / 2)) * stdev(self.values) / math.sqrt(len(self.values))
        return self.mean - half, self.mean + half

    @property
    def needed(self) -> int | None:
        """The seeds at which a mean and deviation like these would be told in four of five cases.

        By the strictest of the corrected tests; None where more than 1000 are needed, or nothing is known.
        """
        if self.p is None or self.mean == 0:
            return None
        level = LEVEL / self.tests
        if self.interval is None:
            return math.ceil(1 - math.log2(level))
        effect = abs(self.mean) / stdev(self.values)

        def power(seeds: int) -> float:
            least = stdtrit(seeds - 1, 1 - level / 2)
            return 1 - float(nctdtr(seeds - 1, effect * math.sqrt(seeds), least))

        numbers = range(2, _MOST_SEEDS + 1)
        place = bisect_left(numbers, _POWER, key=power)  # more seeds have more power
        return numbers[place] if place < len(numbers) else None

    @property
    def told(self) -> str:
        """Interval, corrected p, and the seeds needed where it cannot be told, as text."""
        if self.p is None:
            return "one seed" if self.values else ""
        among = "the same in all seeds"
        if self.interval is not None:
            among = "95 % interval {:.3g} to {:.3g}".format(*self.interval)
        text = f"{among}, p {self.p:.2g}"
        if self.sign != "cannot be told" or not any(self.values):
            return text
        more = f"about {self.needed}" if self.needed else f"more than {_MOST_SEEDS}"
        return f"{text}; {more} seeds would tell"


def corrected(tests: Sequence[SeedTest]) -> list[SeedTest]:
    """The tests with p values corrected for their number (Holm, "A simple sequentially rejective multiple test
    procedure", 1979), in the same order; those without a p are not counted.

    >>> [each.p for each in corrected([SeedTest((1.0, 1.0), p) for p in (0.01, 0.04, 0.03)])]
    [0.03, 0.06, 0.06]
    """
    known = [(test.p, index) for index, test in enumerate(tests) if test.p is not None]
    result, least = list(tests), 0.0
    for place, (p, index) in enumerate(sorted(known)):
        least = max(least, min(1.0, (len(known) - place) * p))
        result[index] = replace(tests[index], p=least, tests=len(known))
    return result
