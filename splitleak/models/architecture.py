"""The `Architecture` interface: a network's layers as positions between which the model can be split."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Architecture:
    """A feature extractor in ``positions`` parts, in order, and a classifier after the last of them.

    ``build(channels, classes, width, size)`` returns both, with torch's default initialisation; ``initialise_edge``
    then reinitialises the positions of the edge half. Images are square, with sides of ``size >= smallest`` pixels.
    ``about`` says what it is, from which paper, and where it deviates.
    """

    build: Callable[[int, int, float, int], tuple[list[nn.Module], nn.Module]]
    initialise_edge: Callable[[nn.Module], None]
    positions: int
    default_cut: int
    smallest: int
    about: str


def scaled(channels: int, width: float) -> int:
    """``channels`` times ``width``, rounded half up, at least 1.

    >>> scaled(64, 0.25), scaled(5, 0.5), scaled(3, 0.01)
    (16, 3, 1)
    """
    return max(1, math.floor(channels * width + 0.5))


def keep_weights(module: nn.Module) -> None:
    """Keeps torch's default initialisation of ``module``."""


def xavier_uniform(module: nn.Module) -> None:
    """Xavier (Glorot) uniform initialisation, gain 1, of every convolution and linear layer; biases become 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
