"""Two classifiers of 32-pixel digits: the target of class inversion, and the evaluation classifier."""

from functools import partial

from torch import nn

from splitleak.models.architecture import Architecture, keep_weights, scaled

_Layout = tuple[tuple[int, int, int, bool], ...]  # channels, kernel size, padding, and whether max-pooling follows

_TARGET: _Layout = ((64, 7, 1, True), (128, 5, 0, True), (256, 5, 0, False))
_JUDGE: _Layout = (
    (32, 7, 1, True),
    (64, 5, 0, True),
    (128, 5, 0, False),
    (256, 3, 1, False),
    (512, 3, 1, False),
)
_LEAK = 0.2


def _build(layout: _Layout, channels: int, classes: int, width: float, size: int) -> tuple[list[nn.Module], nn.Module]:
    positions: list[nn.Module] = []
    for entry, kernel, padding, pooled in layout:
        wide = scaled(entry, width)
        block = [nn.Conv2d(channels, wide, kernel, padding=padding), nn.BatchNorm2d(wide), nn.LeakyReLU(_LEAK, True)]
        size += 2 * padding - kernel + 1
        if pooled:
            block.append(nn.MaxPool2d(2))
            size //= 2
        positions.append(nn.Sequential(*block))
        channels = wide
    return positions, nn.Sequential(nn.Flatten(), nn.Linear(channels * size**2, classes))


MCNN = Architecture(
    build=partial(_build, _TARGET),
    initialise_edge=keep_weights,
    positions=3,
    default_cut=2,
    smallest=32,
    about="""\
The target of class inversion on MNIST, 1,029,765 parameters for five digits; cut after position 2, the feature of a
32-pixel image is 128 × 5 × 5.

Chen et al., "Knowledge-enriched distributional model inversion attacks", ICCV 2021 (arXiv:2010.04092), and Peng et al.,
BiDO, KDD 2022 (arXiv:2206.05483), who call it LeNet; its layers are those of BiDO's published code. Convolution, batch
normalisation and leaky ReLU (0.2), to 64, 128 and 256 channels, with kernels of 7, 5 and 5 pixels of which only the
first has padding, of one pixel; max-pooling after the first two; one linear layer. Of 32 pixels a side one is left: 28
are too few; for larger images the linear layer takes all remaining pixels (deviation). Weights are torch's defaults on
both sides of the cut.
""",
)

SCNN = Architecture(
    build=partial(_build, _JUDGE),
    initialise_edge=keep_weights,
    positions=5,
    default_cut=2,
    smallest=32,
    about="""\
The evaluation classifier beside `MCNN`, 1,740,234 parameters for ten digits.

32, 64 and 128 channels by kernels of 7, 5 and 5 pixels as there, then 256 and 512 by kernels of 3 with padding 1.
""",
)
