"""Whitening: features turned and scaled until those of other pictures vary alike in every direction."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

_NOTHING = 1e-6  # of the largest variance, or a deviation beside its mean: less is rounding
_OUTSIZED = 2.0  # times the usual deviation
_DROWNED = 0.5  # of the variance, at most, that is left where a few values drown the others


def levels(deviations: Tensor, centre: Tensor) -> Tensor:
    """What values that vary by ``deviations`` ``(d,)`` about their ``centre`` ``(d,)`` are divided by: at least 1.

    Those that vary more than twice as much as the median of all are brought down to that, so that a channel of huge
    ones, be they noise, hides nothing of what the others tell; the rest stay as they are.

    >>> levels(torch.tensor([1.0, 2.0, 300.0]), torch.zeros(3))
    tensor([ 1.,  1., 75.])
    """
    usual = deviations[deviations > _NOTHING * centre.abs()].median().nan_to_num(1.0)
    return (deviations / (_OUTSIZED * usual)).clamp_min(1)


def drowning(deviations: Tensor, centre: Tensor) -> Tensor:
    """The `levels` ``(d,)``, where bringing values down to them takes half of the variance; ones elsewhere.

    So a few values drown the others in any error that is a plain mean; where they do not, all stay as they are.

    Args:
        deviations: Of the values ``(d,)``.
        centre: Their means ``(d,)``.

    >>> drowning(torch.tensor([1.0, 2.0, 300.0]), torch.zeros(3))
    tensor([ 1.,  1., 75.])
    >>> drowning(torch.tensor([1.0, 2.0, 4.0]), torch.zeros(3))
    tensor([1., 1., 1.])
    """
    level = levels(deviations, centre)
    drowned = (deviations / level).square().mean() < _DROWNED * deviations.square().mean()
    return level.where(drowned, 1)


@dataclass(frozen=True)
class Whitening:
    """A linear map of features after which the covariance of those that it was fitted to is nearly the identity.

    Values are first divided by their `levels` ``(d,)``. ``directions`` ``(d, r)`` are principal, by falling variance;
    ``scales`` ``(r,)`` and ``rest`` multiply what lies along them and what they do not span.
    """

    centre: Tensor
    levels: Tensor
    directions: Tensor
    scales: Tensor
    rest: float

    @classmethod
    def fit(cls, features: Tensor) -> Self:
        r"""The whitening of the covariance of ``features`` ``(M, ...)``, shrunk towards a multiple of the identity.

        .. math:: \Sigma = (1 - a) S + a \frac{\mathrm{tr}\,S}{d} I

        S is the sample covariance, and a minimises the expected squared error of :math:`\Sigma` (Ledoit and Wolf, "A
        well-conditioned estimator for large-dimensional covariance matrices", 2004).

        Raises:
            ValueError: There are fewer than two features, or they are all equal.
        """
        flat = features.flatten(1)
        count, size = flat.shape
        centre = flat.double().mean(0).float()
        rows = flat - centre
        if count < 2 or not bool(rows.any()):
            raise ValueError(f"expected at least two features that differ, got {count}")
        level = levels(rows.square().mean(0).sqrt(), centre)
        rows = rows / level
        wide = size > count
        gram = (rows @ rows.T if wide else rows.T @ rows) / count
        values, vectors = torch.linalg.eigh(gram)
        kept = values > _NOTHING * values[-1]
        values, vectors = values[kept].flip(0), vectors[:, kept].flip(1)
        directions = rows.T @ vectors / (values * count).sqrt() if wide else vectors
        mean = float(values.sum()) / size
        apart = float(values.square().sum()) - size * mean**2  # squared distance of S from the multiple of I
        noise = (float(rows.square().sum(1).square().mean()) - float(values.square().sum())) / count
        shrunk = 1.0 if apart <= 0 else min(1.0, max(noise, 0.0) / apart)
        scales = ((1 - shrunk) * values + shrunk * mean).rsqrt()
        rest = (shrunk * mean) ** -0.5 if shrunk else 0.0
        return cls(centre, level, directions, scales, rest)

    def __call__(self, features: Tensor) -> Tensor:
        """Features ``(N, ...)`` to ``(N, r + d)``: along the directions, and what they do not span."""
        rows = (features.flatten(1) - self.centre) / self.levels
        along = rows @ self.directions
        left = rows - along @ self.directions.T
        return torch.cat([along * self.scales, left * self.rest], 1)

    def composed(self, weight: Tensor) -> Tensor:
        """What whitening and then ``weight`` ``(r + d, k)`` multiply features, less the centre, by: ``(d, k)``."""
        weight = weight.to(self.directions.dtype)
        along, left = weight[: len(self.scales)] * self.scales[:, None], weight[len(self.scales) :] * self.rest
        return (self.directions @ (along - self.directions.T @ left) + left) / self.levels[:, None]

    def principal(self, features: Tensor, most: int) -> Tensor:
        """Features ``(N, ...)`` along the leading directions, whitened: ``(N, min(r, most))``."""
        return (features.flatten(1) - self.centre) / self.levels @ self.directions[:, :most] * self.scales[:most]
