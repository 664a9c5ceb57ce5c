import base64
import io

import numpy as np
import pytest
from PIL import Image

from splitleak.attacker.watch.pictures import heat_map, pixels, png


def opened(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))


@pytest.mark.parametrize(
    ("shape", "size"), [((3, 5, 7), (5, 7)), ((2, 3, 5, 7), (5, 7)), ((197, 64), (197, 64)), ((50,), (5, 10))]
)
def test_a_feature_of_any_shape_is_a_picture(shape, size):
    drawn = heat_map(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    assert (drawn.shape, drawn.dtype) == ((*size, 3), np.uint8)


def test_the_largest_values_are_the_brightest_and_a_constant_or_a_broken_feature_is_drawn_too():
    drawn = heat_map(np.array([[[0, 1], [-5, 2]]], np.float32)).astype(int).sum(-1)
    assert drawn.argmax() == 2
    assert drawn.argmin() == 0
    assert heat_map(np.full((1, 2, 2), np.nan, np.float32)).shape == (2, 2, 3)
    assert heat_map(np.ones((4,), np.float32)).shape == (2, 3, 3)


def test_images_are_kept_to_the_pixel_and_large_ones_made_smaller():
    image = np.linspace(-0.5, 1.5, 3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5)
    assert np.array_equal(opened(png(pixels(image))), (image.clip(0, 1).transpose(1, 2, 0) * 255).round())
    assert opened(png(pixels(image[:1]))).shape == (4, 5)
    assert opened(png(np.zeros((300, 600), np.uint8))).shape == (128, 256)
