"""A small convolutional network in three positions, for tests and first experiments."""

from torch import nn

from splitleak.models.architecture import Architecture, scaled, xavier_uniform

_LAYOUT = (16, 32, 64)


def _build(channels: int, classes: int, width: float, _size: int) -> tuple[list[nn.Module], nn.Module]:
    positions: list[nn.Module] = []
    for entry in _LAYOUT:
        wide = scaled(entry, width)
        layers = (nn.Conv2d(channels, wide, 3, padding=1), nn.BatchNorm2d(wide), nn.ReLU(True), nn.MaxPool2d(2))
        positions.append(nn.Sequential(*layers))
        channels = wide
    return positions, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


CNN = Architecture(
    build=_build,
    initialise_edge=xavier_uniform,
    positions=3,
    default_cut=2,
    smallest=8,
    about="""\
Three blocks of convolution, batch normalisation, ReLU and max-pooling, to 16, 32 and 64 channels, then global
average pooling and a linear layer; cut after position 2, the feature is 32 × size/4 × size/4. Ours, from no paper.
""",
)
