"""Biometric identification in a feature space: closed-set rank, and true match rate at a false match rate."""

import torch
from torch import Tensor
from torch.nn import functional

from splitleak.measures.linkage.verification import match_threshold


def match_scores(probes: Tensor, gallery: Tensor, people: Tensor) -> Tensor:
    """Match scores of probes against P people: the highest cosine similarity with an image of the person.

    The cosine of a zero feature is 0.

    Args:
        probes: Features ``(N, d)``.
        gallery: Features ``(M, d)``.
        people: Identity of each gallery image ``(M,)``, from 0 to P - 1.

    Returns:
        ``(N, P)`` float64 in [-1, 1].

    Raises:
        ValueError: A person has no image, or shapes do not fit.

    >>> gallery = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    >>> match_scores(torch.tensor([[3.0, 4.0]]), gallery, torch.tensor([0, 0, 1]))
    tensor([[0.8000, 0.8000]], dtype=torch.float64)
    """
    if (
        probes.ndim != 2
        or gallery.ndim != 2
        or probes.shape[1] != gallery.shape[1]
        or people.shape != gallery.shape[:1]
    ):
        got = f"{tuple(probes.shape)}, {tuple(gallery.shape)} and {tuple(people.shape)}"
        raise ValueError(f"expected features (N, d) and (M, d), and M people, got {got}")
    counts = torch.bincount(people)
    if not len(counts) or not bool(counts.all()):
        raise ValueError(f"expected images of each of {len(counts)} people, got {counts.tolist()}")
    cosines = functional.normalize(probes.double(), dim=1) @ functional.normalize(gallery.double(), dim=1).T
    none = cosines.new_full((len(probes), len(counts)), -torch.inf)
    return none.scatter_reduce(1, people.expand(len(probes), -1), cosines, "amax")


def identification_ranks(scores: Tensor, own: Tensor) -> Tensor:
    """Closed-set identification: the rank ``(N,)``, from 1, of each probe's own person.

    The share of ranks up to k is the rank-k identification rate of a closed set, where everybody is in the gallery: k/P
    by chance. Rates for all k are the cumulative match characteristic (ISO/IEC 19795-1). Ties are resolved in favour of
    other people, so that a network that sees no difference identifies nobody.

    Args:
        scores: Match scores ``(N, P)``; higher is more similar.
        own: Identity of each probe ``(N,)``.

    >>> identification_ranks(torch.tensor([[0.9, 0.2, 0.5], [0.3, 0.3, 0.3]]), torch.tensor([2, 0]))
    tensor([2, 3])
    """
    mine = scores.gather(1, own[:, None])
    return (scores >= mine).sum(1)


def true_match_rate(scores: Tensor, own: Tensor, false_match_rate: float) -> float | None:
    """True match rate (TMR) at a false match rate (FMR): verification of each probe against every person.

    One threshold for all probes: the lowest at which the share of accepted impostor comparisons is at most
    ``false_match_rate``. A comparison is accepted if its score is above the threshold.

    Args:
        scores: Match scores ``(N, P)``; higher is more similar.
        own: Identity of each probe ``(N,)``.
        false_match_rate: In (0, 1).

    Returns:
        The share of accepted genuine comparisons, or None with too few impostor comparisons for a single acceptance.

    >>> scores = torch.tensor([[0.9, 0.1, 0.2], [0.6, 0.5, 0.3]])
    >>> true_match_rate(scores, torch.tensor([0, 1]), 0.25), true_match_rate(scores, torch.tensor([0, 1]), 0.2)
    (1.0, None)
    """
    is_own = torch.zeros_like(scores, dtype=torch.bool).scatter(1, own[:, None], value=True)
    threshold = match_threshold(scores[~is_own], false_match_rate)
    return None if threshold is None else float((scores[is_own] > threshold).double().mean())
