"""Images and shapes are refused in words, at both ends alike."""

import numpy as np
import pytest

from splitleak.wire.protocol.checks import check_images, fits

SHAPE = (1, 4, 4)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 1, 4, 4)), "expected float32 images, got float64"),
        (np.float32(0).reshape(()), r"expected images of shape \(N, 1, 4, 4\).*, got \(\)"),
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
    check_images(np.full((3, 1, 4, 4), value, np.float32), (-1, 4, -1))


def test_any_size_fits_where_none_is_announced_but_no_other_number_of_axes():
    assert fits((1, 4, 4), (1, 4, 4))
    assert fits((1, 4, 4), (-1, 4, -1))
    assert not fits((1, 4, 4), (-1, 5, -1))
    assert not fits((1, 4, 4), (-1, -1))
