"""GAN generators of images from Gaussian latents."""

from itertools import pairwise
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from splitleak.config import Config

_LEAST_SIDE = 4


class GeneratorConfig(Config):
    """Architecture of a generator, which its critic mirrors."""

    channels: int = Field(ge=1)
    size: int = Field(ge=8, description="height and width of the images: 4 to 7 times a power of two")
    latent: int = Field(default=64, ge=1, description="values of a latent, independent and standard normal")
    width: int = Field(default=32, ge=1, description="channels before the image; doubled at each halving of the side")
    kernel: Literal[4, 5] = Field(default=4, description="kernel size of the convolutions; GMI's is 5")
    classes: int | None = Field(
        default=None, ge=2, description="classes of a conditional generator; none: unconditional"
    )
    embedding: int = Field(default=32, ge=1, description="values of the class embedding, appended to the latent")

    @model_validator(mode="after")
    def _doubles(self) -> Self:
        if self.size % (1 << self.doublings):
            raise ValueError(f"expected a side of 4 to 7 times a power of two, got {self.size}")
        return self

    @property
    def doublings(self) -> int:
        """Number of 2× upsampling steps."""
        return (self.size // _LEAST_SIDE).bit_length() - 1

    @property
    def start(self) -> int:
        """Side of the first feature map, in pixels."""
        return self.size >> self.doublings

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        return self.channels, self.size, self.size

    def widths(self) -> list[int]:
        """Channels at each resolution but the image's own, from the lowest resolution on."""
        return [self.width << (self.doublings - 1 - level) for level in range(self.doublings)]


class Generator(nn.Module):
    """Latents ``(N, latent)``, and labels ``(N,)`` if conditional, to images ``(N, C, size, size)`` in (0, 1).

    A linear layer to the first feature map, then a transposed convolution of stride 2 for each doubling, batch
    normalisation and ReLU between them, a sigmoid last. With ``width`` 64, ``kernel`` 5 and 100 latents it is that of
    GMI (Zhang et al., "The secret revealer", CVPR 2020, in its published code): 5,142,083 parameters for colour at 64
    pixels, 1,443,777 for grey at 32. With classes, a learned class embedding is appended to the latent.
    Attacks on intermediate features optimise the features between two of its ``blocks``.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        widths, side = config.widths(), config.start
        inputs = config.latent + (config.embedding if config.classes else 0)
        self.embedding = nn.Embedding(config.classes, config.embedding) if config.classes else None
        first, values = widths[0], widths[0] * side * side
        blocks: list[nn.Module] = [
            nn.Sequential(
                nn.Linear(inputs, values, bias=False),
                nn.BatchNorm1d(values),
                nn.ReLU(),
                nn.Unflatten(1, (first, side, side)),
            )
        ]
        for narrow, wide in pairwise(widths):
            blocks.append(
                nn.Sequential(_doubling(narrow, wide, config.kernel, bias=False), nn.BatchNorm2d(wide), nn.ReLU())
            )
        blocks.append(nn.Sequential(_doubling(widths[-1], config.channels, config.kernel, bias=True), nn.Sigmoid()))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.run_from(self.block_input(latents, labels), 0)

    def block_input(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Input of the first block: latents ``(N, latent)``, with the embedding of labels ``(N,)`` if conditional.

        Raises:
            ValueError: It is conditional, and there are no labels.
        """
        if self.embedding is None:
            return latents
        if labels is None:
            raise ValueError(f"expected labels of {self.config.classes} classes, got none")
        return torch.cat([latents, self.embedding(labels)], 1)

    def run_from(self, features: Tensor, block: int) -> Tensor:
        """The images generated from the input ``features`` of block number ``block``, counted from 0."""
        for layers in list(self.blocks)[block:]:
            features = layers(features)
        return features


def _doubling(narrow: int, wide: int, kernel: int, *, bias: bool) -> nn.ConvTranspose2d:
    padding, extra = (kernel - 1) // 2, kernel % 2
    return nn.ConvTranspose2d(narrow, wide, kernel, stride=2, padding=padding, output_padding=extra, bias=bias)
