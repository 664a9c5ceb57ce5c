"""Label smoothing, negative against inversion, positive for comparison."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from splitleak.config import Config
from splitleak.defenses.base import Defense, EpochEnd, Start
from splitleak.models.split import SplitModel

_LARGEST = 65504.0  # that half precision holds


class LabelSmoothingConfig(Config):
    """How much, and when: plain epochs, then a ramp, then all of it."""

    alpha: float = Field(default=-0.05, lt=1, description="negative protects; published: -0.3 to -0.01")
    plain: float = Field(default=0.5, ge=0, le=1, description="share of the epochs without any, at the start")
    ramp: float = Field(default=0.25, ge=0, le=1, description="share of the epochs in which it grows, after those")
    gradient_norm: float | None = Field(
        default=1.0, gt=0, description="length that gradients are cut to, alpha being negative; none: not cut"
    )


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, alpha: float) -> Tensor:
    r"""Cross-entropy to smoothed labels, averaged over logits ``(N, K)`` with labels ``(N,)``; a scalar.

    .. math:: -(1 - \alpha) \log p_y - \frac{\alpha}{K} \sum_k \log p_k

    :math:`\alpha` has either sign. For a negative one there is no least value: the wrong logits fall without end.
    """
    logs = logits.float().log_softmax(1)
    return -((1 - alpha) * logs.gather(1, labels[:, None]).mean() + alpha * logs.mean())


class LabelSmoothing(Defense):
    r"""Smooths labels by :math:`\alpha`, which after ``plain`` of the epochs grows for ``ramp`` of them, then jumps.

    .. math:: -(1 - \alpha) \log p_y - \frac{\alpha}{K} \sum_k \log p_k

    Struppek et al., "Be careful what you smooth for: label smoothing can be a privacy shield but also a catalyst for
    model inversion attacks", ICLR 2024 (arXiv:2310.06549). Of E epochs, number e (from 0) of the ramp has
    :math:`\alpha (e + 1 - E/2) / (E/2)`, so that the ramp ends at half and a jump follows, as in published code.
    The loss has no least value for a negative :math:`\alpha`: logits grow as long as training lasts. Gradients are
    cut for that reason, which is ours, and logits that half precision cannot hold end the training.

    Raises:
        ValueError: ``plain`` and ``ramp`` are more than the whole.
        FloatingPointError: After an epoch: a logit was not finite, or over 65504.
    """

    name = "label-smoothing"
    config_type = LabelSmoothingConfig

    largest: Tensor  # () of this epoch's logits so far, in absolute value
    last_largest: Tensor  # () of the last whole epoch's

    def __init__(self, config: LabelSmoothingConfig) -> None:
        super().__init__(config)
        if config.plain + config.ramp > 1:
            raise ValueError(f"label-smoothing: expected plain + ramp of at most 1, got {config.plain + config.ramp}")
        self.config = config
        self.epochs = 1
        self.register_buffer("largest", torch.tensor(0.0))
        self.register_buffer("last_largest", torch.tensor(0.0))

    def begin(self, start: Start) -> None:
        self.epochs = start.epochs

    def alpha_in(self, epoch: int) -> float:
        """What it is in ``epoch``, from 0."""
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
                f"epoch {end.epoch + 1} at alpha {self.alpha_in(end.epoch):g}: take an alpha nearer to 0, or shorter "
                "gradients"
            )
        self.last_largest.copy_(self.largest)
        self.largest.zero_()

    def findings(self, model: SplitModel) -> dict[str, Any]:
        return {"largest_logit": float(self.last_largest)}
