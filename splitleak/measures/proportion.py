"""A binomial proportion with its confidence interval (Wilson)."""

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist


@dataclass(frozen=True)
class Proportion:
    """``hits`` of ``n``, with Wilson's score interval."""

    hits: int
    n: int
    low: float
    high: float
    confidence: float

    @property
    def share(self) -> float:
        return self.hits / self.n

    def document(self) -> dict[str, float]:
        """As JSON."""
        return {"share": self.share, **asdict(self)}


def wilson(hits: int, n: int, confidence: float = 0.95) -> Proportion:
    r"""Wilson's score interval of a binomial proportion.

    .. math:: \frac{1}{1 + z^2/n} \Big(p + \frac{z^2}{2n} \pm z \sqrt{\frac{p(1-p)}{n} + \frac{z^2}{4 n^2}}\Big)

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927. It stays in [0, 1], and
    its coverage is ``confidence`` on average, where the exact interval of Clopper and Pearson is wider.

    Args:
        hits: Successes.
        n: Independent trials, at least 1.
        confidence: Level, in (0, 1).

    Raises:
        ValueError: There is no trial, more hits than trials, or ``confidence`` is not within 0 and 1.

    >>> interval = wilson(387, 3000)
    >>> round(interval.low, 4), round(interval.high, 4)
    (0.1175, 0.1415)
    """
    if n < 1 or not 0 <= hits <= n or not 0 < confidence < 1:
        got = f"{hits} of {n} at {confidence}"
        raise ValueError(f"expected 0 to n hits of at least one answer, and a confidence within 0 and 1, got {got}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = hits / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    margin = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    low, high = (0.0 if hits == 0 else centre - margin), (1.0 if hits == n else centre + margin)
    return Proportion(hits, n, low, high, confidence)
