"""The game some defenses play: inside the training, an adversary learns to rebuild the images from the features."""

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, Optimizer

from splitleak.config import Config
from splitleak.defenses.base import Defense, Step
from splitleak.measures.ssim import ssim_zero_padded
from splitleak.models.architecture import xavier_uniform
from splitleak.models.decoder import ResNormDecoder
from splitleak.models.split import SplitModel
from splitleak.training.precision import mixed_precision


class AdversaryConfig(Config):
    """Strength of the game, and the adversary's network and training."""

    weight: float = Field(default=0.3, ge=0, description="weight of the penalty")
    measure: Literal["ssim", "mse"] = Field(default="ssim", description="what the game is about")
    ssim_threshold: float = Field(default=0.5, ge=-1, le=1, description="ssim: similarity that costs nothing")
    inner_steps: int = Field(default=1, ge=1, description="steps of the adversary for each step of the target")
    learning_rate: float = Field(default=1e-3, gt=0, description="of the adversary's Adam; constant")
    blocks: int = Field(default=4, ge=0, description="residual blocks of the adversary")
    channels: int = Field(default=64, ge=1, description="width of the adversary")


class AdversarialDefense(Defense):
    r"""A defense that trains a surrogate D of the attacker's decoder, and penalises the target for D's success.

    At every training step D takes ``inner_steps`` Adam steps towards the images x from what it sees, z, detached; then,
    with D held still and in eval mode, the target's loss gains

    .. math:: \lambda\,\max(0, \mathrm{SSIM}(D(z), x) - t)

    (``measure = "mse"``: :math:`-\lambda\,\mathrm{MSE}(D(z), x)`). SSIM is the zero-padded form of the published
    tables. D never leaves the training: `forward` does nothing, so no half of an artifact holds it.

    As Li et al., "ResSFL", CVPR 2022, play it, with its ``res_normN4C64``, Xavier-uniform. Deviations from their code:
    D learns from the features of the target's own pass (theirs encodes the batch again, in eval mode); no gradient of
    the penalty is computed for D's weights, which theirs discards, and none at all where the penalty is 0; D's rate
    is constant (theirs falls with the target's); D is not trained beforehand (theirs is, for 30 epochs, on test
    images).
    Shapes: images ``(N, C, H, W)`` in [0, 1], at least 11 pixels a side for SSIM; features ``(N, c, h, w)``.

    Raises:
        ValueError: The features are not images' sides halved some times, or change their shape after `prepare`.
    """

    surrogate: ResNormDecoder

    def __init__(self, config: AdversaryConfig) -> None:
        super().__init__(config)
        self.adversary = config

    def seen(self, step: Step) -> Tensor:
        """What the surrogate learns from: the features before anything random happens to them."""
        return step.features

    def prepare(self, model: SplitModel, classes: int) -> None:
        self.feature_shape = model.feature_shape
        config = self.adversary
        self.surrogate = ResNormDecoder(
            self.feature_shape, model.image_shape, blocks=config.blocks, channels=config.channels
        )
        xavier_uniform(self.surrogate)
        self.surrogate.to(memory_format=torch.channels_last)
        self.optimizer = Adam(self.surrogate.parameters(), lr=config.learning_rate)

    def task_parameters(self) -> Iterator[nn.Parameter]:
        return iter(())

    def optimizers(self) -> dict[str, Optimizer]:
        return {"surrogate": self.optimizer}

    def penalty(self, step: Step) -> Tensor | None:
        seen = self.seen(step)
        if seen.shape[1:] != self.feature_shape:
            expected = f"{self.feature_shape} (a defense that changes their shape comes before {self.name})"
            raise ValueError(f"{self.name}: expected features {expected}, got {tuple(seen.shape[1:])}")
        if self.adversary.weight == 0:
            return None
        self._learn(seen.detach(), step.images)
        self.surrogate.eval().requires_grad_(False)
        success = self._success(seen, step.images)
        self.surrogate.requires_grad_(True)
        if self.adversary.measure == "ssim":
            success = functional.relu(success - self.adversary.ssim_threshold)
            if not success:
                return success.detach()  # its gradient would be zero, after a whole pass back through the surrogate
        return self.adversary.weight * success

    def _learn(self, seen: Tensor, images: Tensor) -> None:
        self.surrogate.train()
        for _ in range(self.adversary.inner_steps):
            loss = -self._success(seen, images)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()

    def _success(self, seen: Tensor, images: Tensor) -> Tensor:
        """How well the surrogate rebuilds the batch, higher is better: the mean SSIM, or the MSE below zero."""
        with mixed_precision(seen.device):
            rebuilt = self.surrogate(seen)
        if self.adversary.measure == "mse":
            return -functional.mse_loss(rebuilt.float(), images)
        return ssim_zero_padded(rebuilt.float(), images).mean()
