import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate1d

from splitleak.measures.ms_ssim import ms_ssim, scales
from splitleak.measures.ssim import ssim

WEIGHTS = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])


def by_hand(x, y):
    """MS-SSIM of two grey images by its definition, in numpy."""
    window = np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
    window /= window.sum()

    def smooth(values):
        return correlate1d(correlate1d(values, window, axis=0), window, axis=1)[5:-5, 5:-5]

    count = scales(min(x.shape))
    product = 1.0
    for weight in WEIGHTS[:count] / WEIGHTS[:count].sum():
        mx, my = smooth(x), smooth(y)
        vx, vy, cov = smooth(x * x) - mx**2, smooth(y * y) - my**2, smooth(x * y) - mx * my
        structure = ((2 * cov + 0.03**2) / (vx + vy + 0.03**2)).mean()
        whole = ((2 * cov + 0.03**2) / (vx + vy + 0.03**2) * (2 * mx * my + 0.01**2) / (mx**2 + my**2 + 0.01**2)).mean()
        count -= 1
        product *= max(structure if count else whole, 0) ** weight
        height, width = (side // 2 * 2 for side in x.shape)
        x, y = (z[:height, :width].reshape(height // 2, 2, width // 2, 2).mean((1, 3)) for z in (x, y))
    return product


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), height=st.integers(11, 60), width=st.integers(11, 60), noise=st.floats(0, 1))
def test_it_is_the_definition_at_any_size(seed, height, width, noise):
    x, other = np.random.default_rng(seed).random((2, height, width))
    y = (1 - noise) * x + noise * other
    found = ms_ssim(torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None])
    assert found.tolist() == pytest.approx([by_hand(x, y)], abs=1e-9)


def test_it_has_five_scales_where_there_is_room_and_at_least_one():
    sides = {11: 1, 21: 1, 22: 2, 28: 2, 32: 2, 43: 2, 44: 3, 88: 4, 175: 4, 176: 5, 512: 5}
    assert {side: scales(side) for side in sides} == sides


def test_of_one_scale_it_is_ssim():
    x, y = torch.rand(2, 3, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    near = 0.8 * x + 0.2 * y
    assert ms_ssim(x, near).tolist() == pytest.approx(ssim(x, near).tolist(), abs=1e-2)  # means of channels differ
    assert ms_ssim(x[:, :1], near[:, :1]).tolist() == pytest.approx(ssim(x[:, :1], near[:, :1]).tolist())


def test_equal_images_have_1_and_a_negative_is_no_closer_than_0():
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert ms_ssim(images, images).tolist() == pytest.approx([1, 1])
    assert ms_ssim(images, 1 - images).tolist() == [0, 0]


def test_images_smaller_than_the_window_are_refused():
    with pytest.raises(ValueError, match="at least 11 × 11 pixels"):
        ms_ssim(torch.rand(1, 1, 10, 10), torch.rand(1, 1, 10, 10))
