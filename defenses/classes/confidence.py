"""Confidence adaptation, the CA of CALoR: fine-tunes with a loss whose minimum lies at a confidence below 1."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from splitleak.config import Config
from splitleak.defenses.base import Defense, EpochEnd
from splitleak.training.modules import HostState


class ConfidenceAdaptationConfig(Config):
    """The loss of the second stage, and when it begins."""

    a: float = Field(default=1.0, gt=0, description="factor of the loss")
    b: float = Field(default=8.0, gt=0, description="exponent; confidence converges to exp(-1 / b)")
    start: float = Field(default=0.75, ge=0, lt=1, description="share of the epochs before the second stage")
    wait_for: float = Field(
        default=0.7, ge=0, lt=1, description="mean training confidence that the second stage requires; 0: none"
    )


def confidence_loss(logits: Tensor, labels: Tensor, a: float = 1.0, b: float = 8.0) -> Tensor:
    r"""The mean of :math:`a\,p_y^b \log p_y`, a scalar.

    Its minimum, :math:`-a / (b e)`, is where every :math:`p_y` is :math:`e^{-1/b}`: 0.8825 at b = 8.

    Args:
        logits: ``(N, K)``.
        labels: ``(N,)``.
        a: Factor, above 0.
        b: Exponent, above 0.
    """
    log_probabilities = logits.float().log_softmax(1).gather(1, labels[:, None])
    return a * ((b * log_probabilities).exp() * log_probabilities).mean()


class ConfidenceAdaptation(HostState, Defense):
    r"""Trains with cross-entropy, then, for the last epochs, with a loss whose minimum lies at a confidence below 1.

    .. math:: a\,p_y^b \log p_y, \qquad \text{minimal at } p_y = e^{-1/b}

    Yu et al., "CALoR: towards comprehensive model inversion defense", 2024 (arXiv:2410.05814), where it is combined
    with `low-rank`. The gradient of the loss nearly vanishes where p is small (it is steepest at 0.765), so it cannot
    train from scratch, and does harm where confidence is still low: the second stage begins when both its epoch and a
    mean confidence are reached, and lasts to the end. If the confidence is never reached, the target is trained by
    cross-entropy alone, and ``adapted_epochs`` in the findings is 0.
    Deviations: the paper prints neither the length nor the learning rate of the second stage; ours is the last quarter,
    where the default schedule's learning rate is a seventh of its maximum and less.
    """

    name = "confidence-adaptation"
    config_type = ConfidenceAdaptationConfig
    on_host = ("adapting",)

    seen: Tensor  # (2,) float64: sum of the confidences of this epoch's images, and their number
    adapting: Tensor  # () bool: whether the second stage has begun
    adapted: Tensor  # () int64: epochs of the second stage
    confidence: Tensor  # () float64: mean confidence of the last whole epoch

    def __init__(self, config: ConfidenceAdaptationConfig) -> None:
        super().__init__(config)
        self.config = config
        self.register_buffer("seen", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("adapting", torch.tensor(False, device="cpu"))
        self.register_buffer("adapted", torch.tensor(0))
        self.register_buffer("confidence", torch.tensor(0.0, dtype=torch.float64))

    def task_loss(self, logits: Tensor, labels: Tensor, epoch: int) -> Tensor | None:
        with torch.no_grad():
            confidences = logits.float().softmax(1).gather(1, labels[:, None])
            self.seen += torch.stack([confidences.double().sum(), self.seen.new_full((), len(confidences))])
        return confidence_loss(logits, labels, self.config.a, self.config.b) if self.adapting else None

    def on_epoch(self, end: EpochEnd) -> None:
        total, count = self.seen
        self.confidence.copy_(total / count.clamp(min=1))
        self.seen.zero_()
        self.adapted += self.adapting
        due = end.epoch + 1 >= round(self.config.start * end.epochs)
        self.adapting |= due and bool(self.confidence >= self.config.wait_for)

    def findings(self, model: object) -> dict[str, Any]:
        return {"adapted_epochs": int(self.adapted), "train_confidence": float(self.confidence)}
