import pytest
import torch

from splitleak.defenses.features.noise import GaussianNoise, GaussianNoiseConfig, LaplaceNoise, LaplaceNoiseConfig

KINDS = [GaussianNoise(GaussianNoiseConfig(sigma=0.3)), LaplaceNoise(LaplaceNoiseConfig(scale=0.3))]
EACH_KIND = pytest.mark.parametrize("noise", KINDS, ids=lambda noise: noise.name)


def added(noise, seed=0, count=200_000):
    noise.generator = torch.Generator().manual_seed(seed)
    return noise(torch.full((4, count // 4), 0.5)) - 0.5


@EACH_KIND
def test_noise_has_mean_zero_and_the_variance_it_states(noise):
    drawn = added(noise)
    assert float(drawn.mean()) == pytest.approx(0, abs=0.004)
    assert float(drawn.var()) == pytest.approx(noise.noise_variance, rel=0.02)


@pytest.mark.parametrize(("noise", "kurtosis"), [(KINDS[0], 3), (KINDS[1], 6)], ids=["gaussian", "laplace"])
def test_noise_has_the_tails_of_its_kind(noise, kurtosis):
    drawn = added(noise).double()
    assert float((drawn**4).mean() / drawn.var() ** 2) == pytest.approx(kurtosis, rel=0.06)


def test_the_parameters_are_a_deviation_and_a_scale():
    assert [each.noise_variance for each in KINDS] == pytest.approx([0.09, 0.18])


@EACH_KIND
def test_noise_repeats_under_one_seed_and_is_fresh_at_every_call(noise):
    first, again, other = added(noise, 1), added(noise, 1), added(noise, 2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(noise(torch.zeros(8)), noise(torch.zeros(8)))


@EACH_KIND
def test_noise_is_added_at_inference_too(noise):
    noise.eval()
    assert added(noise, count=64).any()
    noise.train()
