"""Attack accuracy: how often an evaluator takes a rebuilt image for its class, and what its several "±" are."""

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor


def top_k_hits(scores: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether each label is among the ``k`` highest of its row; scores ``(N, K)``, labels ``(N,)``, returns ``(N,)``.

    Of equal scores those of the lower indices count as higher, as for ``argmax``.

    Raises:
        ValueError: ``k`` is not within 1 to K - 1 (among all K every label is a hit), or shapes do not fit.

    >>> top_k_hits(torch.tensor([[0.1, 0.7, 0.2], [0.1, 0.7, 0.2]]), torch.tensor([2, 0]), 2)
    tensor([ True, False])
    """
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(f"expected scores (N, K) and N labels, got {tuple(scores.shape)} and {tuple(labels.shape)}")
    if not 1 <= k < scores.shape[1]:
        raise ValueError(f"expected k from 1 to {scores.shape[1] - 1} with {scores.shape[1]} classes, got {k}")
    own = scores.gather(1, labels[:, None])
    earlier = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    ahead = (scores > own) | ((scores == own) & earlier)
    return ahead.sum(1) < k


@dataclass(frozen=True)
class AttackAccuracy:
    """The share of hits, and the deviations that are published as its "±"; None where there is one of what they vary.

    Deviations divide by one less than the number. Those within targets are root mean squares over targets.
    """

    mean: float
    images: int  # in all
    standard_error_images: float | None  # of one target's mean, if its images were drawn independently
    std_trials: float | None  # between attack seeds on one target
    std_targets: float | None  # between means of retrained targets
    std_image_index: float | None  # between the j-th images of all classes, as toolboxes print it

    def document(self) -> dict[str, float | int | None]:
        """As JSON."""
        return asdict(self)


def attack_accuracy(hits: Tensor) -> AttackAccuracy:
    """The figures of hits ``(targets, trials, classes, images)``: retrained targets, attack seeds on each, and so on.

    Raises:
        ValueError: Another number of dimensions, or no hit to count.
    """
    if hits.ndim != 4 or not hits.numel():
        raise ValueError(f"expected hits (targets, trials, classes, images), at least one, got {tuple(hits.shape)}")
    shares = hits.double()
    of_target = shares.flatten(1)
    counted = of_target.shape[1]
    return AttackAccuracy(
        mean=float(shares.mean()),
        images=hits.numel(),
        standard_error_images=_rooted(of_target.var(1) / counted) if counted > 1 else None,
        std_trials=_rooted(shares.mean((2, 3)).var(1)) if hits.shape[1] > 1 else None,
        std_targets=float(of_target.mean(1).std()) if len(hits) > 1 else None,
        std_image_index=float(shares.mean((0, 1, 2)).std()) if hits.shape[3] > 1 else None,
    )


def _rooted(variances: Tensor) -> float:
    return math.sqrt(float(variances.mean()))
