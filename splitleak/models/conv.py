"""Classifiers of three and four convolutions and two linear layers: the targets of prediction (score) inversion."""

from functools import partial

from torch import nn

from splitleak.models.architecture import Architecture, keep_weights, scaled

_LAYOUT = (128, 256, 512, 1024)
_HIDDEN_PER_CLASS = 5


def _build(blocks: int, channels: int, classes: int, width: float, size: int) -> tuple[list[nn.Module], nn.Module]:
    positions: list[nn.Module] = []
    for entry in _LAYOUT[:blocks]:
        wide = scaled(entry, width)
        layers = (nn.Conv2d(channels, wide, 3, padding=1), nn.BatchNorm2d(wide), nn.MaxPool2d(2), nn.ReLU(True))
        positions.append(nn.Sequential(*layers))
        channels = wide
    left, hidden = size >> blocks, _HIDDEN_PER_CLASS * classes
    linear = (nn.Linear(channels * left**2, hidden), nn.Dropout(0.5), nn.Linear(hidden, classes))
    return positions, nn.Sequential(nn.Flatten(), *linear)


CONV3 = Architecture(
    build=partial(_build, 3),
    initialise_edge=keep_weights,
    positions=3,
    default_cut=2,
    smallest=8,
    about="""\
Yang et al.'s classifier of 32-pixel images; cut after position 2, the feature is 256 × size/4 × size/4.

Yang, Zhang, Chang and Liang, "Adversarial neural network inversion via auxiliary knowledge alignment", CCS 2019
(arXiv:1902.08552), appendix: convolution 3×3, batch normalisation, pool and ReLU, to 128, 256 and 512 channels; a
linear layer to five times the classes, dropout, and one to the classes, with no activation between them. Width
scales the convolutions. Deviation: 256 → 512 in the third, where the appendix prints 128 → 512. Weights are torch's
defaults on both sides of the cut. An odd side loses its last row and column to the pool.
""",
)

CONV4 = Architecture(
    build=partial(_build, 4),
    initialise_edge=keep_weights,
    positions=4,
    default_cut=2,
    smallest=16,
    about="""\
`CONV3` with a fourth block to 1024 channels: Yang et al.'s classifier of 64-pixel faces.
""",
)
