import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.autograd.functional import jacobian
from torch.utils._python_dispatch import TorchDispatchMode

from splitleak.measures.fisher import effective_dimensions, fisher_information, fisher_spectrum


def linear(matrix):
    return lambda images: images.flatten(1) @ matrix.T


@given(features=st.integers(1, 20), chunk=st.integers(1, 20), seed=st.integers(0, 2**32))
def test_the_spectrum_of_a_linear_encoder_is_its_squared_singular_values(features, chunk, seed):
    draw = torch.Generator().manual_seed(seed)
    matrix = torch.randn(features, 12, generator=draw, dtype=torch.float64)
    image = torch.rand(1, 3, 4, generator=draw, dtype=torch.float64)
    expected = torch.linalg.svdvals(matrix).square().flip(0)
    torch.testing.assert_close(fisher_spectrum(linear(matrix), image, chunk=chunk), expected, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("channels", [1, 9])
def test_the_spectrum_of_a_network_is_that_of_its_jacobian_at_the_image(channels):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(True), nn.MaxPool2d(2))
    encoder = encoder.append(nn.Conv2d(4, channels, 3, padding=1)).append(nn.Sigmoid()).double().eval()
    image = torch.rand(1, 6, 6).double()
    whole = jacobian(lambda pixels: encoder(pixels[None]).flatten(), image).flatten(1)
    assert (len(whole) > image.numel()) == (channels == 9)
    found = fisher_spectrum(encoder, image, chunk=5)
    expected = torch.linalg.svdvals(whole).square().flip(0)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-6)


@given(features=st.integers(1, 9), seed=st.integers(0, 2**32), signal=st.floats(1e-3, 1), noise=st.floats(1e-4, 1))
def test_it_is_the_mutual_information_of_a_linear_gaussian_channel(features, seed, signal, noise):
    draw = torch.Generator().manual_seed(seed)
    matrix = torch.randn(features, 6, generator=draw, dtype=torch.float64)
    sent = (
        signal * matrix @ matrix.T + noise * torch.eye(features).double()
    )  # covariance; that of the noise is taken off
    information = 0.5 * (torch.logdet(sent) - features * math.log(noise))
    spectrum = fisher_spectrum(linear(matrix), torch.rand(1, 2, 3, generator=draw).double())
    found = fisher_information(spectrum, 6, image_variance=signal, noise_variance=noise)
    assert found == pytest.approx(float(information) / 6, rel=1e-6, abs=1e-9)


def test_more_noise_leaks_less():
    spectrum = torch.tensor([0.0, 0.1, 5.0])
    found = [fisher_information(spectrum, 4, image_variance=0.06, noise_variance=s**2) for s in (0.01, 0.05, 0.1, 1)]
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == 4


def test_without_noise_there_is_no_bound_and_no_number():
    assert fisher_information(torch.ones(3), 4, image_variance=0.06, noise_variance=0) is None


def test_a_constant_feature_has_zero_information_and_dimension():
    spectrum = fisher_spectrum(lambda images: 0 * images.flatten(1), torch.rand(1, 2, 2))
    assert fisher_information(spectrum, 4, image_variance=0.06, noise_variance=0.01) == 0
    assert effective_dimensions(spectrum) == 0


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=9))
def test_effective_dimensions_are_between_one_and_all_whatever_the_scale(values):
    spectrum = torch.tensor(values, dtype=torch.float64)
    found = effective_dimensions(spectrum)
    assert 1 - 1e-9 <= found <= len(values) + 1e-9
    assert effective_dimensions(7 * spectrum) == pytest.approx(found)


@pytest.mark.parametrize(("dimensions", "images", "noise"), [(0, 1, 1), (4, -1, 1), (4, 1, -1)])
def test_what_cannot_be_is_refused(dimensions, images, noise):
    with pytest.raises(ValueError, match="expected at least 1 dimension and variances of at least 0"):
        fisher_information(torch.ones(3), dimensions, image_variance=images, noise_variance=noise)


@pytest.mark.parametrize(("features", "pixels"), [(2**14 + 1, 2**14 + 1), (2**13, 2**16)])
def test_what_would_not_fit_into_memory_is_refused_before_anything_is_computed(features, pixels):
    def encoder(images):
        return images.flatten(1)[:, :1].expand(-1, features)

    with pytest.raises(ValueError, match=f"expected features or an image of at most 16,384 .*, got {features:,} by"):
        fisher_spectrum(encoder, torch.zeros(1, 1, pixels))


class Largest(TorchDispatchMode):
    """Knows the values of the largest tensor that was made while it is entered."""

    values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.values = max(self.values, made.numel() if isinstance(made, torch.Tensor) else 0)
        return made


def test_memory_holds_a_few_rows_at_a_time_however_many_features_there_are():
    """As many unit vectors as features, all at once, were 17 GB for 64 channels of 32 x 32."""
    features, chunk = 3000, 10
    matrix = torch.rand(features, 4, generator=torch.Generator().manual_seed(0))
    with Largest() as largest:
        found = fisher_spectrum(linear(matrix), torch.rand(1, 2, 2), chunk=chunk)
    assert largest.values <= chunk * features
    expected = torch.linalg.eigvalsh(matrix.T.double() @ matrix.double())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)
