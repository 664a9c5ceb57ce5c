"""Structural similarity (SSIM), in the standard form and in the zero-padded form of the published tables."""

import torch
from torch import Tensor

from splitleak.measures.pixel import check_pair, in_parts

WINDOW = 11
_SIGMA = 1.5
_K1, _K2 = 0.01, 0.03
PART = 2**22
"""Values of images that are compared at once: what is made of them takes ten times as much memory."""


def missing(shape: tuple[int, ...]) -> str | None:
    """Why pictures ``(C, H, W)`` have no SSIM, in any of its forms: too few pixels; None if they have one."""
    return f"needs pictures of at least {WINDOW} pixels a side" if min(shape[1:]) < WINDOW else None


def ssim(images: Tensor, targets: Tensor, *, data_range: float = 1.0) -> Tensor:
    """Structural similarity of each image, in [-1, 1]; higher is closer, 1 for equal images. Differentiable.

    Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE TIP 2004: Gaussian
    window of 11 × 11, standard deviation 1.5, biased variances, K1 = 0.01, K2 = 0.03.

    Args:
        images: ``(N, C, H, W)``, at least 11 × 11 pixels.
        targets: ``(N, C, H, W)``.
        data_range: Width of the range of values of both.

    Returns:
        ``(N,)``, the mean over channels and over the positions where the window lies inside the image.

    Raises:
        ValueError: The shapes differ, or the images are smaller than the window.
    """
    return _mean_ssim(images, targets, data_range, padding=0)


def ssim_zero_padded(images: Tensor, targets: Tensor, *, data_range: float = 1.0) -> Tensor:
    """`ssim` with zero padding and a window at every pixel: the form of the published CEM tables.

    Xia et al., CVPR 2025, and others that use the same widespread snippet. The padding counts as image, so values
    differ from `ssim` most for small images and flat borders; compare it with published figures only.

    Raises:
        ValueError: The shapes differ, or the images are smaller than the window.
    """
    return _mean_ssim(images, targets, data_range, padding=WINDOW // 2)


def _mean_ssim(images: Tensor, targets: Tensor, data_range: float, *, padding: int) -> Tensor:
    def mean(own: Tensor, theirs: Tensor) -> Tensor:
        luminance, structure = similarity_maps(own, theirs, data_range, padding=padding)
        return (luminance * structure).flatten(1).mean(1)

    return torch.cat([mean(*part) for part in in_parts(images, targets, PART)])


def similarity_maps(images: Tensor, targets: Tensor, data_range: float, *, padding: int = 0) -> tuple[Tensor, Tensor]:
    """The two factors of SSIM at each position of the window, each ``(N, C, h, w)``: luminance, and structure.

    Raises:
        ValueError: The shapes differ, or the images are smaller than the window.
    """
    check_pair(images, targets)
    if images.ndim != 4 or min(images.shape[2:]) < WINDOW:
        raise ValueError(
            f"expected images (N, C, H, W) of at least {WINDOW} × {WINDOW} pixels, got {tuple(images.shape)}"
        )
    x, y = images.flatten(0, 1), targets.flatten(0, 1)  # (N * C, H, W): per channel
    rows, columns = (_smoothing(side, padding, images.device).to(images.dtype) for side in images.shape[2:])
    maps = rows @ torch.stack((x, y, x * x, y * y, x * y)) @ columns.T
    mean_x, mean_y, square_x, square_y, product = maps.unbind()
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    covariance = product - mean_x * mean_y
    variances = square_x - mean_x.square() + square_y - mean_y.square()
    structure = (2 * covariance + c2) / (variances + c2)
    return luminance.unflatten(0, images.shape[:2]), structure.unflatten(0, images.shape[:2])


def _smoothing(side: int, padding: int, device: torch.device) -> Tensor:
    """The separable Gaussian window as a matrix ``(positions, side)``; beyond the border is zero padding.

    Two matrix products took a twentieth of the time of convolutions at 32 pixels on a CPU.
    """
    half = WINDOW // 2
    centres = torch.arange(half - padding, side - half + padding, device=device)
    offsets = torch.arange(side, device=device) - centres[:, None]
    window = torch.exp(torch.arange(-half, half + 1, dtype=torch.float64, device=device).square() / (-2 * _SIGMA**2))
    weights = torch.exp(offsets.double().square() / (-2 * _SIGMA**2)) / window.sum()
    return weights.masked_fill(offsets.abs() > half, 0)
