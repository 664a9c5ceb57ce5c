"""Attack accuracy (top-1, top-5): the share of reconstructions that an evaluator assigns to their target class."""

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor


def top_k_hits(scores: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether each label is among the top ``k`` scores of its row; ties go to the lower index, as for ``argmax``.

    Args:
        scores: ``(N, K)``, in any unit.
        labels: ``(N,)``.
        k: From 1 to K - 1.

    Returns:
        ``(N,)`` bool.

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
    """Attack accuracy in [0, 1], and the deviations that are published as its "±"; None for a single sample.

    Standard deviations are unbiased. Those within targets are root mean squares over targets.
    """

    mean: float
    images: int  # over all targets, trials and classes
    standard_error_images: float | None  # of one target's mean, if its images were independent
    std_trials: float | None  # between attack seeds on one target
    std_targets: float | None  # between the means of retrained targets
    std_image_index: float | None  # between the j-th images of all classes, as toolboxes print it

    def document(self) -> dict[str, float | int | None]:
        """As JSON."""
        return asdict(self)


def attack_accuracy(hits: Tensor) -> AttackAccuracy:
    """The attack accuracy of hits ``(targets, trials, classes, images)``.

    Targets are retrained models, trials the attack seeds on each target.

    Raises:
        ValueError: Another number of dimensions, or no element.
    """
    if hits.ndim != 4 or not hits.numel():
        raise ValueError(f"expected hits (targets, trials, classes, images), at least one, got {tuple(hits.shape)}")
    accuracies = hits.double()
    of_target = accuracies.flatten(1)
    images_per_target = of_target.shape[1]
    return AttackAccuracy(
        mean=float(accuracies.mean()),
        images=hits.numel(),
        standard_error_images=_rooted(of_target.var(1) / images_per_target) if images_per_target > 1 else None,
        std_trials=_rooted(accuracies.mean((2, 3)).var(1)) if hits.shape[1] > 1 else None,
        std_targets=float(of_target.mean(1).std()) if len(hits) > 1 else None,
        std_image_index=float(accuracies.mean((0, 1, 2)).std()) if hits.shape[3] > 1 else None,
    )


def _rooted(variances: Tensor) -> float:
    return math.sqrt(float(variances.mean()))
