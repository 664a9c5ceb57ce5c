"""ResNet-20 for 64-pixel images in ten positions: a stem and nine basic blocks."""

import math

from torch import Tensor, nn
from torch.nn import functional

from splitleak.models.architecture import Architecture, scaled

_STEM = 16
_STAGES = (32, 64, 128)
_BLOCKS_PER_STAGE = 3


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a parameter-free shortcut (option A): subsampled pixels, zero-padded channels."""

    def __init__(self, channels: int, wide: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, wide, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(True),
            nn.Conv2d(wide, wide, 3, padding=1, bias=False),
            nn.BatchNorm2d(wide),
        )
        self.stride = stride
        self.missing = wide - channels

    def forward(self, features: Tensor) -> Tensor:
        shortcut = features[:, :, :: self.stride, :: self.stride]
        if self.missing:
            below = self.missing // 2
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, below, self.missing - below))
        total: Tensor = self.body(features) + shortcut
        return total.relu()


def _build(channels: int, classes: int, width: float, _size: int) -> tuple[list[nn.Module], nn.Module]:
    wide = scaled(_STEM, width)
    stem = nn.Conv2d(channels, wide, 5, padding=2, bias=False)
    positions: list[nn.Module] = [nn.Sequential(stem, nn.BatchNorm2d(wide), nn.ReLU(True))]
    for stage in _STAGES:
        for block in range(_BLOCKS_PER_STAGE):
            before, wide = wide, scaled(stage, width)
            positions.append(BasicBlock(before, wide, stride=1 if block else 2))
    return positions, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, classes))


def _initialise_edge(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=math.sqrt(2 / (math.prod(layer.kernel_size) * layer.out_channels)))


RESNET20 = Architecture(
    build=_build,
    initialise_edge=_initialise_edge,
    positions=10,
    default_cut=5,
    smallest=8,
    about="""\
The ResNet-20 of split-inference studies on TinyImageNet; cut after five positions, the stem and four blocks, the
feature is 64 × size/4 × size/4.

He et al., CVPR 2016 (arXiv:1512.03385), option A shortcuts. As those studies have it, the stem is a 5×5 convolution,
stages are 32, 64 and 128 channels wide and the first block of every stage has stride 2, the first stage's too. Edge
convolutions: normal with deviation ``sqrt(2 / (k² · outputs))``; cloud weights: torch's defaults.
""",
)
