"""What the edge runs on an image before anything leaves the device: the encoder and its defense, seen from outside."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


class Encoder(Protocol):
    """The device's half of a split model, defense included; ``splitleak.defenses.artifact.EdgeHalf`` is one."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """``(C, H, W)`` of one image."""

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of what is sent for one image, without a batch axis."""

    def encode(self, images: npt.NDArray[np.float32], /) -> npt.NDArray[np.float32]:
        """Images ``(N, C, H, W)`` in [0, 1] to features ``(N, *feature_shape)``; called from one thread at a time."""


@dataclass(frozen=True)
class PassThrough:
    """The encoder of a device that sends what it is given."""

    input_shape: tuple[int, ...]

    @property
    def feature_shape(self) -> tuple[int, ...]:
        return self.input_shape

    def encode(self, images: npt.NDArray[np.float32], /) -> npt.NDArray[np.float32]:
        return images


def check_images(images: npt.NDArray[np.float32], input_shape: tuple[int, ...]) -> None:
    """Refuses what is no batch of images for an encoder of ``input_shape`` ``(C, H, W)``.

    Raises:
        ValueError: Not float32, not ``(N, C, H, W)`` with at least one image, or a value outside [0, 1] (NaN included).
    """
    if images.dtype != np.float32:
        raise ValueError(f"expected float32 images, got {images.dtype}")
    if images.ndim != 1 + len(input_shape) or images.shape[1:] != input_shape or len(images) == 0:
        expected = ", ".join(map(str, input_shape))
        raise ValueError(f"expected images of shape (N, {expected}) with N at least 1, got {images.shape}")
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):  # also false for NaN
        raise ValueError(f"expected image values in [0, 1], got values from {low:g} to {high:g}")


def encode_images(encoder: Encoder, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Runs the encoder on ``(N, C, H, W)`` and holds it to its word.

    Raises:
        RuntimeError: The features are not float32 of shape ``(N, *feature_shape)``.
    """
    features = encoder.encode(images)
    expected = (len(images), *encoder.feature_shape)
    if features.shape != expected or features.dtype != np.float32:
        raise RuntimeError(
            f"expected the encoder to give float32 features of shape {expected}, got {features.dtype} {features.shape}"
        )
    return features
