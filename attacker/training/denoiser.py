"""Diffusion: the noise schedule, a small denoiser of pictures, and its training on the attacker's own images."""

import copy
import math
from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam

from splitleak.attacker.base import Run
from splitleak.attacker.training.fitting import cosine, set_rate, step
from splitleak.config import Config, digest
from splitleak.seeding import generator, seeded
from splitleak.training.fit import Resumable, step_ranges
from splitleak.training.modules import freeze, to_channels_last
from splitleak.training.precision import mixed_precision

_OFFSET = 0.008  # of the cosine schedule: pictures are not quite clean at time 0
_GROUPS = 4
_COARSER = 1  # halvings of the side in the denoiser, beyond that of its 2×2 patches
_TIMES = 32  # numbers that tell the network the time


class DenoiserConfig(Config):
    """Shape of the pictures, and width of the network."""

    channels: int = Field(ge=1)
    height: int = Field(ge=1)
    wide: int = Field(ge=1, description="width of the pictures, in pixels")
    width: int = Field(default=32, ge=_GROUPS, multiple_of=_GROUPS, description="channels of the finest grid")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        return self.channels, self.height, self.wide


class DenoiserTraining(Config):
    """The denoiser's width and training. The defaults take under a minute of one core at 28 or 32 pixels."""

    width: int = Field(default=32, ge=_GROUPS, multiple_of=_GROUPS, description="channels, see `DenoiserConfig`")
    iterations: int = Field(default=600, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0, description="falls along a cosine to a hundredth")
    average: float = Field(
        default=0.99, ge=0, lt=1, description="decay of the moving average of the weights; 0: the last"
    )
    mirror: bool = Field(default=False, description="train on mirrored images too")


