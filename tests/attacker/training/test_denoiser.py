import pytest
import torch

from splitleak.attacker.base import Run
from splitleak.attacker.training.denoiser import Denoiser, DenoiserConfig, DenoiserTraining, alpha_bar, train_denoiser

QUICK = DenoiserTraining(width=8, iterations=50, batch_size=16, learning_rate=5e-3)


def test_noisy_pictures_are_split_into_the_picture_and_the_noise_they_are_made_of():
    network = Denoiser(DenoiserConfig(channels=1, height=8, wide=8, width=4))
    noisy = torch.randn(2, 1, 8, 8)
    clean, noise = network.split(noisy, 0.3)
    share = alpha_bar(0.3)
    assert torch.allclose(share**0.5 * clean + (1 - share) ** 0.5 * noise, noisy, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 20, 28), (1, 7, 9)])
def test_pictures_of_any_size_are_denoised(shape):
    channels, height, wide = shape
    network = Denoiser(DenoiserConfig(channels=channels, height=height, wide=wide, width=4))
    assert network(torch.randn(2, *shape), torch.rand(2)).shape == (2, *shape)


@pytest.mark.slow
def test_training_lowers_the_loss_and_repeats_by_seed(small_splits):
    images = small_splits.public.floats()
    network, history = train_denoiser(QUICK, images, Run(seed=1))
    again, _ = train_denoiser(QUICK, images, Run(seed=1))
    assert history[-1]["loss"] < 0.9 * history[0]["loss"]
    assert all(torch.equal(one, other) for one, other in zip(network.parameters(), again.parameters(), strict=True))
    assert not any(weight.requires_grad for weight in network.parameters())


def test_shares_of_the_picture_fall_with_time():
    shares = [alpha_bar(time / 10) for time in range(11)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1
