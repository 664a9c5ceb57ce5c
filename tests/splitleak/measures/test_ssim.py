import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate1d
from skimage.metrics import structural_similarity

from splitleak.measures.ssim import ssim, ssim_zero_padded


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    channels=st.sampled_from([1, 3]),
    height=st.integers(11, 20),
    width=st.integers(11, 20),
    noise=st.floats(0, 1),
)
def test_it_agrees_with_scikit_image(seed, channels, height, width, noise):
    draw = np.random.default_rng(seed)
    targets, other = draw.random((2, 2, channels, height, width))
    images = (1 - noise) * targets + noise * other
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    expected = [structural_similarity(a, b, channel_axis=0, **options) for a, b in zip(images, targets, strict=True)]
    found = ssim(torch.from_numpy(images), torch.from_numpy(targets))
    assert found.tolist() == pytest.approx(expected, abs=1e-9)
    single = ssim(torch.from_numpy(images).float(), torch.from_numpy(targets).float())
    assert single.tolist() == pytest.approx(expected, abs=1e-4)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), height=st.integers(11, 16), width=st.integers(11, 16))
def test_the_zero_padded_form_agrees_with_filters_that_see_zeros(seed, height, width):
    x, y = np.random.default_rng(seed).random((2, height, width))
    window = np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
    window /= window.sum()

    def smooth(values):
        return correlate1d(correlate1d(values, window, axis=0, mode="constant"), window, axis=1, mode="constant")

    mx, my = smooth(x), smooth(y)
    vx, vy, cov = smooth(x * x) - mx**2, smooth(y * y) - my**2, smooth(x * y) - mx * my
    expected = (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    found = ssim_zero_padded(torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None])
    assert float(found) == pytest.approx(expected.mean(), abs=1e-9)


@pytest.mark.parametrize(("measure", "expected"), [(ssim, 0.800064), (ssim_zero_padded, 0.731696)])
def test_constant_images_score_as_published(measure, expected):
    images = torch.full((1, 3, 32, 32), 0.5, dtype=torch.float64)
    assert float(measure(images, images / 2)) == pytest.approx(expected, abs=5e-7)
    assert float(measure(images.float(), images.float() / 2)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("measure", "expected"), [(ssim, -0.496295), (ssim_zero_padded, -0.18969)])
def test_opposite_ramps_score_as_published(measure, expected):
    ramp = (torch.arange(1024, dtype=torch.float64) / 1023).view(1, 1, 32, 32)
    assert float(measure(ramp, 1 - ramp)) == pytest.approx(expected, abs=5e-6)


@pytest.mark.parametrize("measure", [ssim, ssim_zero_padded])
def test_each_image_has_its_own_score_and_itself_scores_one(measure):
    targets = torch.rand(3, 3, 16, 16)
    images = targets.clone()
    images[1] = 1 - images[1]
    found = measure(images, targets)
    assert found.shape == (3,)
    assert found[[0, 2]].tolist() == pytest.approx([1, 1], abs=1e-5)
    assert found[1] < 0.5


@pytest.mark.parametrize("measure", [ssim, ssim_zero_padded])
def test_the_scale_of_the_images_does_not_matter(measure):
    images, targets = torch.rand(2, 2, 1, 16, 16, dtype=torch.float64)
    scaled = measure(255 * images, 255 * targets, data_range=255)
    torch.testing.assert_close(scaled, measure(images, targets))


@pytest.mark.parametrize("measure", [ssim, ssim_zero_padded])
def test_gradients_are_right(measure):
    images, targets = torch.rand(2, 1, 1, 11, 12, dtype=torch.float64)
    assert torch.autograd.gradcheck(measure, (images.requires_grad_(), targets))


@pytest.mark.parametrize("measure", [ssim, ssim_zero_padded])
def test_images_smaller_than_the_window_are_refused(measure):
    with pytest.raises(ValueError, match=r"at least 11 × 11 pixels, got \(1, 1, 10, 32\)"):
        measure(torch.zeros(1, 1, 10, 32), torch.zeros(1, 1, 10, 32))


@pytest.mark.parametrize("measure", [ssim, ssim_zero_padded])
def test_shapes_that_would_broadcast_are_refused(measure):
    with pytest.raises(ValueError, match="expected equal shapes"):
        measure(torch.zeros(2, 1, 32, 32), torch.zeros(1, 1, 32, 32))
