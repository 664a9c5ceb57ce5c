"""Differentiable augmentation: random resized crops, which an image must survive to be more than adversarial noise."""

import math
from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from splitleak.config import Config
from splitleak.training.turning import turns


class CropsConfig(Config):
    """Random resized crops, mirrored or not. Mirrors are off by default: digits and shoes are not their own mirrors."""

    later: ClassVar[Mapping[str, object]] = {"rotation": 0.0, "jitter": 0.0}

    count: int = Field(default=1, ge=1, description="views of an image, whose losses or scores are averaged")
    least: float = Field(default=0.9, gt=0, le=1, description="least share of the area that is left")
    most: float = Field(default=1.0, gt=0, le=1, description="greatest share of it")
    ratio: float = Field(default=1.0, ge=1, description="greatest ratio of the sides, and one over the least")
    mirror: bool = Field(default=False, description="mirror every other view, by chance")
    rotation: float = Field(default=0.0, ge=0, le=180, description="greatest angle, either way, in degrees")
    jitter: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="greatest change of brightness and contrast of every other view, by chance",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"expected the least share to be at most the greatest, got {self.least} > {self.most}")
        return self


def random_crops(images: Tensor, config: CropsConfig, draw: torch.Generator) -> Tensor:
    """A random resized crop of each image ``(N, C, H, W)``, of the same size.

    Args:
        images: In any range; with a jitter, in [0, 1].
        config: Area, aspect ratio, mirroring and rotation of the crops, which are bilinear; and changes of brightness.
        draw: The source of randomness, on the CPU.
    """

    def uniform(least: float, most: float) -> Tensor:
        return least + (most - least) * torch.rand(len(images), generator=draw)

    area, log_ratio = uniform(config.least, config.most), torch.tensor(config.ratio).log()
    stretch = (uniform(-1, 1) * log_ratio / 2).exp()
    wide, high = ((area.sqrt() * factor).clamp_max(1) for factor in (stretch, 1 / stretch))
    right, down = (uniform(-1, 1) * (1 - share) for share in (wide, high))
    if config.mirror:
        wide = wide * (1 - 2 * (torch.rand(len(images), generator=draw) < 0.5).float())
    nothing = torch.zeros_like(wide)
    rows = torch.stack([torch.stack([wide, nothing, right], 1), torch.stack([nothing, high, down], 1)], 1)
    if config.rotation:
        angles = uniform(-1, 1) * math.radians(config.rotation)
        turned = rows[:, :, :2] @ turns(angles, images.shape[2], images.shape[3])
        rows = torch.cat([turned, rows[:, :, 2:]], 2)
    places = functional.affine_grid(rows.to(images), list(images.shape), align_corners=False)
    views = functional.grid_sample(images, places, padding_mode="border", align_corners=False)
    if not config.jitter:
        return views
    changed = (torch.rand(len(images), generator=draw) < 0.5).float()
    bright, contrast = (
        (1 + changed * uniform(-config.jitter, config.jitter)).view(-1, 1, 1, 1).to(images) for _ in range(2)
    )
    views = (bright * views).clamp(0, 1)
    mean = views.mean((1, 2, 3), keepdim=True)
    return ((views - mean) * contrast + mean).clamp(0, 1)


class DifferentiableConfig(Config):
    """Differentiable augmentation of what a critic sees: shifts, cut-outs, brightness and contrast."""

    shift: float = Field(default=0.125, ge=0, lt=1, description="largest shift, in shares of a side")
    cut: float = Field(default=0.5, ge=0, lt=1, description="side of the square that is blanked, in shares of a side")
    brightness: float = Field(default=0.25, ge=0, description="largest change, of images in [0, 1]")
    contrast: float = Field(default=0.5, ge=0, lt=1, description="largest change of the contrast's factor, 1")


def augmented(images: Tensor, config: DifferentiableConfig, draw: torch.Generator) -> Tensor:
    """Images ``(N, C, H, W)``, each changed at random, with a gradient.

    Zhao et al., "Differentiable augmentation for data-efficient GAN training", NeurIPS 2020 (arXiv:2006.10738). Of real
    and of generated images alike, so that a critic cannot know a few real ones by heart, and the generator does not
    learn the changes. Deviations: no saturation; what is shifted in is blank, as there.

    Args:
        images: In [0, 1].
        config: The largest changes.
        draw: The source of randomness, on the CPU.
    """
    count, _, height, width = images.shape

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=draw).to(images)

    mean = images.mean((1, 2, 3), keepdim=True)
    factor = 1 + config.contrast * (2 * uniform(1, 1, 1) - 1)
    changed = (images - mean) * factor + mean + config.brightness * (2 * uniform(1, 1, 1) - 1)
    places = torch.eye(2, 3).to(images).repeat(count, 1, 1)
    sides = torch.tensor([width, height]).to(images)
    places[:, :, 2] = 2 * ((2 * uniform(2) - 1) * config.shift * sides).round() / sides
    grid = functional.affine_grid(places, list(images.shape), align_corners=False)
    shifted = functional.grid_sample(changed, grid, mode="nearest", align_corners=False)
    spans = [(torch.arange(side).to(images)[None] + 0.5) / side for side in (height, width)]
    inside = [(span - uniform(1)).abs() < config.cut / 2 for span in spans]
    blank = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return shifted.masked_fill(blank, 0)
