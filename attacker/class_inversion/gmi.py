"""GMI: generative model inversion, latent optimisation with a prior loss (critic) and an identity loss."""

import torch
from pydantic import Field
from torch import Tensor, nn

from splitleak.attacker.base import Run
from splitleak.attacker.class_inversion.base import ClassKnowledge
from splitleak.attacker.class_inversion.search import Drawing, LatentSearch, Search, SearchConfig
from splitleak.attacker.training.critic import Critic


class GMIConfig(SearchConfig):
    """The search. The defaults are for the CPU: Adam, a tenth of the published steps, and the published loss."""

    identity_weight: float = Field(default=100, ge=0, description="lambda of the paper")
    prior_weight: float = Field(default=1, ge=0, description="weight of minus the critic's score")
    bound: float | None = Field(default=1, gt=0, description="largest value of a latent, either way; none: no bound")


class GMI(LatentSearch):
    r"""Descends from several random latents on the prior loss and, far heavier, the identity loss.

    .. math:: \min_z\; -D(G(z)) + \lambda\, L_{id}(f(G(z)), y)

    Zhang et al., "The secret revealer: generative model-inversion attacks against deep neural networks", CVPR 2020,
    without auxiliary knowledge, as its published code. Images ``(K, restarts, C, H, W)``; the paper's answer is the
    first, of which the model is surest. Deviations: the generator's training is the prior's; the clamp of each latent
    value and the restarts are the code's; Adam by default.
    """

    name = "gmi"
    config_type = GMIConfig
    config: GMIConfig

    @classmethod
    def paper_config(cls) -> GMIConfig:
        """1500 steps of Nesterov's momentum at 0.02, 5 restarts, latents in [-1, 1] (the code's; 0.01 for MNIST)."""
        return GMIConfig(optimizer="nesterov", learning_rate=0.02, steps=1500)

    def networks(self, known: ClassKnowledge, run: Run, model: nn.Module | None) -> tuple[Drawing, Critic | None]:
        drawing, critic = super().networks(known, run, model)
        if critic is None and self.config.prior_weight:
            raise ValueError(f"attack {self.name!r}: expected a prior with a critic, or a prior_weight of 0")
        return drawing, critic

    def loss(self, search: Search, values: Tensor, labels: Tensor, draw: torch.Generator) -> Tensor:
        images = search.images(values, labels)
        loss = self.config.identity_weight * self.identity(search, images, labels)
        if self.config.prior_weight:
            assert search.critic is not None
            own = labels if search.generator.config.classes else None
            loss = loss - self.config.prior_weight * search.critic(images, own)
        return loss

    def constrain(self, values: Tensor) -> None:
        if self.config.bound is not None:
            values.clamp_(-self.config.bound, self.config.bound)
