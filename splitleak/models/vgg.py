"""VGG-11 and VGG-16 with batch normalisation; each convolution and each of the five max-poolings is a position."""

from torch import nn

from splitleak.models.architecture import Architecture, keep_weights, scaled, xavier_uniform

_POOL = 0
_LAYOUT_A = (64, _POOL, 128, _POOL, 256, 256, _POOL, 512, 512, _POOL, 512, 512, _POOL)
_LAYOUT_D = (64, 64, _POOL, 128, 128, _POOL, *(256,) * 3, _POOL, *(512,) * 3, _POOL, *(512,) * 3, _POOL)
_HIDDEN = 512


def _positions(layout: tuple[int, ...], channels: int, width: float) -> tuple[list[nn.Module], int]:
    """The positions of ``layout``, and the output channels of the last."""
    positions: list[nn.Module] = []
    for entry in layout:
        if entry == _POOL:
            positions.append(nn.MaxPool2d(2))
            continue
        wide = scaled(entry, width)
        positions.append(nn.Sequential(nn.Conv2d(channels, wide, 3, padding=1), nn.BatchNorm2d(wide), nn.ReLU(True)))
        channels = wide
    return positions, channels


def _build_11(channels: int, classes: int, width: float, _size: int) -> tuple[list[nn.Module], nn.Module]:
    positions, channels = _positions(_LAYOUT_A, channels, width)
    hidden = scaled(_HIDDEN, width)
    classifier = nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(channels, hidden),
        nn.ReLU(True),
        nn.Dropout(0.5),
        nn.Linear(hidden, hidden),
        nn.ReLU(True),
        nn.Linear(hidden, classes),
    )
    return positions, classifier


def _build_16(channels: int, classes: int, width: float, size: int) -> tuple[list[nn.Module], nn.Module]:
    positions, channels = _positions(_LAYOUT_D, channels, width)
    values = channels * (size >> _LAYOUT_D.count(_POOL)) ** 2
    return positions, nn.Sequential(nn.Flatten(), nn.BatchNorm1d(values), nn.Linear(values, classes))


VGG11 = Architecture(
    build=_build_11,
    initialise_edge=xavier_uniform,
    positions=13,
    default_cut=4,
    smallest=32,
    about="""\
The VGG-11 of split-inference studies on small images; cut after position 4, the feature is 128 × size/4 × size/4.

Simonyan and Zisserman, ICLR 2015 (arXiv:1409.1556), configuration A, with batch normalisation after each convolution
(which keeps its bias) and two hidden linear layers of 512. Edge weights: Xavier uniform with gain 1, biases 0; cloud
weights: torch's defaults. Five pools need images of at least 32 pixels. Global average pooling follows, which changes
nothing at 32 and 48 pixels, where one pixel is left, and is our choice from 64 pixels on.
""",
)

VGG16 = Architecture(
    build=_build_16,
    initialise_edge=keep_weights,
    positions=18,
    default_cut=6,
    smallest=32,
    about="""\
The VGG-16 of class inversion from 64-pixel faces, 16,776,232 parameters for a thousand people; cut after position 6,
the second pool, the feature is 128 × size/4 × size/4.

Simonyan and Zisserman's configuration D with batch normalisation after each convolution (which keeps its bias); then,
as in Chen et al., KED-MI, ICCV 2021 (arXiv:2010.04092), and their successors, the output of the last pool, 512 × 2 × 2
values at 64 pixels and 512 at 32, goes through batch normalisation and one linear layer. Deviations: the weights are
torch's defaults on both sides of the cut, where published networks start from ImageNet's; the last normalisation's
shift is learned, where published code keeps it at 0. It is counted as trainable, here and in the published counts.
""",
)
