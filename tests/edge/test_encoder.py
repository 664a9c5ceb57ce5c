import numpy as np
import pytest

from splitleak.edge.encoder import check_images, encode_images

SHAPE = (1, 4, 4)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 1, 4, 4)), "expected float32 images, got float64"),
        (np.zeros((1, 4, 4), np.float32), r"expected images of shape \(N, 1, 4, 4\).*, got \(1, 4, 4\)"),
        (np.zeros((2, 3, 4, 4), np.float32), r"expected .*\(N, 1, 4, 4\).*, got \(2, 3, 4, 4\)"),
        (np.zeros((0, 1, 4, 4), np.float32), r"N at least 1, got \(0, 1, 4, 4\)"),
        (np.full((1, 1, 4, 4), 1.5, np.float32), r"expected .*\[0, 1\], got values from 1.5 to 1.5"),
        (np.full((1, 1, 4, 4), -0.25, np.float32), r"expected .*\[0, 1\], got values from -0.25 to -0.25"),
        (np.full((1, 1, 4, 4), np.nan, np.float32), r"expected .*\[0, 1\], got values from nan to nan"),
    ],
)
def test_a_refusal_says_what_was_expected_and_what_came(images, message):
    with pytest.raises(ValueError, match=message):
        check_images(images, SHAPE)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_both_ends_of_the_range_are_images(value):
    check_images(np.full((3, 1, 4, 4), value, np.float32), SHAPE)


def test_features_of_another_shape_than_the_encoder_announced_are_an_error(encoder):
    encoder.feature_shape = (5, 4, 4)
    with pytest.raises(RuntimeError, match=r"expected .*\(1, 5, 4, 4\), got float32 \(1, 2, 4, 4\)"):
        encode_images(encoder, np.zeros((1, 1, 4, 4), np.float32))
