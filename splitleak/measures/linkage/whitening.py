"""Whitening: features turned and scaled until those of other pictures vary alike in every direction."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

_NOTHING = 1e-6  # of the largest variance: less is rounding


@dataclass(frozen=True)
class Whitening:
    """A linear map of features after which the covariance of those that it was fitted to is nearly the identity.

    ``directions`` ``(d, r)`` are principal, by falling variance; ``scales`` ``(r,)`` and ``rest`` multiply what lies
    along them and what they do not span.
    """

    centre: Tensor
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
        return cls(centre, directions, scales, rest)

    def __call__(self, features: Tensor) -> Tensor:
        """Features ``(N, ...)`` to ``(N, r + d)``: along the directions, and what they do not span."""
        rows = features.flatten(1) - self.centre
        along = rows @ self.directions
        left = rows - along @ self.directions.T
        return torch.cat([along * self.scales, left * self.rest], 1)

    def principal(self, features: Tensor, most: int) -> Tensor:
        """Features ``(N, ...)`` along the leading directions, whitened: ``(N, min(r, most))``."""
        return (features.flatten(1) - self.centre) @ self.directions[:, :most] * self.scales[:most]
