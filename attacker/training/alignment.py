"""A substitute encoder, trained so that what it makes of public images cannot be told from captured features."""

from collections.abc import Callable, Mapping

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim import Adam, Optimizer

from splitleak.attacker.base import Knowledge, Run
from splitleak.attacker.training.critic import hinge
from splitleak.attacker.training.fitting import cosine, set_rate, step
from splitleak.config import Config, digest
from splitleak.models.decoder import channel_levels, unit_scale
from splitleak.models.grids import ToGrid, channels_of
from splitleak.models.split import output_shape
from splitleak.seeding import generator, seeded
from splitleak.training.fit import Resumable, step_ranges
from splitleak.training.modules import freeze

_LEAK = 0.2
_BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
_BETAS = (0.5, 0.99)


class AlignmentConfig(Config):
    """The substitute encoder's training against a critic of features."""

    iterations: int = Field(default=500, ge=1, description="steps of the substitute encoder, and of the critic")
    batch_size: int = Field(default=32, ge=2)
    learning_rate: float = Field(default=2e-3, gt=0, description="the encoder's; both fall along cosines")
    critic_learning_rate: float = Field(default=1e-3, gt=0)
    critic_width: int = Field(default=32, ge=1, description="channels of the critic")
    adversarial_weight: float = Field(default=0.1, ge=0, description="of the critic's answer in the encoder's loss")


class FeatureCritic(nn.Module):
    """Features of any shape to realness scores ``(N,)``: brought to a grid, then three spectral-norm convolutions.

    They are first multiplied by ``scale``, see `evening`: the layers are as steep as any, and slight features all look
    alike to them.
    """

    scale: Tensor

    def __init__(
        self,
        shapes: tuple[tuple[int, ...], ...],
        image_shape: tuple[int, int, int],
        width: int,
        scale: Tensor,
    ) -> None:
        super().__init__()
        self.register_buffer("scale", scale, persistent=False)
        self.grid = ToGrid(shapes, image_shape, width=width)
        convolutions = [
            spectral_norm(nn.Conv2d(self.grid.map_shape[0], width, 3, padding=1)),
            spectral_norm(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)),
        ]
        layers = [part for convolution in convolutions for part in (convolution, nn.LeakyReLU(_LEAK))]
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv2d(2 * width, 1, 3, padding=1)))

    def forward(self, features: Tensor) -> Tensor:
        scores: Tensor = self.layers(self.grid(self.scale * features)).flatten(1).mean(1)
        return scores


def evening(known: Knowledge) -> Tensor:
    """What brings captured features to unit scale, and a few channels that drown the others down to these first.

    It multiplies features ``(N, *cut)``; see `channel_levels` and `unit_scale`.
    """
    captured = known.captured
    levels = channel_levels(captured, channels_of((tuple(captured.shape[1:]),), known.image_shape))
    return unit_scale(captured / levels) / levels


Further = Callable[[Tensor, Tensor, Tensor, float], Tensor | float]
"""Public images' rows ``(B,)``, the substitute's features ``(B, *cut)`` of them, as many captured ones, and how much of
the training is over; gives a loss beside the critic's."""


def align(
    name: str,
    known: Knowledge,
    config: AlignmentConfig,
    run: Run,
    further: Further,
    *,
    modules: Mapping[str, nn.Module] | None = None,
    optimizers: Mapping[str, Optimizer] | None = None,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Trains a substitute encoder; resumable. Its critic sees features brought to one scale, see `evening`.

    Args:
        name: The attack's, for random streams, errors and the checkpoint.
        known: Captured features, public images, and the architecture of an encoder.
        config: Steps and learning rates.
        run: Seed, device, report and checkpoint.
        further: The attack's own loss.
        modules: What ``further`` trains by itself.
        optimizers: Its optimisers.

    Returns:
        The substitute encoder, frozen, and the losses of every 25 iterations.

    Raises:
        ValueError: Such an encoder gives other features than those captured.
    """
    assert known.public is not None
    assert known.fresh_encoder is not None
    with seeded(run.seed, name, "init"):
        encoder = known.fresh_encoder().requires_grad_(True).to(run.device)
        shapes = known.parts or (tuple(known.captured.shape[1:]),)
        critic = FeatureCritic(shapes, known.image_shape, config.critic_width, evening(known)).to(run.device)
    if (got := output_shape(encoder, known.image_shape)) != known.captured.shape[1:]:
        raise ValueError(f"{name}: expected an encoder to features {tuple(known.captured.shape[1:])}, got {got}")
    sides = {
        "encoder": Adam(encoder.parameters(), lr=config.learning_rate, betas=_BETAS),
        "critic": Adam(critic.parameters(), lr=config.critic_learning_rate, betas=_BETAS),
    }
    images, captured, draw = (
        known.public.to(run.device),
        known.captured.to(run.device),
        generator(run.seed, name, "rows"),
    )
    sums = [float(each.double().sum()) for each in (images, captured, captured.square())]
    state = Resumable(
        identity=digest([name, config.document(), run.seed, sums]),
        modules={"encoder": encoder.train(), "critic": critic.train(), **(modules or {})},
        optimizers={**sides, **(optimizers or {})},
        generators={"rows": draw},
    )
    for iterations in step_ranges(name, config.iterations, state, run.part("aligned").checkpoint, run.report):
        losses = []
        for iteration in iterations:
            share = iteration / config.iterations
            set_rate(sides["encoder"], config.learning_rate * cosine(share))
            set_rate(sides["critic"], config.critic_learning_rate * cosine(share))
            rows = torch.randint(len(images), (config.batch_size,), generator=draw)
            real = captured[torch.randint(len(captured), (config.batch_size,), generator=draw)]
            features = encoder(images[rows])
            judged = step(sides["critic"], hinge(critic(real), critic(features.detach())))
            critic.requires_grad_(False)
            loss = further(rows, features, real, share) - config.adversarial_weight * critic(features).mean()
            losses.append(torch.stack([judged, step(sides["encoder"], loss)]))
            critic.requires_grad_(True)
        critic_loss, encoder_loss = torch.stack(losses).mean(0).tolist()
        state.history.append({"critic_loss": critic_loss, "encoder_loss": encoder_loss})
    return freeze(encoder, run.device), state.history


def discrepancy(some: Tensor, others: Tensor) -> Tensor:
    """The squared maximum mean discrepancy of two batches ``(B, ...)`` under five Gaussian kernels (MK-MMD).

    Their bandwidths are shares of the mean squared distance. Gretton et al., "Optimal kernel choice for large-scale
    two-sample tests", NeurIPS 2012.
    """
    both = torch.cat([some, others]).flatten(1)
    distances = _squared(both)
    scale = distances.detach().mean().clamp(min=1e-12)
    alike = torch.stack([(-distances / (share * scale)).exp() for share in _BANDWIDTHS]).mean(0)
    count = len(some)
    result: Tensor = alike[:count, :count].mean() + alike[count:, count:].mean() - 2 * alike[:count, count:].mean()
    return result


def _squared(rows: Tensor) -> Tensor:
    """All squared distances of rows ``(B, d)``."""
    norms = rows.square().sum(1)
    return functional.relu(norms[:, None] + norms[None] - 2 * rows @ rows.T)
