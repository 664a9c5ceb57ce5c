"""Verification: whether two pictures are told to be of the same person or thing, by their features."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

FALSE_MATCH_RATES = (0.01, 0.001)


@dataclass(frozen=True)
class PairRate:
    """The true match rate at a false match rate, None with too few pairs for it, and what it is of.

    ``error`` is the standard error over victims; ``genuine`` and ``impostor`` count pairs.
    """

    rate: float | None
    error: float | None
    genuine: int
    impostor: int


def pair_scores(probes: Tensor, gallery: Tensor) -> Tensor:
    """Cosine similarity ``(N, M)`` float64 of features ``(N, d)`` with others ``(M, d)``; of a zero feature 0."""
    return functional.normalize(probes.double(), dim=1) @ functional.normalize(gallery.double(), dim=1).T


def match_threshold(others: Tensor, false_match_rate: float) -> float | None:
    """The lowest score above which at most a share ``false_match_rate`` of those ``(P,)`` of different people lie.

    None with too few of them for a single one to lie above.
    """
    passing = int(false_match_rate * len(others))
    return float(others.sort(descending=True).values[passing]) if passing else None


def pair_match_rate(
    scores: Tensor, same: Tensor, false_match_rate: float, *, compared: Tensor | None = None
) -> PairRate:
    """The share of pairs of the same person that are accepted where that share of other pairs is.

    The threshold is the lowest at which at most ``false_match_rate`` of the pairs of different people are accepted; a
    pair is accepted above it. Its standard error is a jackknife that leaves out one victim at a time (Efron and Stein,
    "The jackknife estimate of variance", 1981): whose picture is a probe is in the gallery, too, so that no two pairs
    with a victim in common count as independent. At the threshold of all.

    Args:
        scores: ``(N, M)``, higher is more alike; of the same victims in the same order where N is M.
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
    others, pairs = scores[impostor], int(genuine.sum())
    threshold = match_threshold(others, false_match_rate)
    if threshold is None or not pairs:
        return PairRate(None, None, pairs, len(others))
    accepted = (scores > threshold) & genuine
    left = pairs - _of_each(genuine)
    without = ((accepted.sum() - _of_each(accepted)) / left)[(left > 0) & (left < pairs)]
    error = float((len(without) - 1) * without.var(correction=0)) ** 0.5 if len(without) > 1 else None
    return PairRate(float(accepted.sum()) / pairs, error, pairs, len(others))


def _of_each(chosen: Tensor) -> Tensor:
    """How many of the chosen pairs ``(N, M)`` each victim is in ``(N,)``, float64."""
    rows = chosen.sum(1).double()
    return rows + chosen.sum(0) - chosen.diagonal().double() if chosen.shape[0] == chosen.shape[1] else rows
