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
