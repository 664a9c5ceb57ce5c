"""Every attack on features, on a channel whose best attack is known: no one may beat it, and the strong ones come near.

Images are x ~ N(1/2, s_x I), far enough from 0 and 1 to never be clamped; features are z = A x + n with A orthogonal
and n ~ N(0, s_n I). The bound on any attack is then the posterior variance s_x s_n / (s_x + s_n), exactly.
"""

import math

import pytest
import torch
from torch import nn

from splitleak.attacker.base import Knowledge, Query, Run
from splitleak.attacker.reconstruction import ATTACKS
from splitleak.measures.entropy import entropy_power, mixture_information
from splitleak.measures.pixel import mse

SIGNAL, NOISE = 0.1**2, 0.05**2  # variances
POSTERIOR = SIGNAL * NOISE / (SIGNAL + NOISE)
SIDE, VICTIMS, PUBLIC = 16, 200, 600
# The mean of as many squares of Gaussians as there are pixels strays from its expectation by 0.6 %: four times that.
CHANCE = 4 * math.sqrt(2 / (VICTIMS * SIDE**2))

SETTINGS = {
    "decoder": {"blocks": 0, "channels": 16, "epochs": 12, "ssim_weight": 0},
    "gan": {"blocks": 0, "channels": 16, "epochs": 12, "critic_width": 4, "ssim_weight": 0},
    "inverse-network": {"epochs": 20, "batch_size": 16, "halved_every": 6},
    "maximum-likelihood": {"start": "mean", "l2_weights": [1e-4, NOISE, 0.1], "iterations": 100, "learning_rate": 0.1},
}
# What needs residual blocks has no such channel; what else is not in SETTINGS is shortened: it cannot come near.
NO_CHANNEL = {"peel"}
BRIEF = {"epochs": 1, "decoder_epochs": 1, "iterations": 2, "members": 2, "decoder": {"epochs": 1}}
BRIEF |= {"training": {"iterations": 2, "width": 4}, "steps": 2, "latent_steps": 2, "block_steps": 2}
BRIEF |= {"recurrences": 1, "strength": 0.02, "guidance": [0.9]}
# How near to the bound an attack must come, as a multiple of it; the error of the mean image is 5 times the bound. An
# attack that is told the prior reaches the bound. One that learns the way back has to learn the prior from 600 images.
# Query-free is not in the list: the head understands many encoders, and nothing tells which of them is the true one.
WITHIN = {"decoder": 1.25, "gan": 1.25, "inverse-network": 1.15, "maximum-likelihood": 1 + CHANCE}


def turn():
    """An encoder whose matrix is orthogonal: four pixels to four channels."""
    conv = nn.Conv2d(1, 4, 2, stride=2, bias=False)
    torch.nn.init.orthogonal_(conv.weight.flatten(1))
    return conv


@pytest.fixture(scope="module")
def channel():
    """What an attacker may know of the channel, and the victims' images."""
    draw = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = turn().requires_grad_(False)
        head = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, 4)).requires_grad_(False).eval()

    def images(count):
        return 0.5 + SIGNAL**0.5 * torch.randn(count, 1, SIDE, SIDE, generator=draw)

    def send(images):
        clean = encoder(images)
        return clean + NOISE**0.5 * torch.randn(clean.shape, generator=draw)

    public, victims = images(PUBLIC), images(VICTIMS)
    known = Knowledge(
        captured=send(victims),
        image_shape=(1, SIDE, SIDE),
        public=public,
        query=Query(send, draws=8),
        labels=head(encoder(public)).argmax(1),
        encoder=encoder,
        head=head,
        fresh_encoder=turn,
    )
    return known, victims


def test_the_bound_of_the_channel_is_its_posterior_variance():
    dimensions = SIDE**2
    before = 0.5 * dimensions * math.log(2 * math.pi * math.e * SIGNAL)
    told = float(mixture_information(torch.ones(1), torch.full((1, dimensions), SIGNAL), NOISE))
    assert entropy_power(before - told, dimensions) == pytest.approx(POSTERIOR, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", sorted(name for name, kind in ATTACKS.items() if kind.takes == "features" and name not in NO_CHANNEL)
)
def test_no_attack_beats_the_bound_and_the_strong_ones_come_near(name, channel):
    known, victims = channel
    kind = ATTACKS[name].config_type
    shortened = {key: value for key, value in BRIEF.items() if key in kind.model_fields}
    attack = ATTACKS[name](kind.parse(SETTINGS.get(name, shortened), source="test"))
    error = float(mse(attack(known, Run()), victims).mean())
    assert error >= (1 - CHANCE) * POSTERIOR
    assert error <= WITHIN.get(name, math.inf) * POSTERIOR
