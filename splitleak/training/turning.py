"""Rotations of images of any shape, as the matrices that torch's sampling grids are made of."""

import torch
from torch import Tensor


def turns(angles: Tensor, height: int, width: int) -> Tensor:
    """Matrices ``(N, 2, 2)`` of rotations, for `torch.nn.functional.affine_grid`, whose sides are 2 long each.

    Of an image that is not square they stretch in between, so that what they turn keeps its shape in pixels.

    Args:
        angles: In radians, ``(N,)``.
        height: Of the images, in pixels.
        width: Of the images, in pixels.

    >>> turns(torch.tensor([torch.pi / 2]), 10, 20).round(decimals=3) + 0
    tensor([[[ 0.0000, -0.5000],
             [ 2.0000,  0.0000]]])
    """
    cosines, sines = angles.cos(), angles.sin()
    across, down = -sines * (height / width), sines * (width / height)
    return torch.stack([cosines, across, down, cosines], 1).view(-1, 2, 2)
