"""GAN training: the adversarial loop of generator and critic that all attacks with a prior share."""

import copy
from abc import ABC, abstractmethod
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Adam

from splitleak.attacker.base import Run
from splitleak.attacker.training.critic import Critic, Norm
from splitleak.attacker.training.fitting import step
from splitleak.config import Config, digest
from splitleak.models.generator import Generator, GeneratorConfig
from splitleak.seeding import generator, seeded
from splitleak.training.fit import Resumable, step_ranges
from splitleak.training.modules import freeze, to_channels_last
from splitleak.training.precision import fused_on, mixed_precision


class GanTraining(Config):
    """The two networks' size and training. The defaults take a minute or two on one core at 28 or 32 pixels."""

    latent: int = Field(default=64, ge=1, description="values of a latent")
    width: int = Field(default=32, ge=1, description="channels before the image, see `GeneratorConfig`")
    kernel: Literal[4, 5] = 4
    iterations: int = Field(default=1500, ge=1, description="steps of the generator")
    batch_size: int = Field(default=64, ge=2)
    critic_steps: int = Field(default=1, ge=1, description="steps of the critic to one of the generator")
    learning_rate: float = Field(default=4e-4, gt=0, description="the generator's")
    critic_learning_rate: float = Field(default=4e-4, gt=0)
    beta1: float = Field(default=0.5, ge=0, lt=1, description="of Adam, for both")
    beta2: float = Field(default=0.999, ge=0, lt=1)
    average: float = Field(
        default=0.99, ge=0, lt=1, description="decay of the moving average of the generator's weights; 0: the last"
    )

    def generator(self, image_shape: tuple[int, int, int], classes: int | None = None) -> GeneratorConfig:
        """The generator of such images ``(C, H, W)``.

        Raises:
            ValueError: They are not square, or have a side that it cannot draw.
        """
        channels, height, width = image_shape
        if height != width:
            raise ValueError(f"expected square images, got {image_shape}")
        sizes = {"latent": self.latent, "width": self.width, "kernel": self.kernel, "classes": classes}
        return GeneratorConfig.parse({"channels": channels, "size": height, **sizes}, source="generator")


class Game(ABC):
    """A generator, its critic, and the loss of each."""

    def __init__(self, name: str, generator: Generator, critic: Critic) -> None:
        """``name`` is the attack's, or the prior's; it tells checkpoints and random streams apart."""
        self.name, self.generator, self.critic = name, generator, critic
        self.streams: dict[str, torch.Generator] = {}  # of randomness of its own

    def draw(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """The generator's images ``(B, C, H, W)``."""
        images: Tensor = self.generator(latents, labels)
        return images

    @abstractmethod
    def critic_loss(self, rows: Tensor, fakes: Tensor, labels: Tensor | None) -> Tensor:
        """The critic's loss on real images, by their indices ``rows`` ``(B,)``, and on ``fakes`` of ``labels``."""

    @abstractmethod
    def generator_loss(self, rows: Tensor, fakes: Tensor, labels: Tensor | None) -> Tensor:
        """The generator's loss, with the critic's weights frozen."""


class MixedGame(Game):
    """A game whose networks run in `mixed_precision`, on a CPU too; losses, and the model, in single precision.

    Not for a gradient penalty, whose second derivatives bfloat16 does not bear.
    """

    def draw(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        with mixed_precision(latents.device, on_cpu=True):
            images = super().draw(latents, labels)
        return images.float()

    def judge(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The critic's scores of images."""
        with mixed_precision(images.device, on_cpu=True):
            said: Tensor = self.critic(images, labels)
        return said.float()


def networks(
    name: str, config: GeneratorConfig, run: Run, norm: Norm, outputs: int | None = None
) -> tuple[Generator, Critic]:
    """An untrained generator and its critic on the run's device, the same for the same seed."""
    with seeded(run.seed, name, "init"):
        drawing, critic = Generator(config), Critic(config, norm, outputs)
    return to_channels_last(drawing, run.device), to_channels_last(critic, run.device)


def play(game: Game, count: int, config: GanTraining, run: Run, *, identity: str) -> list[dict[str, float]]:
    """Trains both networks in turn, and leaves them frozen in eval mode.

    Args:
        game: The networks and their losses.
        count: Real images there are; batches are drawn from their indices.
        config: Sizes, steps and learning rates.
        run: Seed, device, report and checkpoint.
        identity: What the losses depend on beside config and seed, for the checkpoint's fingerprint.

    Returns:
        The mean losses of every 25 iterations.
    """
    betas = (config.beta1, config.beta2)
    sides = {
        "generator": Adam(
            game.generator.parameters(), lr=config.learning_rate, betas=betas, fused=fused_on(run.device)
        ),
        "critic": Adam(
            game.critic.parameters(), lr=config.critic_learning_rate, betas=betas, fused=fused_on(run.device)
        ),
    }
    draw, averaged = generator(run.seed, game.name, "draws"), copy.deepcopy(game.generator)
    state = Resumable(
        identity=digest([config.document(), game.generator.config.document(), run.seed, identity]),
        modules={"generator": game.generator.train(), "critic": game.critic.train(), "averaged": averaged},
        optimizers=sides,
        generators={"draws": draw, **game.streams},
    )
    classes = game.generator.config.classes

    def dealt() -> tuple[Tensor, Tensor, Tensor | None]:
        rows = torch.randint(count, (config.batch_size,), generator=draw).to(run.device)
        latents = torch.randn(config.batch_size, config.latent, generator=draw).to(run.device)
        labels = None if classes is None else torch.randint(classes, (config.batch_size,), generator=draw)
        return rows, latents, None if labels is None else labels.to(run.device)

    for iterations in step_ranges(game.name, config.iterations, state, run.part(game.name).checkpoint, run.report):
        losses = []
        for _ in iterations:
            for _ in range(config.critic_steps):
                rows, latents, labels = dealt()
                with torch.no_grad():
                    fakes = game.draw(latents, labels)
                judged = step(sides["critic"], game.critic_loss(rows, fakes, labels))
            rows, latents, labels = dealt()
            game.critic.requires_grad_(False)
            made = step(sides["generator"], game.generator_loss(rows, game.draw(latents, labels), labels))
            game.critic.requires_grad_(True)
            _follow(averaged, game.generator, config.average)
            losses.append(torch.stack([judged, made]))
        critic_loss, generator_loss = torch.stack(losses).mean(0).tolist()
        state.history.append({"critic_loss": critic_loss, "generator_loss": generator_loss})
    game.generator.load_state_dict(averaged.state_dict())
    for network in (game.generator, game.critic):
        freeze(network, run.device)
    return state.history


@torch.no_grad()
def _follow(averaged: Generator, current: Generator, decay: float) -> None:
    """Updates the exponential moving average of the weights; batch statistics are copied."""
    for mean, weight in zip(averaged.parameters(), current.parameters(), strict=True):
        mean.lerp_(weight, 1 - decay)
    for kept, statistic in zip(averaged.buffers(), current.buffers(), strict=True):
        kept.copy_(statistic)
