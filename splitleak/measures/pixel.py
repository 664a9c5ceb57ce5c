"""Pixel-wise measures: mean squared error (MSE), peak signal-to-noise ratio (PSNR) and total variation."""

import math
from collections.abc import Iterator

from torch import Tensor


def mse(images: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of each image, over channels and pixels; lower is closer.

    Args:
        images: ``(N, C, H, W)``.
        targets: ``(N, C, H, W)``.

    Returns:
        ``(N,)``, in squared units of the images.

    Raises:
        ValueError: The shapes differ.

    >>> import torch
    >>> mse(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5))
    tensor([0.2500])
    """
    check_pair(images, targets)
    return (images - targets).square().flatten(1).mean(1)


def psnr(images: Tensor, targets: Tensor, *, data_range: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB; higher is closer, equal images give ``inf``.

    Args:
        images: ``(N, C, H, W)``.
        targets: ``(N, C, H, W)``.
        data_range: Width of the range of values of both.

    Returns:
        ``(N,)``; the caller averages.

    Raises:
        ValueError: The shapes differ.

    >>> import torch
    >>> psnr(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.1))
    tensor([20.])
    """
    return 20 * math.log10(data_range) - 10 * mse(images, targets).log10()


def batch_psnr(images: Tensor, targets: Tensor, *, data_range: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio in dB of the mean MSE of a batch, a scalar.

    The form of the published CEM tables (Xia et al., CVPR 2025, batches of 256). It is never above the mean of
    `psnr`, and below it by decibels where some images are reconstructed much better than others.

    Args:
        images: ``(N, C, H, W)``.
        targets: ``(N, C, H, W)``.
        data_range: Width of the range of values of both.

    Raises:
        ValueError: The shapes differ.
    """
    return 20 * math.log10(data_range) - 10 * mse(images, targets).mean().log10()


def total_variation(images: Tensor) -> Tensor:
    """Squared total variation: mean squared difference of vertical neighbours plus that of horizontal ones.

    ``(N, C, H, W)`` to ``(N,)``; each mean is over its own pairs. The prior of He et al., "Model inversion attacks
    against collaborative inference", ACSAC 2019, whose value for a batch is the mean of these.

    Raises:
        ValueError: The images have fewer than two rows or columns.

    >>> import torch
    >>> total_variation(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]]))
    tensor([1.])
    """
    if images.ndim != 4 or min(images.shape[2:]) < 2:
        raise ValueError(f"expected images (N, C, H, W) of at least 2 × 2 pixels, got {tuple(images.shape)}")
    vertical, horizontal = (images.diff(dim=dim).square().flatten(1).mean(1) for dim in (2, 3))
    return vertical + horizontal


def check_pair(images: Tensor, targets: Tensor) -> None:
    """Checks that two batches have equal shapes.

    Raises:
        ValueError: The shapes differ, which broadcasting would hide.
    """
    if images.shape != targets.shape:
        raise ValueError(f"expected equal shapes, got {tuple(images.shape)} and {tuple(targets.shape)}")


def in_parts(images: Tensor, targets: Tensor, values: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Two batches ``(N, ...)`` in parts of at most ``values`` of each, or of one image: memory does not grow with N.

    Raises:
        ValueError: The shapes differ.
    """
    check_pair(images, targets)
    many = max(1, values // max(1, math.prod(images.shape[1:])))
    return zip(images.split(many), targets.split(many), strict=True)
