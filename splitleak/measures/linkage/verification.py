"""Verification: whether two pictures are told to be of the same person or thing, by their features."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

FALSE_MATCH_RATES = (0.01, 0.001)


@dataclass(frozen=True)
class PairRate:
    """The true match rate at a false match rate, None with too few pairs for it, and what it is of.

    ``error`` is the standard error over probes that have a match; ``genuine`` and ``impostor`` count pairs.
    """

    rate: float | None
    error: float | None
    genuine: int
    impostor: int


def pair_scores(probes: Tensor, gallery: Tensor) -> Tensor:
    """Cosine similarity ``(N, M)`` float64 of features ``(N, d)`` with others ``(M, d)``; of a zero feature 0."""
    return functional.normalize(probes.double(), dim=1) @ functional.normalize(gallery.double(), dim=1).T


def pair_match_rate(
    scores: Tensor, same: Tensor, false_match_rate: float, *, compared: Tensor | None = None
) -> PairRate:
    """The share of pairs of the same person that are accepted where that share of other pairs is.

    The threshold is the lowest at which at most ``false_match_rate`` of the pairs of different people are accepted; a
    pair is accepted above it.

    Args:
        scores: ``(N, M)``, higher is more alike.
        same: ``(N, M)`` bool, whether a pair is of one person.
        false_match_rate: In (0, 1).
        compared: ``(N, M)`` bool, the pairs that count; default: all.

    >>> scores = torch.tensor([[0.9, 0.1, 0.2, 0.3], [0.6, 0.5, 0.3, 0.0]])
    >>> same = torch.tensor([[True, False, False, False], [False, True, False, False]])
    >>> pair_match_rate(scores, same, 0.2).rate, pair_match_rate(scores, same, 0.1).rate
    (1.0, None)
    """
    compared = torch.ones_like(same) if compared is None else compared
    genuine, impostor = same & compared, ~same & compared
    others = scores[impostor].sort(descending=True).values
    passing, pairs = int(false_match_rate * len(others)), int(genuine.sum())
    if not passing or not pairs:
        return PairRate(None, None, pairs, len(others))
    accepted = (scores > others[passing]) & genuine
    probes = genuine.any(1)
    shares = accepted[probes].sum(1).double() / genuine[probes].sum(1)
    error = float(shares.std() / len(shares) ** 0.5) if len(shares) > 1 else None
    return PairRate(float(accepted.sum()) / pairs, error, pairs, len(others))
