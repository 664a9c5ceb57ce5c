"""Distances between images, pixel by pixel, and how rough an image is."""

import math

from torch import Tensor


def mse(images: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of each image, over channels and pixels; both ``(N, C, H, W)``, returns ``(N,)``.

    Raises:
        ValueError: The shapes differ.

    >>> mse(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5))
    tensor([0.2500])
    """
    check_pair(images, targets)
    return (images - targets).square().flatten(1).mean(1)


def psnr(images: Tensor, targets: Tensor, *, data_range: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB; higher is closer, equal images give ``inf``.

    Both batches are ``(N, C, H, W)`` on one scale, ``data_range`` wide; returns ``(N,)``, the caller averages.

    Raises:
        ValueError: The shapes differ.

    >>> psnr(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.1))
    tensor([20.])
    """
    return 20 * math.log10(data_range) - 10 * mse(images, targets).log10()


def batch_psnr(images: Tensor, targets: Tensor, *, data_range: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio in dB of a whole batch: of the mean of the images' errors; returns a scalar.

    The form of the published CEM tables (Xia et al., CVPR 2025, batches of 256). It is never above the mean of
    `psnr`, and below it by decibels where some images are rebuilt much better than others.

    Raises:
        ValueError: The shapes differ.
    """
    return 20 * math.log10(data_range) - 10 * mse(images, targets).mean().log10()


def total_variation(images: Tensor) -> Tensor:
    """Mean squared difference between vertical neighbours plus that between horizontal ones, of each image.

    ``(N, C, H, W)`` to ``(N,)``; each mean is over its own pairs. The prior of He et al., "Model inversion attacks
    against collaborative inference", ACSAC 2019, whose value for a batch is the mean of these.

    Raises:
        ValueError: The images have fewer than two rows or columns.

    >>> total_variation(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]]))
    tensor([1.])
    """
    if images.ndim != 4 or min(images.shape[2:]) < 2:
        raise ValueError(f"expected images (N, C, H, W) of at least 2 × 2 pixels, got {tuple(images.shape)}")
    vertical, horizontal = (images.diff(dim=dim).square().flatten(1).mean(1) for dim in (2, 3))
    return vertical + horizontal


def check_pair(images: Tensor, targets: Tensor) -> None:
    """Refuses two batches that cannot be compared.

    Raises:
        ValueError: The shapes differ, which broadcasting would hide.
    """
    if images.shape != targets.shape:
        raise ValueError(f"expected equal shapes, got {tuple(images.shape)} and {tuple(targets.shape)}")
