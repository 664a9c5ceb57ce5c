"""Multi-scale structural similarity (MS-SSIM), of as many scales as an image has room for."""

import torch
from torch import Tensor
from torch.nn import functional

from splitleak.measures.pixel import in_parts
from splitleak.measures.ssim import PART, WINDOW, similarity_maps

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, from the finest, of Wang et al.


def scales(side: int) -> int:
    """How many scales an image of that smaller side has: each halves it, and the window must fit into the last.

    >>> [scales(side) for side in (16, 28, 32, 64, 224)]
    [1, 2, 2, 3, 5]
    """
    return next((k for k in range(len(_WEIGHTS), 1, -1) if side >> (k - 1) >= WINDOW), 1)


def ms_ssim(images: Tensor, targets: Tensor, *, data_range: float = 1.0) -> Tensor:
    r"""Multi-scale structural similarity of each image, in [0, 1]; higher is closer, 1 for equal images.

    .. math:: l_M^{w_M} \prod_{j=1}^{M} s_j^{w_j}

    Wang, Simoncelli and Bovik, "Multi-scale structural similarity for image quality assessment", Asilomar 2003: the
    mean structure :math:`s_j` of every scale, the mean of luminance and structure of the coarsest, each scale the mean
    of 2 × 2 pixels of the one before; window and constants of `ssim`. Differentiable. Deviations: an image smaller than
    176 pixels has fewer scales (two at 28 and 32 pixels; one, which is `ssim`, below 22), and their weights are scaled
    to sum to 1; a negative mean counts as 0.

    Args:
        images: ``(N, C, H, W)``, at least 11 × 11 pixels.
        targets: ``(N, C, H, W)``.
        data_range: Width of the range of values of both.

    Returns:
        ``(N,)``, the mean over channels.

    Raises:
        ValueError: The shapes differ, or the images are smaller than the window.
    """
    return torch.cat([_ms_ssim(*part, data_range) for part in in_parts(images, targets, PART)])


def _ms_ssim(images: Tensor, targets: Tensor, data_range: float) -> Tensor:
    weights = _WEIGHTS[: scales(min(images.shape[2:]))]
    product = images.new_ones(images.shape[:2])
    for scale, weight in enumerate(weights, 1):
        luminance, structure = similarity_maps(images, targets, data_range)
        values = luminance * structure if scale == len(weights) else structure
        product = product * values.mean((2, 3)).clamp_min(0) ** (weight / sum(weights))
        if scale < len(weights):
            images, targets = functional.avg_pool2d(images, 2), functional.avg_pool2d(targets, 2)
    return product.mean(1)
