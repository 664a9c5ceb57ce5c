"""How near two features are, and how near those of different pictures come to each other."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_COMPARED = 2048  # values of a feature, evenly chosen
_REFERENCE = 500  # pictures that each is held against
_RARE = 0.0025  # share of different pictures that are as near, by each of two measures
_LEAST = 100  # pictures that tell anything of it
_MANY = 100  # other pictures, among which the next is not far by chance


def compared(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """The values by which features ``(N, *cut)`` are compared, ``(N, d)``; the distance of any two is a number."""
    rows = features.reshape(len(features), -1)
    places = np.linspace(0, rows.shape[1] - 1, min(rows.shape[1], _COMPARED)).astype(np.int64)
    return np.nan_to_num(rows[:, places]).astype(np.float64)


@dataclass(frozen=True)
class Apart:
    """How near the features of different pictures come to each other: one in 400 is as near as each of both says.

    ``distance`` is that to the nearest of others, ``ratio`` that distance in proportion to the one to the next.
    """

    distance: float
    ratio: float

    @classmethod
    def of(cls, features: Tensor) -> Self | None:
        """That of features ``(M, *cut)`` of different pictures as they cross the wire, of which 1,000 are used.

        Returns:
            None of fewer than 100 pictures.
        """
        rows = torch.from_numpy(compared(features[: 2 * _REFERENCE].float().cpu().numpy()))
        if len(rows) < _LEAST:
            return None
        half = len(rows) // 2
        nearest, following = torch.cdist(rows[:half], rows[half:]).topk(2, largest=False).values.T
        ratios = nearest / following.clamp_min(torch.finfo(following.dtype).tiny)
        return cls(float(nearest.quantile(_RARE)), float(ratios.quantile(_RARE)))

    def again(self, nearest: float, others: NDArray[np.float64]) -> bool:
        """Whether a feature is of a picture seen before.

        Args:
            nearest: Its distance to the nearest of those before.
            others: ``(N,)``, its distances to those of other pictures; few tell nothing of their ratio.
        """
        near = len(others) >= _MANY and nearest <= self.ratio * float(others.min())
        return near or nearest <= self.distance
