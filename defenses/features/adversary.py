"""Adversarial representation learning: a decoder trained jointly to invert the features penalises the encoder."""

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
from splitleak.models.decoder import decoder_for
from splitleak.models.split import SplitModel
from splitleak.training.precision import mixed_precision


class AdversaryConfig(Config):
    """Weight of the adversarial penalty, and the adversary's network and training."""

    weight: float = Field(default=0.3, ge=0, description="weight of the penalty")
    measure: Literal["ssim", "mse"] = Field(
        default="ssim", description="reconstruction quality that the adversary maximises and the target minimises"
    )
    ssim_threshold: float = Field(default=0.5, ge=-1, le=1, description="ssim: similarity below which no penalty")
    inner_steps: int = Field(default=1, ge=1, description="adversary steps per target step")
    learning_rate: float = Field(default=1e-3, gt=0, description="of the adversary's Adam; constant")
    blocks: int = Field(default=4, ge=0, description="residual blocks of the adversary")
    channels: int = Field(default=64, ge=1, description="width of the adversary, in channels")


class AdversarialDefense(Defense):
    r"""Min-max training against a surrogate decoder D: the encoder is penalised for D's reconstruction quality.

    At every training step D takes ``inner_steps`` Adam steps to reconstruct the images x from the detached features z;
    then, with D frozen and in eval mode, the target's loss gains

    .. math:: \lambda\,\max(0, \mathrm{SSIM}(D(z), x) - t)

    (``measure = "mse"``: :math:`-\lambda\,\mathrm{MSE}(D(z), x)`). SSIM is the zero-padded form of the published
    tables. D is used in training only: `forward` is the identity, so D is not part of the artifact.

    Li et al., "ResSFL", CVPR 2022, with its decoder ``res_normN4C64``, initialised Xavier-uniform. Deviations from
    their code: D is trained on the features of the target's own forward pass (theirs encodes the batch again, in eval
    mode); no gradient of the penalty is computed for D's weights, which theirs discards, and none at all where the
    penalty is 0; D's learning rate is constant (theirs decays with the target's); D is not pre-trained (theirs is, for
    30 epochs, on test images).
    Shapes: images ``(N, C, H, W)`` in [0, 1], at least 11 pixels a side for SSIM; features ``(N, *cut)``.

    Raises:
        ValueError: Another defense changes the features' shape after `prepare`.
    """

    surrogate: nn.Module

    def __init__(self, config: AdversaryConfig) -> None:
        super().__init__(config)
        self.adversary = config

    @property
    def unused(self) -> frozenset[str]:
        return frozenset({"ssim_threshold"} if self.adversary.measure == "mse" else ())

    def adversary_input(self, step: Step) -> Tensor:
        """The decoder's input: the features without noise or dropout."""
        return step.features

    def prepare(self, model: SplitModel, classes: int) -> None:
        self.feature_shape = model.feature_shape
        config = self.adversary
        self.surrogate = decoder_for(
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
        inputs = self.adversary_input(step)
        if inputs.shape[1:] != self.feature_shape:
            expected = f"{self.feature_shape} (a defense that changes their shape comes before {self.name})"
            raise ValueError(f"{self.name}: expected features {expected}, got {tuple(inputs.shape[1:])}")
        if self.adversary.weight == 0:
            return None
        self._train_surrogate(inputs.detach(), step.images)
        self.surrogate.eval().requires_grad_(False)
        quality = self._reconstruction_quality(inputs, step.images)
        self.surrogate.requires_grad_(True)
        if self.adversary.measure == "ssim":
            quality = functional.relu(quality - self.adversary.ssim_threshold)
            # Where it is 0, so is the gradient, and the backward pass through the surrogate can be spared; on another
            # device than the CPU, to know it would cost more.
            if quality.device.type == "cpu" and not quality:
                return quality.detach()
        return self.adversary.weight * quality

    def _train_surrogate(self, inputs: Tensor, images: Tensor) -> None:
        self.surrogate.train()
        for _ in range(self.adversary.inner_steps):
            loss = -self._reconstruction_quality(inputs, images)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()

    def _reconstruction_quality(self, inputs: Tensor, images: Tensor) -> Tensor:
        """Mean SSIM, or negative MSE, of the surrogate's reconstructions of the batch; higher is better."""
        with mixed_precision(inputs.device, on_cpu=inputs.dtype == torch.bfloat16):  # as the target's own
            reconstructions = self.surrogate(inputs)
        if self.adversary.measure == "mse":
            return -functional.mse_loss(reconstructions.float(), images)
        return ssim_zero_padded(reconstructions.float(), images).mean()
