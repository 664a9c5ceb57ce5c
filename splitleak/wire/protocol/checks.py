"""What both ends check alike: a shape against an announced one, and images."""

import numpy as np

from splitleak.wire.protocol.codec import FloatArray


def fits(shape: tuple[int, ...], announced: tuple[int, ...]) -> bool:
    """Whether ``shape`` is as announced, where -1 stands for any size.

    >>> fits((3, 32, 32), (3, -1, -1))
    True
    """
    return shape == announced or (
        len(shape) == len(announced) and all(size in (-1, own) for own, size in zip(shape, announced, strict=True))
    )


def check_images(images: FloatArray, image_shape: tuple[int, ...]) -> None:
    """Refuses anything but a batch of images.

    Args:
        images: ``(N, C, H, W)`` float32 in [0, 1], N at least 1.
        image_shape: ``(C, H, W)``, where -1 stands for any size.

    Raises:
        ValueError: Another dtype or shape, or a value outside [0, 1] (NaN included).
    """
    if images.dtype != np.float32:
        raise ValueError(f"expected float32 images, got {images.dtype}")
    if images.ndim == 0 or not fits(images.shape[1:], image_shape) or len(images) == 0:
        expected = ", ".join(map(str, image_shape))
        raise ValueError(f"expected images of shape (N, {expected}) with N at least 1, got {images.shape}")
    check_range(images)


def check_range(images: FloatArray) -> None:
    """Raises a ValueError for images with a value outside [0, 1] or a NaN."""
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):  # also false for NaN
        raise ValueError(f"expected image values in [0, 1], got values from {low:g} to {high:g}")
