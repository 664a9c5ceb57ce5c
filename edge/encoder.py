"""The interface of the edge's half of a split model: encoder and defense."""

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
        """Shape of the features of one image, without the batch axis."""

    def encode(self, images: npt.NDArray[np.float32], /) -> npt.NDArray[np.float32]:
        """Images ``(N, C, H, W)`` in [0, 1] to features ``(N, *feature_shape)``; called from one thread at a time."""


class Half(Encoder, Protocol):
    """An encoder with a name."""

    @property
    def name(self) -> str:
        """The model's name in the cloud, and the name under which the edge serves it."""


class PassThrough:
    """The encoder of a device that sends the image itself."""

    name = "image"

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        self.input_shape = self.feature_shape = input_shape

    def encode(self, images: npt.NDArray[np.float32], /) -> npt.NDArray[np.float32]:
        return images


def encode_images(encoder: Encoder, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Encodes images ``(N, C, H, W)``, and validates shape and dtype of the features.

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
