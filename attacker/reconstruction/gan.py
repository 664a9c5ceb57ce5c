"""GAN attack: the decoder trained as a generator, with a rebuilding loss and a Wasserstein critic."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam

from splitleak.attacker.base import Attack, Knowledge, Run, Shapes
from splitleak.attacker.reconstruction.decoder import RebuilderConfig, TrainsRebuilder, first_steps
from splitleak.attacker.training.critic import PatchCritic, gradient_penalty
from splitleak.attacker.training.fitting import cosine, fit, gather, predict, rebuilding_loss, set_rate, step
from splitleak.seeding import generator, seeded
from splitleak.training.modules import to_channels_last
from splitleak.training.precision import fused_on, mixed_precision

_BETAS = (0.5, 0.999)


class GanConfig(RebuilderConfig):
    """Generator, critic and their training. The defaults are a preset for a CPU."""

    critic_width: int = Field(default=8, ge=1, description="channels of the critic's first convolution")
    start: Literal["scratch", "decoder"] = Field(default="scratch", description="decoder: first train as that does")
    decoder_epochs: int = Field(default=5, ge=1, description="epochs without the critic, if the start is a decoder")
    decoder_learning_rate: float = Field(default=2e-3, gt=0)
    epochs: int = Field(default=20, ge=1, description="epochs with the critic")
    learning_rate: float = Field(default=2e-3, gt=0, description="the generator's; both fall along cosines")
    critic_learning_rate: float = Field(default=1e-3, gt=0)
    critic_steps: int = Field(default=1, ge=1, description="steps of the critic, one a batch, to one of the generator")
    mse_weight: float = Field(default=1500, gt=0, description="weight of the rebuilding loss beside the critic's")
    penalty: float = Field(default=10, ge=0, description="weight of the gradient penalty in the critic's loss")


class GanAttack(TrainsRebuilder, Attack):
    r"""Trains the decoder of the decoding attack against a Wasserstein critic, on pairs that crossed the wire.

    .. math::
        L_D = D(G(z)) - D(x) + 10\,(\lVert\nabla_{\hat x} D(\hat x)\rVert_2 - 1)^2, \qquad
        L_G = -D(G(z)) + 1500\,\mathrm{MSE}(G(z), x)

    with x̂ drawn between x and G(z). Xia et al., CEM, CVPR 2025, its GAN attack; Gulrajani et al., "Improved training
    of Wasserstein GANs", NeurIPS 2017, for the penalty. Features z ``(N, *cut)``; images x ``(N, C, H, W)``,
    in [0, 1].
    Deviations: with ``start = "decoder"`` the generator trains first as the decoding attack does, on public pairs alone
    (the published one has seen most of the images that it is scored on), in the batches of this attack; the epoch is
    chosen on held-out public pairs, those without the critic included; the generator's loss is divided by 1500, which
    changes nothing for Adam but lets weight decay act as on the decoder; and the CPU preset has a narrow critic, one
    step of it to one of the generator (the published ten), and the decoder's network, averaged weights, last epochs on
    all pairs, SSIM term and learning rate.
    """

    name = "gan"
    config_type = GanConfig
    needs = frozenset({"public", "query"})
    config: GanConfig

    @classmethod
    def paper_config(cls) -> GanConfig:
        """CEM's: 150 epochs of 128 after the decoder's 50, ten steps of the critic to one of the generator."""
        return GanConfig(
            network="res-norm",
            blocks=8,
            channels=64,
            critic_width=64,
            start="decoder",
            decoder_epochs=50,
            decoder_learning_rate=5e-3,
            epochs=150,
            batch_size=128,
            learning_rate=5e-4,
            critic_learning_rate=5e-3,
            critic_steps=10,
            ssim_weight=0,
            average=0,
            finish=0,
            draws=1,
            least_steps=1,
        )

    def reconstruct(self, known: Knowledge, run: Run) -> Tensor:
        assert known.public is not None
        config, features = self.config.sized(len(known.public)), gather(known, self.name, self.config.draws)
        with seeded(run.seed, "gan", "init"):
            network = config.build(Shapes.of(known))
            critic = PatchCritic(known.image_shape, config.critic_width)
        for module in (network, critic):
            to_channels_last(module, run.device)
        game = Game(config, network, critic, generator(run.seed, "gan", "between", device=run.device))
        self.network = network
        self.findings = fit(
            self.name,
            network,
            game.descend,
            features,
            known.public,
            config,
            run,
            modules={"generator": network, "critic": critic},
            optimizers={"decoder": game.alone, "generator": game.playing, "critic": game.critical},
            generators={"between": game.draw},
            warm_up=game.warm_up,
            begin=first_steps(network, run),
            average=config.average,
            finish=config.finish,
            least_steps=config.steps,
        )
        self.findings["decoder_epochs"] = game.warm_up
        return predict(network, known.captured, run.device)


class Game:
    """The training steps of generator and critic; for ``warm_up`` epochs the generator trains alone."""

    def __init__(self, config: GanConfig, network: nn.Module, critic: PatchCritic, draw: torch.Generator) -> None:
        self.config, self.network, self.critic, self.draw = config, network, critic, draw
        self.warm_up = config.decoder_epochs if config.start == "decoder" else 0
        weights, faster = network.parameters, fused_on(draw.device)
        decay = config.weight_decay
        self.alone = Adam(weights(), lr=config.decoder_learning_rate, weight_decay=decay, fused=faster)
        self.playing = Adam(weights(), lr=config.learning_rate, betas=_BETAS, weight_decay=decay, fused=faster)
        self.critical = Adam(critic.parameters(), lr=config.critic_learning_rate, betas=_BETAS, fused=faster)

    def descend(self, features: Tensor, images: Tensor, progress: float) -> Tensor:
        epoch = progress * (self.warm_up + self.config.epochs)
        if epoch < self.warm_up:
            set_rate(self.alone, self.config.decoder_learning_rate * cosine(epoch / self.warm_up))
            loss = rebuilding_loss(self._rebuilt(features), images, self.config.ssim_weight)
            return step(self.alone, loss)
        share = (epoch - self.warm_up) / self.config.epochs
        set_rate(self.playing, self.config.learning_rate * cosine(share))
        set_rate(self.critical, self.config.critic_learning_rate * cosine(share))
        self.critic.steps += 1
        in_turn = int(self.critic.steps) % self.config.critic_steps == 0
        with torch.set_grad_enabled(in_turn):
            rebuilt = self._rebuilt(features)
        step(self.critical, self.critics_loss(rebuilt.detach(), images))
        with torch.set_grad_enabled(in_turn):
            loss = rebuilding_loss(rebuilt, images, self.config.ssim_weight)
        if not in_turn:
            return loss
        self.critic.requires_grad_(False)
        step(self.playing, loss - self.critic(rebuilt).mean() / self.config.mse_weight)
        self.critic.requires_grad_(True)
        return loss.detach()

    def _rebuilt(self, features: Tensor) -> Tensor:
        with mixed_precision(features.device, on_cpu=self.config.halved(self.network)):
            rebuilt: Tensor = self.network(features)
        return rebuilt.float()

    def critics_loss(self, rebuilt: Tensor, images: Tensor) -> Tensor:
        share = torch.rand(len(images), 1, 1, 1, generator=self.draw, device=images.device)
        penalty = gradient_penalty(self.critic, images + share * (rebuilt - images), epsilon=1e-12)
        loss: Tensor = self.critic(rebuilt).mean() - self.critic(images).mean() + self.config.penalty * penalty
        return loss
