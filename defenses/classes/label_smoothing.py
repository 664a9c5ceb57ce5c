"""Label smoothing: negative as a defense against class inversion, positive for comparison."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from splitleak.config import Config
from splitleak.defenses.base import Defense, EpochEnd, TrainingStart
from splitleak.models.split import SplitModel

_LARGEST = 65504.0  # maximum of float16


class LabelSmoothingConfig(Config):
    """Smoothing factor and its schedule: epochs without smoothing, a linear ramp, then the full factor."""

    alpha: float = Field(default=-0.05, lt=1, description="negative protects; published: -0.3 to -0.01")
    plain: float = Field(default=0.5, ge=0, le=1, description="share of the epochs without smoothing, at the start")
    ramp: float = Field(default=0.25, ge=0, le=1, description="share of the epochs in which it grows, after those")
    gradient_norm: float | None = Field(
        default=1.0, gt=0, description="gradient clipping norm where alpha is negative; none: no clipping"
    )


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, alpha: float) -> Tensor:
    r"""Cross-entropy to smoothed labels, averaged over the batch; a scalar.

    .. math:: -(1 - \alpha) \log p_y - \frac{\alpha}{K} \sum_k \log p_k

    Args:
        logits: ``(N, K)``.
        labels: ``(N,)``.
        alpha: Smoothing factor, below 1. If negative, the loss is unbounded below: the wrong logits fall without end.
    """
    log_probabilities = logits.float().log_softmax(1)
    return -((1 - alpha) * log_probabilities.gather(1, labels[:, None]).mean() + alpha * log_probabilities.mean())


class LabelSmoothing(Defense):
    r"""Label smoothing by :math:`\alpha`: 0 for ``plain`` of the epochs, then a ramp for ``ramp`` of them, then full.

    .. math:: -(1 - \alpha) \log p_y - \frac{\alpha}{K} \sum_k \log p_k

    Struppek et al., "Be careful what you smooth for: label smoothing can be a privacy shield but also a catalyst for
    model inversion attacks", ICLR 2024 (arXiv:2310.06549). Of E epochs, number e (from 0) of the ramp has
    :math:`\alpha (e + 1 - E/2) / (E/2)`, so that the ramp ends at half and a jump follows, as in published code.
    The loss is unbounded below for a negative :math:`\alpha`: logits grow as long as training lasts. Therefore
    gradients are clipped (deviation), and logits beyond the range of half precision end the training.

    Raises:
        ValueError: ``plain + ramp`` is above 1.
        FloatingPointError: After an epoch: a logit was not finite, or over 65504 in absolute value.
    """

    name = "label-smoothing"
    config_type = LabelSmoothingConfig

    largest: Tensor  # () maximum absolute logit of this epoch so far
    last_largest: Tensor  # () maximum absolute logit of the last whole epoch

    def __init__(self, config: LabelSmoothingConfig) -> None:
        super().__init__(config)
        if config.plain + config.ramp > 1:
            raise ValueError(f"label-smoothing: expected plain + ramp of at most 1, got {config.plain + config.ramp}")
        self.config = config
        self.epochs = 1
        self.register_buffer("largest", torch.tensor(0.0))
        self.register_buffer("last_largest", torch.tensor(0.0))

    @property
    def unused(self) -> frozenset[str]:
        return frozenset({"gradient_norm"} if self.config.alpha >= 0 else ())

    def begin(self, start: TrainingStart) -> None:
        self.epochs = start.epochs

    def alpha_in(self, epoch: int) -> float:
        """The smoothing factor of ``epoch``, counted from 0."""
        plain, full = (share * self.epochs for share in (self.config.plain, self.config.plain + self.config.ramp))
        if epoch >= full:
            return self.config.alpha
        return 0.0 if epoch < plain else self.config.alpha * (epoch + 1 - plain) / (self.epochs - plain)

    def task_loss(self, logits: Tensor, labels: Tensor, epoch: int) -> Tensor:
        torch.maximum(self.largest, logits.detach().float().abs().max(), out=self.largest)
        return smoothed_cross_entropy(logits, labels, self.alpha_in(epoch))

    @property
    def gradient_limit(self) -> float | None:
        return self.config.gradient_norm if self.config.alpha < 0 else None

    def on_epoch(self, end: EpochEnd) -> None:
        largest = float(self.largest)
        if not largest <= _LARGEST:
            raise FloatingPointError(
                f"label-smoothing: expected logits of at most {_LARGEST:.0f} in absolute value, got {largest:.4g} in "
                f"epoch {end.epoch + 1} at alpha {self.alpha_in(end.epoch):g}: take an alpha nearer to 0, or a smaller "
                "gradient_norm"
            )
        self.last_largest.copy_(self.largest)
        self.largest.zero_()

    def findings(self, model: SplitModel) -> dict[str, Any]:
        return {"largest_logit": float(self.last_largest)}
