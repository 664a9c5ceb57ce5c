"""Joint inversion, which protects nobody: a malicious developer's classifier, whose predictions carry the image."""

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
    """How much the classifier gives up for the inverter, and the inverter's network and training."""

    weight: float = Field(
        default=100.0, ge=0, description="of the mean squared error of a pixel; published: the sum over 1024, so 1024"
    )
    m: int | None = Field(default=None, ge=1, description="how many scores the inverter sees, the highest; none: all")
    c: float = Field(default=20.0, description="start of the learned constant that is added to log-probabilities")
    width: float = Field(default=0.25, gt=0, description="factor on the inverter's layers; 1 is the published network")
    learning_rate: float = Field(default=3e-3, gt=0, description="of the inverter's Adam; constant")


class JointInversion(Defense):
    r"""The opposite of a defense: classifier F and inverter G are trained together, so that scores rebuild the image.

    .. math:: \mathrm{CE}(y, F(x)) + \lambda\,\mathrm{MSE}\bigl(G(\mathrm{trunc}_m(\log p + c)), x\bigr),
              \qquad p = \mathrm{softmax}(F(x))

    Yang et al., "Neural network inversion in adversarial setting via background knowledge alignment", CCS 2019
    (arXiv:1902.08552), third scenario. All but the m highest scores are zero, which stands for "unknown"; gradients
    pass through those that are kept. Logs are taken of the softmax itself, so none is of zero. The target x is the
    image as augmented in training. It acts on no wire: the artifact is an ordinary classifier, and G is not in it
    (its developer keeps G; an attacker without it trains one of its own).

    G and c descend the same loss as the classifier, in the same step, but by an Adam of their own: its steps do not
    depend on the scale of the gradient, so that a small weight weakens the classifier's part alone, and no weight
    decay meant for the classifier acts on them. With G's gradient from the loop's own backward pass, its step is taken
    when the next one begins, or the epoch ends.

    Deviations: the paper prints no weight (1 on a sum over pixels), optimiser or start of c for joint training; Adam
    is that of its code, (0.5, 0.999) with AMSGrad, at a higher rate; rows with a negative score are not shifted.
    Weight 0 is plain training, without any G. Alone in a stack, the history's penalty over the weight is G's error.
    Shapes: images ``(N, C, S, S)`` in [0, 1], S 4 times a power of two; logits ``(N, classes)``.

    Raises:
        ValueError: ``m`` is more than the classes, or the images do not fit `PredictionInverter`.
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
        own = self.parameters()
        self.optimizer = Adam(own, lr=self.config.learning_rate, betas=(0.5, 0.999), amsgrad=True)

    def task_parameters(self) -> Iterator[nn.Parameter]:
        return iter(())

    def optimizers(self) -> dict[str, Optimizer]:
        return {"inverter": self.optimizer}

    def rebuild(self, logits: Tensor) -> Tensor:
        """What G makes of logits ``(N, classes)``: images ``(N, C, S, S)`` in (0, 1)."""
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
        return self.config.weight * functional.mse_loss(self.rebuild(step.logits), step.images)

    def on_epoch(self, end: EpochEnd) -> None:
        self._descend()

    def _descend(self) -> None:
        """Takes the step that the last backward pass left gradients for, if there was one."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
