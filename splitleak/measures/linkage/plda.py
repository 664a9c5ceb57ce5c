"""PLDA: how likely two features show one picture, by what of them is the picture's and what the noise's or view's."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from splitleak.measures.linkage.refinding import own_is_least
from splitleak.measures.linkage.whitening import Whitening

_ROUNDING = 1e-12  # of the largest score of a probe: by less do scores differ that are equal
_LEAST = 1e-3  # of a value's own deviation: what less of it varies within a picture counts as so much


@dataclass(frozen=True)
class Plda:
    r"""Gaussian features of pictures, seen again: ``x = m + p + e`` and ``y = n + p + f``.

    p is the picture's, of covariance B; e and f, of covariance W each, are what noise or another view adds. With W
    whitened and B diagonal, the log-likelihood ratio of "one picture" to "two" is, but for terms that are the same for
    all of a gallery,

    .. math:: \sum_i \frac{b_i}{1 + 2 b_i} x_i y_i - \frac{b_i^2}{2 (1 + b_i)(1 + 2 b_i)} y_i^2

    Ioffe, "Probabilistic linear discriminant analysis", ECCV 2006; Prince and Elder, "Probabilistic linear discriminant
    analysis for inferences about identity", ICCV 2007. We estimate W from pairs of a picture's features, shrunk as in
    `Whitening` once each value has the same deviation within a picture, and B from the means of these pairs.

    ``projection`` ``(d, k)`` leads to the directions in which pictures differ, in units in which W is the identity;
    ``strengths`` ``(k,)`` are the b, and ``centres`` the means of ``first`` and of ``again`` there.
    """

    projection: Tensor
    strengths: Tensor
    centres: tuple[Tensor, Tensor]

    @classmethod
    def fit(cls, first: Tensor, again: Tensor) -> Self:
        """The model of features ``(M, ...)`` of M pictures as they crossed, and of the same pictures seen ``again``.

        Raises:
            ValueError: There are fewer than two pictures, or others again.
        """
        if first.shape != again.shape or len(first) < 2:  # a deviation needs two
            got = f"{tuple(first.shape)} and {tuple(again.shape)}"
            raise ValueError(f"expected features of at least two pictures, and of the same again, got {got}")
        one, other = first.flatten(1).double(), again.flatten(1).double()
        means = one.mean(0), other.mean(0)
        apart = (one - other) / 2**0.5
        own = ((one.var(0) + other.var(0)) / 2).sqrt()
        within = torch.maximum(apart.std(0), _LEAST * own)
        scales = torch.where(within > 0, 1 / within, 0).float()  # what never varies tells nothing
        left = apart.float() * scales
        whitening = Whitening.fit(left) if bool((left != left[:1]).any()) else None
        middles = ((one - means[0] + other - means[1]) / 2).float() * scales
        middles = (middles if whitening is None else whitening(middles + whitening.centre)).double()
        wide, spread = middles.shape[1] > len(middles), len(middles) - 1
        values, vectors = torch.linalg.eigh((middles @ middles.T if wide else middles.T @ middles) / spread)
        kept = values > 0.5  # half of W, which the mean of two has, in units of W
        values, vectors = values[kept], vectors[:, kept]
        directions = middles.T @ vectors / (values * spread).sqrt() if wide else vectors
        projection = scales[:, None] * (directions if whitening is None else whitening.composed(directions))
        projection = projection.double()
        return cls(projection, values - 0.5, (means[0] @ projection, means[1] @ projection))

    def scores(self, probes: Tensor, gallery: Tensor) -> Tensor:
        """How likely each probe ``(N, ...)`` shows what each of the gallery ``(M, ...)`` shows, the more the higher.

        ``(N, M)``: log-likelihood ratios but for what is the same along a row. Probes are like ``again``, the gallery
        like ``first``.
        """
        before, seen = self._along(gallery) - self.centres[0], self._along(probes) - self.centres[1]
        strengths = self.strengths
        crossed = strengths / (1 + 2 * strengths)
        alone = crossed * strengths / (2 * (1 + strengths))
        return (seen * crossed) @ before.T - before.square() @ alone

    def vectors(self, features: Tensor) -> Tensor:
        """Features ``(N, ...)`` to what is expected of them to be the picture's ``(N, k)``, for features of any time.

        Given a feature, p is Gaussian about it; in units of the deviations within a picture, along each direction.
        """
        centre = (self.centres[0] + self.centres[1]) / 2
        return (self._along(features) - centre) * (self.strengths / (1 + self.strengths))

    def _along(self, features: Tensor) -> Tensor:
        return features.flatten(1).double() @ self.projection


def likeliest(scores: Tensor) -> Tensor:
    """How likely each of N is found again by `Plda.scores` ``(N, N)``, as by `refinding.found_again`: ``(N,)``."""
    return own_is_least(-scores, _ROUNDING * scores.abs().amax(1, keepdim=True))
