import pytest
import torch
from torch import nn

from splitleak.defenses.base import Step
from splitleak.defenses.features.noise import GaussianNoise, GaussianNoiseConfig, LaplaceNoise, LaplaceNoiseConfig
from splitleak.defenses.features.noise_arl import NoiseARL, NoiseARLConfig
from splitleak.defenses.features.ressfl import ResSFL, ResSFLConfig
from splitleak.defenses.stack import Stack
from splitleak.models.split import SplitModel

SMALL = {"blocks": 0, "channels": 8}


def prepared(*defenses):
    stack = Stack(defenses)
    encoder = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(1, 4, 1))
    stack.prepare(SplitModel(encoder, nn.Identity(), (1, 16, 16)), 3)
    return stack


def drawn(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("kind", "sees_noise"), [(ResSFL, False), (NoiseARL, True)])
def test_its_surrogate_sees_the_noise_where_ressfls_does_not(kind, sees_noise):
    _, defense = prepared(GaussianNoise(GaussianNoiseConfig()), kind(kind.config_type(**SMALL)))
    seen = []
    defense.surrogate.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    features, sent = drawn(1, 8, 4, 4, 4), drawn(2, 8, 4, 4, 4)
    nothing = torch.empty(0)
    defense.penalty(Step(drawn(0, 8, 1, 16, 16), nothing, features, sent, nothing, 0, 0.1))
    assert len(seen) == 2
    assert all(torch.equal(each, sent if sees_noise else features) for each in seen)


@pytest.mark.parametrize("noise", [GaussianNoise(GaussianNoiseConfig()), LaplaceNoise(LaplaceNoiseConfig())])
def test_any_noise_will_do_wherever_it_stands_in_the_stack(noise):
    prepared(NoiseARL(NoiseARLConfig(**SMALL)), noise)


@pytest.mark.parametrize("others", [(), (GaussianNoise(GaussianNoiseConfig(sigma=0)),)])
def test_it_is_refused_without_noise(others):
    with pytest.raises(ValueError, match="noise-arl: expected noise in the stack"):
        prepared(*others, NoiseARL(NoiseARLConfig(**SMALL)))


def test_its_defaults_are_those_of_ressfl():
    assert NoiseARLConfig().document() == ResSFLConfig().document()
