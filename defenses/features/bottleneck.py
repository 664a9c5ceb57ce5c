"""Bottleneck layer: the edge reduces the channels sent by 1x1 or 3x3 convolutions, the cloud restores them."""

from itertools import pairwise
from typing import Literal

from pydantic import Field
from torch import nn

from splitleak.config import Config
from splitleak.defenses.base import Defense
from splitleak.models.split import SplitModel


class BottleneckConfig(Config):
    """Shape of the transmitted features."""

    channels: int = Field(default=8, ge=1, description="channels that are sent")
    stride: Literal[1, 2, 4, 8] = Field(default=1, description="downsampling factor of height and width")
    kernel: Literal[1, 3, 5] = Field(default=3, description="kernel size of the convolution where stride is 1")
    sigmoid: bool = Field(default=True, description="bound the features sent to (0, 1) by a sigmoid")


class Bottleneck(Defense):
    """Appends a convolution to ``channels`` (and a sigmoid) to the encoder, and prepends the mirrored one to the head.

    Eshratifar et al., "BottleNet", 2019; in this form Li et al., ResSFL, CVPR 2022, and Xia et al., CEM, CVPR 2025
    (their ``noRELU_C<channels>S<stride>``). A stride above 1 is a sequence of 3 × 3 convolutions of stride 2, mirrored
    by transposed convolutions. No batch norm, no ReLU; the edge's convolutions are initialised Xavier-uniform, the
    cloud's by torch's defaults. Features ``(N, C, H, W)``, or ``(N, H, W, C)`` (see `channels_last`), become ``(N,
    channels, H / stride, W / stride)``.

    Raises:
        ValueError: The features are not ``(C, H, W)`` with H and W divisible by the stride.
    """

    name = "bottleneck"
    config_type = BottleneckConfig

    def __init__(self, config: BottleneckConfig) -> None:
        super().__init__(config)
        self.config = config

    @property
    def unused(self) -> frozenset[str]:
        return frozenset({"kernel"} if self.config.stride > 1 else ())

    def prepare(self, model: SplitModel, classes: int) -> None:
        model.send_channels_first()
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
        activation = [nn.Sigmoid()] if self.config.sigmoid else []
        model.encoder = nn.Sequential(model.encoder, *down, *activation)
        model.head = nn.Sequential(*up, model.head)
