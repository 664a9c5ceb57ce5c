"""A share that was counted, and how far it can be trusted."""

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist


@dataclass(frozen=True)
class Proportion:
    """``hits`` of ``n``, with Wilson's interval."""

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
    r"""Wilson's score interval of a share that was counted ``hits`` times in ``n`` independent answers.

    .. math:: \frac{1}{1 + z^2/n} \Big(p + \frac{z^2}{2n} \pm z \sqrt{\frac{p(1-p)}{n} + \frac{z^2}{4 n^2}}\Big)

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927. It stays in [0, 1] and
    holds on average what ``confidence`` promises, where the exact interval of Clopper and Pearson is wider than it.

    Raises:
        ValueError: There is no answer, more hits than answers, or ``confidence`` is not within 0 and 1.

    >>> found = wilson(387, 3000)
    >>> round(found.low, 4), round(found.high, 4)
    (0.1175, 0.1415)
    """
    if n < 1 or not 0 <= hits <= n or not 0 < confidence < 1:
        got = f"{hits} of {n} at {confidence}"
        raise ValueError(f"expected 0 to n hits of at least one answer, and a confidence within 0 and 1, got {got}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = hits / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    low, high = (0.0 if hits == 0 else centre - reach), (1.0 if hits == n else centre + reach)
    return Proportion(hits, n, low, high, confidence)
