"""Score vectors of a classifier (one value per class): top-m truncation, logarithms and validation."""

import torch
from torch import Tensor


def truncate(scores: Tensor, m: int) -> Tensor:
    """Top-m truncation: sets all but the ``m`` largest scores of each row to zero, without renormalisation.

    ``(N, K)`` to ``(N, K)``, non-negative. Ties go to the lower index; ``m`` = K is the identity; the operation is
    idempotent. Rows need not sum to one, and a row of zeros is unchanged.

    Yang et al., "Neural network inversion in adversarial setting via background knowledge alignment", CCS 2019:
    their truncation of a prediction vector.

    Raises:
        ValueError: ``m`` is not within 1 to K, or the scores are not ``(N, K)``, finite and non-negative.

    >>> truncate(torch.tensor([[0.6, 0.05, 0.06, 0.2, 0.09]]), 2)
    tensor([[0.6000, 0.0000, 0.0000, 0.2000, 0.0000]])
    """
    check_scores(scores)
    if not 1 <= m <= scores.shape[1]:
        raise ValueError(f"expected to keep 1 to {scores.shape[1]} scores of a row, got {m}")
    kept = scores.sort(dim=1, descending=True, stable=True).indices[:, :m]
    return torch.zeros_like(scores).scatter(1, kept, scores.gather(1, kept))


def log_rescale(scores: Tensor, c: float | Tensor, floor: float = -1000.0) -> Tensor:
    """Scores p as ``log p + c``, at least 0; a score of zero means "unknown" and stays zero.

    If the smallest value of a row would be negative, the row is shifted so that it is 0.

    Yang et al., CCS 2019, equation 12; floor and shift are their code's, with c = 50. Deviation: the code distinguishes
    a score of zero from an unknown one by its position, and gives it ``floor + c``.

    Args:
        scores: ``(N, K)``, finite and non-negative; they need not sum to one.
        c: Added to every logarithm; greater than minus the smallest of them, or that one becomes an "unknown".
        floor: Lower bound of the logarithms.

    Returns:
        ``(N, K)``, at least 0.

    Raises:
        ValueError: The scores fail `check_scores`.

    >>> log_rescale(torch.tensor([[0.6, 0.0, 0.0, 0.2, 0.0]]), 50)
    tensor([[49.4892,  0.0000,  0.0000, 48.3906,  0.0000]])
    """
    raised = kept_logs(scores).clamp_min(floor) + c
    lowest = raised.where(scores > 0, 0).amin(1, keepdim=True).clamp_max(0)
    return (raised - lowest).where(scores > 0, 0)


def kept_logs(scores: Tensor) -> Tensor:
    """The logarithms of scores ``(N, K)``, and 0 for those that are zero.

    Raises:
        ValueError: The scores fail `check_scores`.
    """
    check_scores(scores)
    return scores.where(scores > 0, 1).log()


def check_scores(scores: Tensor) -> None:
    """Checks that scores are a floating-point matrix of finite, non-negative values.

    Raises:
        ValueError: Not ``(N, K)`` with K of at least 1, or a score that is negative or not finite.
    """
    if scores.ndim != 2 or scores.shape[1] < 1 or not scores.is_floating_point():
        raise ValueError(f"expected floating-point scores (N, K), got {scores.dtype} {tuple(scores.shape)}")
    wrong = ~(scores.isfinite() & (scores >= 0))
    if wrong.any():
        raise ValueError(f"expected finite scores of at least zero, got {int(wrong.sum())} others: {scores[wrong][0]}")
