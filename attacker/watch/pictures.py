"""Pictures of the page: features as heat maps, and images, as PNG in data URIs."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_MOST_PIXELS = 256  # along a side; larger pictures are made smaller
_LEVELS = np.linspace(0, 1, 7)
# Dark to bright, of perceptually even steps: matplotlib's "inferno" at these levels.
_COLOURS = np.array(
    [[0, 0, 4], [51, 10, 95], [120, 28, 109], [187, 55, 84], [237, 105, 37], [252, 181, 25], [252, 255, 164]]
)
_COLUMNS_OF_A_VECTOR = 2  # as many times as wide as high


def heat_map(feature: NDArray[np.float32]) -> NDArray[np.uint8]:
    """One image's feature, of any shape, as a picture ``(h, w, 3)``: the brighter, the larger its values there.

    Channels ``(c, h, w)`` are averaged, tokens ``(n, d)`` are rows, and a vector is broken into lines.
    """
    values = np.abs(np.nan_to_num(feature, posinf=0, neginf=0).astype(np.float64))
    if values.ndim > 2:
        values = values.reshape(-1, *values.shape[-2:]).mean(0)
    elif values.ndim < 2:
        width = max(1, round(np.sqrt(_COLUMNS_OF_A_VECTOR * values.size)))
        lines = -(-values.size // width)
        values = np.pad(values.flatten(), (0, lines * width - values.size)).reshape(lines, width)
    low, high = values.min(), values.max()
    scaled = (values - low) / ((high - low) or 1.0)
    channels = [np.interp(scaled, _LEVELS, _COLOURS[:, channel]) for channel in range(3)]
    return np.stack(channels, -1).round().astype(np.uint8)


def pixels(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """An image ``(C, H, W)`` in [0, 1] as ``(H, W, 3)``, or ``(H, W)`` where it has not three channels."""
    scaled = (np.nan_to_num(image).clip(0, 1) * 255).round().astype(np.uint8)
    return scaled.transpose(1, 2, 0) if len(scaled) == 3 else scaled[0]


def png(picture: NDArray[np.uint8]) -> str:
    """A picture ``(h, w, 3)`` or ``(h, w)`` as a PNG's data URI."""
    image = Image.fromarray(picture)
    image.thumbnail((_MOST_PIXELS, _MOST_PIXELS))
    file = io.BytesIO()
    image.save(file, "png", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
