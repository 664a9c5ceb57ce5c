"""Differentiable augmentation: random resized crops, which an image must survive to be more than adversarial noise."""

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from splitleak.config import Config


class CropsConfig(Config):
    """Random resized crops, mirrored or not. Mirrors are off by default: digits and shoes are not their own mirrors."""

    count: int = Field(default=1, ge=1, description="views of an image, whose losses or scores are averaged")
    least: float = Field(default=0.9, gt=0, le=1, description="least share of the area that is left")
    most: float = Field(default=1.0, gt=0, le=1, description="greatest share of it")
    ratio: float = Field(default=1.0, ge=1, description="greatest ratio of the sides, and one over the least")
    mirror: bool = Field(default=False, description="mirror every other view, by chance")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"expected the least share to be at most the greatest, got {self.least} > {self.most}")
        return self


def random_crops(images: Tensor, config: CropsConfig, draw: torch.Generator) -> Tensor:
    """A random resized crop of each image ``(N, C, H, W)``, of the same size.

    Args:
        images: In any range.
        config: Area, aspect ratio and mirroring of the crops; bilinear.
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
    places = functional.affine_grid(rows.to(images), list(images.shape), align_corners=False)
    return functional.grid_sample(images, places, padding_mode="border", align_corners=False)
