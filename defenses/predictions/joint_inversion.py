"""Joint inversion, not a defense: a malicious developer trains classifier and inverter jointly, so scores leak more."""

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, Optimizer

from splitleak.config import Config
from splitleak.defenses.base import Defense, EpochEnd, Step
from splitleak.models.inverter import PredictionInverter
from splitleak.models.split import SplitModel
from splitleak.training.precision import mixed_precision


class JointInversionConfig(Config):
    """Weight of the inversion loss, and the inverter's network and training."""

    weight: float = Field(
        default=100.0, ge=0, description="of the MSE per pixel; published: of the sum over 1024 pixels, so 1024"
    )
    m: int | None = Field(default=None, ge=1, description="top-m scores that the inverter gets; none: all")
    c: float = Field(default=20.0, description="initial value of the learned constant added to log-probabilities")
    width: float = Field(default=0.25, gt=0, description="factor on the inverter's layers; 1 is the published network")
    learning_rate: float = Field(default=3e-3, gt=0, description="of the inverter's Adam; constant")


class JointInversion(Defense):
    r"""The opposite of a defense: classifier F and inverter G are trained jointly to reconstruct images from scores.

    .. math:: \mathrm{CE}(y, F(x)) + \lambda\,\mathrm{MSE}\bigl(G(\mathrm{trunc}_m(\log p + c)), x\bigr),
              \qquad p = \mathrm{softmax}(F(x))

    Yang et al., "Neural network inversion in adversarial setting via background knowledge alignment", CCS 2019
    (arXiv:1902.08552), third scenario. All but the top m scores are set to zero, which means "unknown"; gradients pass
    through the others. Logarithms are those of a log-softmax, so they are finite. The target x is the augmented
    training image. `forward` is the identity: the artifact is an ordinary classifier without G (its developer keeps G;
    an attacker without it trains one of its own).

    G and c minimise the same loss as the classifier, in the same step, but with an Adam of their own: its steps do not
    depend on the scale of the gradient, so that a small weight reduces the effect on the classifier alone, and the
    classifier's weight decay does not apply to them. G's gradient comes from the training loop's backward pass; its
    optimiser step is taken when the next training step begins, or the epoch ends.

    Deviations: the paper prints no weight (1 on a sum over pixels), optimiser or initial c for joint training; Adam
    is that of its code, (0.5, 0.999) with AMSGrad, at a higher rate; rows with a negative score are not shifted.
    Weight 0 is plain training, without G. Alone in a stack, the history's penalty divided by the weight is G's MSE.
    Shapes: images ``(N, C, S, S)`` in [0, 1], S 4 times a power of two; logits ``(N, classes)``.

    Raises:
        ValueError: ``m`` is above the number of classes.
    """

    name = "joint-inversion"
    config_type = JointInversionConfig

    def __init__(self, config: JointInversionConfig) -> None:
        super().__init__(config)
        self.config = config

    def prepare(self, model: SplitModel, classes: int) -> None:
        if self.config.m is not None and self.config.m > classes:
            raise ValueError(f"{self.name}: expected m of at most {classes} classes, got {self.config.m}")
        self.inverter = PredictionInverter(classes, model.image_shape, self.config.width)
        self.c = nn.Parameter(torch.tensor(self.config.c))
        parameters = self.parameters()
        self.optimizer = Adam(parameters, lr=self.config.learning_rate, betas=(0.5, 0.999), amsgrad=True)

    def task_parameters(self) -> Iterator[nn.Parameter]:
        return iter(())

    def optimizers(self) -> dict[str, Optimizer]:
        return {"inverter": self.optimizer}

    def reconstruct(self, logits: Tensor) -> Tensor:
        """G's reconstructions ``(N, C, S, S)`` in (0, 1) from logits ``(N, classes)``."""
        scores = logits.float().log_softmax(1) + self.c
        if self.config.m is not None:
            kept = scores.topk(self.config.m, 1).indices
            scores = torch.zeros_like(scores).scatter(1, kept, scores.gather(1, kept))
        with mixed_precision(scores.device):
            images: Tensor = self.inverter(scores)
        return images.float()

    def penalty(self, step: Step) -> Tensor | None:
        if self.config.weight == 0:
            return None
        self._descend()
        return self.config.weight * functional.mse_loss(self.reconstruct(step.logits), step.images)

    def on_epoch(self, end: EpochEnd) -> None:
        self._descend()

    def _descend(self) -> None:
        """Takes the optimiser step for the gradients of the last backward pass, if there are any."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
