"""A bottleneck: few channels on the wire, squeezed by the edge and widened again by the cloud."""

from itertools import pairwise
from typing import Literal

from pydantic import Field
from torch import nn

from splitleak.config import Config
from splitleak.defenses.base import Defense
from splitleak.models.split import SplitModel


class BottleneckConfig(Config):
    """Width of the wire."""

    channels: int = Field(default=8, ge=1, description="channels that are sent")
    stride: Literal[1, 2, 4, 8] = Field(default=1, description="how much height and width shrink")
    kernel: Literal[1, 3, 5] = Field(default=3, description="kernel of the convolution where stride is 1")
    sigmoid: bool = Field(default=True, description="bound what is sent to (0, 1)")


class Bottleneck(Defense):
    """Ends the encoder with a convolution to ``channels`` (and a sigmoid), and starts the head with its mirror.

    Eshratifar et al., "BottleNet", 2019; in this form Li et al., ResSFL, CVPR 2022, and Xia et al., CEM, CVPR 2025
    (their ``noRELU_C<channels>S<stride>``). A stride above 1 is a chain of 3 × 3 convolutions of stride 2, undone by
    transposed ones. No batch norm, no ReLU; the edge's convolutions start Xavier-uniform, the cloud's as torch does.
    Features ``(N, C, H, W)`` become ``(N, channels, H / stride, W / stride)``.
    """

    name = "bottleneck"
    config_type = BottleneckConfig

    def __init__(self, config: BottleneckConfig) -> None:
        super().__init__(config)
        self.config = config

    def prepare(self, model: SplitModel, classes: int) -> None:
        shape = model.feature_shape
        if len(shape) != 3 or shape[1] % self.config.stride or shape[2] % self.config.stride:
            expected = f"features (C, H, W) with H and W divisible by stride {self.config.stride}"
            raise ValueError(f"bottleneck: expected {expected}, got {shape}")
        channels, kernel = self.config.channels, self.config.kernel
        if self.config.stride == 1:
            down: list[nn.Module] = [nn.Conv2d(shape[0], channels, kernel, padding=kernel // 2)]
            up: list[nn.Module] = [nn.Conv2d(channels, shape[0], kernel, padding=kernel // 2)]
        else:
            halvings = self.config.stride.bit_length() - 1
            widths = [shape[0], *[channels] * halvings]
            down = [nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths)]
            up = [
                nn.ConvTranspose2d(b, a, 3, stride=2, padding=1, output_padding=1)
                for a, b in zip(widths[-2::-1], widths[:0:-1], strict=True)
            ]
        for layer in down:
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        squash = [nn.Sigmoid()] if self.config.sigmoid else []
        model.encoder = nn.Sequential(model.encoder, *down, *squash)
        model.head = nn.Sequential(*up, model.head)
