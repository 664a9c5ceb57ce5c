"""Re-identification: whom of a gallery of people a rebuilt picture leads to, in the feature space of some network."""

import torch
from torch import Tensor
from torch.nn import functional


def match_scores(probes: Tensor, gallery: Tensor, people: Tensor) -> Tensor:
    """How like each of P people every probe is ``(N, P)`` float64: the cosine with the likest of a person's images.

    Features of probes are ``(N, d)``, of the gallery ``(M, d)``; ``people`` ``(M,)`` says who an image of it shows,
    from 0 to P - 1. A feature of length 0 is like nobody: its cosine is 0.

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
    """At which place of the list, from 1, a probe's own person is ``(N,)``; scores ``(N, P)``, own ``(N,)``.

    The share of ranks up to k is the rank-k identification rate of a closed set, where everybody is in the gallery: k/P
    by chance. Rates for all k are the cumulative match characteristic (ISO/IEC 19795-1). Of equal scores those of other
    people come first, so that a network that sees no difference identifies nobody.

    >>> identification_ranks(torch.tensor([[0.9, 0.2, 0.5], [0.3, 0.3, 0.3]]), torch.tensor([2, 0]))
    tensor([2, 3])
    """
    mine = scores.gather(1, own[:, None])
    return (scores >= mine).sum(1)


def true_match_rate(scores: Tensor, own: Tensor, false_match_rate: float) -> float | None:
    """How many probes are accepted as their own person, where others' are as often as ``false_match_rate``.

    Scores are ``(N, P)``, own ``(N,)``. Every probe is compared with every person; accepted is what is above the least
    threshold that lets no more than this share of comparisons with other people through, one threshold for all. None
    where these comparisons are too few for a single one to pass.

    >>> scores = torch.tensor([[0.9, 0.1, 0.2], [0.6, 0.5, 0.3]])
    >>> true_match_rate(scores, torch.tensor([0, 1]), 0.25), true_match_rate(scores, torch.tensor([0, 1]), 0.2)
    (1.0, None)
    """
    is_own = torch.zeros_like(scores, dtype=torch.bool).scatter(1, own[:, None], value=True)
    others = scores[~is_own].sort(descending=True).values
    passing = int(false_match_rate * len(others))
    if not passing:
        return None
    return float((scores[is_own] > others[passing]).double().mean())