class Residual(nn.Module):
    """Twice (group normalisation, SiLU, 3×3 convolution), moved by the time between them, plus a shortcut."""

    def __init__(self, channels: int, wide: int, times: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(_GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, wide, 3, padding=1))
        self.time = nn.Linear(times, 2 * wide)
        self.norm = nn.GroupNorm(_GROUPS, wide)
        last = nn.Conv2d(wide, wide, 3, padding=1)
        nn.init.zeros_(last.weight)
        self.second = nn.Sequential(nn.SiLU(), last)
        self.shortcut: nn.Module = nn.Identity() if channels == wide else nn.Conv2d(channels, wide, 1)

    def forward(self, features: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.time(time)[:, :, None, None].chunk(2, 1)
        moved = self.norm(self.first(features)) * (1 + scale) + shift
        total: Tensor = self.shortcut(features) + self.second(moved)
        return total


class Denoiser(nn.Module):
    r"""Noisy pictures x_t ``(N, C, H, W)``, clean ones in [-1, 1], and times ``(N,)`` in [0, 1] to their velocity.

    .. math:: v = \sqrt{\bar\alpha_t}\,\epsilon - \sqrt{1 - \bar\alpha_t}\,x_0

    Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020; the cosine schedule of Nichol and
    Dhariwal, "Improved denoising diffusion probabilistic models", ICML 2021; the velocity of Salimans and Ho,
    "Progressive distillation for fast sampling of diffusion models", ICLR 2022, from which noise and picture follow
    (`split`), and which a short training learns better than the noise. A U-Net on patches of 2×2 pixels with one
    halving, and one residual block a level on the way down and one on the way up. Pictures of any size are padded to a
    multiple of four.
    """

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        wide, times = config.width, 4 * config.width
        self.time = nn.Sequential(nn.Linear(_TIMES, times), nn.SiLU(), nn.Linear(times, times), nn.SiLU())
        self.enter = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * config.channels, wide, 3, padding=1))
        widths = [wide * min(2, 2**level) for level in range(_COARSER + 1)]
        self.down = nn.ModuleList(Residual(each, each, times) for each in widths)
        self.halve = nn.ModuleList(nn.Conv2d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in pairwise(widths))
        self.middle = Residual(widths[-1], widths[-1], times)
        coarser = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(Residual(below + own, own, times) for below, own in zip(coarser, widths, strict=True))
        last = nn.Conv2d(wide, 4 * config.channels, 3, padding=1)
        nn.init.zeros_(last.weight)
        self.leave = nn.Sequential(nn.GroupNorm(_GROUPS, wide), nn.SiLU(), last, nn.PixelShuffle(2))

    def forward(self, noisy: Tensor, times: Tensor) -> Tensor:
        high, across = noisy.shape[2:]
        multiple = 2 << _COARSER
        padded = functional.pad(noisy, (0, -across % multiple, 0, -high % multiple), mode="replicate")
        steps = torch.arange(_TIMES // 2, device=noisy.device)
        angles = times[:, None] * 1000 * torch.exp(-math.log(10_000) * steps / (_TIMES // 2))
        time = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        features, kept = self.enter(padded), list[Tensor]()
        for level, block in enumerate(self.down):
            features = block(features, time)
            kept.append(features)
            if level < _COARSER:
                features = self.halve[level](features)
        features = self.middle(features, time)
        for level in reversed(range(_COARSER + 1)):
            features = self.up[level](torch.cat([features, kept[level]], 1), time)
            if level:
                features = functional.interpolate(features, scale_factor=2.0, mode="nearest")
        velocity: Tensor = self.leave(features)
        return velocity[:, :, :high, :across]

    def split(self, noisy: Tensor, time: float) -> tuple[Tensor, Tensor]:
        """The clean pictures and the noise that ``noisy`` ``(N, C, H, W)`` at one ``time`` is taken to be made of."""
        share = alpha_bar(time)
        velocity = self(noisy, torch.full((len(noisy),), time, device=noisy.device))
        signal, noise = math.sqrt(share), math.sqrt(1 - share)
        return signal * noisy - noise * velocity, signal * velocity + noise * noisy


def alpha_bar(time: float) -> float:
    """The share of the variance at ``time``, from 0 to 1, that is the picture's: from almost 1 to almost 0.

    >>> alpha_bar(0.0), round(alpha_bar(0.5), 3), alpha_bar(1.0) < 1e-5
    (1.0, 0.494, True)
    """

    def curve(at: float) -> float:
        return math.cos((at + _OFFSET) / (1 + _OFFSET) * math.pi / 2) ** 2

    return min(1.0, max(1e-6, curve(time) / curve(0.0)))


def train_denoiser(
    config: DenoiserTraining, images: Tensor, run: Run, *, identity: str = ""
) -> tuple[Denoiser, list[dict[str, float]]]:
    """Trains a denoiser on images ``(M, C, H, W)`` in [0, 1]; resumable, repeatable by seed.

    Args:
        config: Width and training.
        images: The attacker's own.
        run: Seed, device, report, and checkpoint, which is kept under a name of its own.
        identity: Of the images, where they have one; else their sum is.

    Returns:
        The denoiser, frozen, and the mean loss of every 25 iterations.
    """
    _, channels, height, wide = images.shape
    shape = DenoiserConfig(channels=channels, height=height, wide=wide, width=config.width)
    with seeded(run.seed, "denoiser", "init"):
        network = to_channels_last(Denoiser(shape), run.device)
    averaged = copy.deepcopy(network).requires_grad_(False)
    optimizer, draw = Adam(network.parameters(), lr=config.learning_rate), generator(run.seed, "denoiser", "draws")
    state = Resumable(
        identity=digest([config.document(), run.seed, identity or float(images.double().sum())]),
        modules={"denoiser": network, "averaged": averaged},
        optimizers={"adam": optimizer},
        generators={"draws": draw},
    )
    signed = images.to(run.device) * 2 - 1
    for iterations in step_ranges("denoiser", config.iterations, state, run.part("denoiser").checkpoint, run.report):
        losses = []
        for iteration in iterations:
            set_rate(optimizer, config.learning_rate * cosine(iteration / config.iterations))
            losses.append(step(optimizer, _loss(network, config, signed, draw)))
            decay = min(config.average, iteration / (iteration + 10))
            for mean, weight in zip(averaged.parameters(), network.parameters(), strict=True):
                mean.lerp_(weight.detach(), 1 - decay)
        state.history.append({"loss": float(torch.stack(losses).mean())})
    return freeze(averaged, run.device), state.history


def _loss(network: Denoiser, config: DenoiserTraining, signed: Tensor, draw: torch.Generator) -> Tensor:
    """The error of the velocity for a batch of pictures in [-1, 1], each at a time of its own."""
    count = config.batch_size
    clean = signed[torch.randint(len(signed), (count,), generator=draw)]
    if config.mirror:
        mirrored = torch.rand(count, generator=draw).to(clean.device) < 0.5
        clean = torch.where(mirrored[:, None, None, None], clean.flip(3), clean)
    times = (torch.arange(count) + torch.rand(count, generator=draw)) / count  # stratified: less varied losses
    shares = torch.tensor([alpha_bar(float(time)) for time in times], device=clean.device)[:, None, None, None]
    noise = torch.randn(clean.shape, generator=draw).to(clean.device)
    noisy = shares.sqrt() * clean + (1 - shares).sqrt() * noise
    with mixed_precision(clean.device, on_cpu=True):
        velocity = network(noisy, times.to(clean.device))
    return functional.mse_loss(velocity.float(), shares.sqrt() * noise - (1 - shares).sqrt() * clean)
