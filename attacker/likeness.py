"""How near two features are, and how near those of different pictures come to each other."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_COMPARED = 2048  # values of a feature, evenly chosen
_REFERENCE = 500  # pictures that each is held against
_RARE = 0.005  # share of different pictures that are as near
_LEAST = 100  # pictures, of which that is half a picture


def compared(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """The values by which features ``(N, *cut)`` are compared, ``(N, d)``; the distance of any two is a number."""
    rows = features.reshape(len(features), -1)
    places = np.linspace(0, rows.shape[1] - 1, min(rows.shape[1], _COMPARED)).astype(np.int64)
    return np.nan_to_num(rows[:, places]).astype(np.float64)


def nearest_apart(features: Tensor) -> float | None:
    """The distance to its nearest other that but one in 200 pictures exceeds: who is nearer is a picture seen before.

    Args:
        features: ``(M, *cut)`` of different pictures, as they cross the wire, of which 1,000 are used.

    Returns:
        The distance; None of fewer than 100 pictures.
    """
    rows = torch.from_numpy(compared(features[: 2 * _REFERENCE].float().cpu().numpy()))
    if len(rows) < _LEAST:
        return None
    half = len(rows) // 2
    return float(torch.cdist(rows[:half], rows[half:]).amin(1).quantile(_RARE))
