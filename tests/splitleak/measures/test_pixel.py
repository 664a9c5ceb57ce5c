import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio

from splitleak.measures import pixel
from splitleak.measures.lpips import lpips
from splitleak.measures.ms_ssim import ms_ssim
from splitleak.measures.pixel import batch_psnr, mse, psnr, total_variation
from splitleak.measures.ssim import ssim, ssim_zero_padded


@given(
    seed=st.integers(0, 2**32), channels=st.sampled_from([1, 3]), height=st.integers(1, 9), data_range=st.floats(0.1, 9)
)
def test_errors_agree_with_scikit_image(seed, channels, height, data_range):
    draw = np.random.default_rng(seed)
    images, targets = data_range * draw.random((2, 3, channels, height, 5))
    pairs = list(zip(images, targets, strict=True))
    images, targets = torch.from_numpy(images), torch.from_numpy(targets)
    assert mse(images, targets).tolist() == pytest.approx([mean_squared_error(a, b) for a, b in pairs])
    expected = [peak_signal_noise_ratio(a, b, data_range=data_range) for a, b in pairs]
    assert psnr(images, targets, data_range=data_range).tolist() == pytest.approx(expected)
    whole = peak_signal_noise_ratio(images.numpy(), targets.numpy(), data_range=data_range)
    assert float(batch_psnr(images, targets, data_range=data_range)) == pytest.approx(whole)


def test_psnr_of_a_batch_is_not_the_mean_over_images():
    images = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    targets = torch.tensor([0.1, 0.3], dtype=torch.float64).view(2, 1, 1, 1).expand_as(images)
    assert mse(images, targets).tolist() == pytest.approx([0.01, 0.09])
    assert float(batch_psnr(images, targets)) == pytest.approx(13.0103, abs=5e-5)
    assert float(psnr(images, targets).mean()) == pytest.approx(15.2288, abs=5e-5)


def test_equal_images_have_infinite_psnr():
    images = torch.rand(2, 3, 4, 4)
    assert psnr(images, images).tolist() == [float("inf")] * 2


@pytest.mark.parametrize("measure", [mse, psnr, batch_psnr])
def test_shapes_that_would_broadcast_are_refused(measure):
    with pytest.raises(ValueError, match=r"expected equal shapes, got \(2, 3, 4, 4\) and \(2, 1, 4, 4\)"):
        measure(torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4))


@given(seed=st.integers(0, 2**32), channels=st.integers(1, 3), height=st.integers(2, 6), width=st.integers(2, 6))
def test_total_variation_of_a_batch_is_the_mean_of_its_images(seed, channels, height, width):
    images = np.random.default_rng(seed).random((3, channels, height, width))
    rows, columns = np.diff(images, axis=2), np.diff(images, axis=3)
    batch = ((rows**2).sum() / rows[0].size + (columns**2).sum() / columns[0].size) / 3
    found = total_variation(torch.from_numpy(images))
    assert found.shape == (3,)
    assert float(found.mean()) == pytest.approx(batch)


def test_a_flat_image_has_no_variation():
    assert total_variation(torch.full((1, 3, 5, 5), 0.7)).tolist() == [0]


@pytest.mark.parametrize("shape", [(1, 1, 1, 8), (1, 1, 8, 1), (8, 8)])
def test_images_without_neighbours_are_refused(shape):
    with pytest.raises(ValueError, match="at least 2 × 2 pixels"):
        total_variation(torch.zeros(shape))


@pytest.mark.parametrize("measure", [ssim, ssim_zero_padded, ms_ssim, lpips])
def test_pictures_are_compared_a_few_at_a_time_and_have_the_same_values(measure, monkeypatch):
    """A thousand of 3 × 224 × 224 at once took 6 GB beside the pictures, and 64 of 512 × 512 for LPIPS 15."""
    images, targets = torch.rand(2, 5, 3, 24, 28, generator=torch.Generator().manual_seed(0))
    whole = measure(images, targets)
    module = sys.modules[measure.__module__]
    several = []

    def in_parts(images, targets, values):
        parts = list(pixel.in_parts(images, targets, 2 * images[0].numel() + 1))
        several.extend(len(part) for part, _ in parts)
        return parts

    monkeypatch.setattr(module, "in_parts", in_parts)
    torch.testing.assert_close(measure(images, targets), whole)
    assert several == [2, 2, 1]


def test_a_part_has_one_picture_or_as_many_as_it_may_hold():
    images = torch.arange(8.0).reshape(4, 1, 1, 2)
    for values, sizes in ((1, [1, 1, 1, 1]), (4, [2, 2]), (7, [3, 1]), (100, [4])):
        parts = list(pixel.in_parts(images, images + 1, values))
        assert [len(part) for part, _ in parts] == sizes
        assert torch.equal(torch.cat([part for part, _ in parts]), images)
        assert torch.equal(torch.cat([other for _, other in parts]), images + 1)
    with pytest.raises(ValueError, match="expected equal shapes"):
        list(pixel.in_parts(images, images[:2], 4))
