import pytest
import torch
from torch import nn

from splitleak.defenses.base import Step
from splitleak.defenses.features.noise import GaussianNoise, GaussianNoiseConfig, LaplaceNoise, LaplaceNoiseConfig
from splitleak.defenses.features.noise_arl import NoiseARL, NoiseARLConfig
from splitleak.defenses.features.permutation import Permutation, PermutationConfig
from splitleak.defenses.features.ressfl import ResSFL, ResSFLConfig
from splitleak.defenses.stack import Stack
from splitleak.defenses.training import TrainingConfig, training_step
from splitleak.models.split import SplitModel
from splitleak.testing.material import small_network

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


@pytest.mark.parametrize("precision", ["single", "bfloat16"])
def test_its_surrogate_sees_channels_in_the_order_of_the_encoder_whatever_they_are_sent_in(monkeypatch, precision):
    """The cloud knows the order; a surrogate that sees another in each batch learns little, and so does the encoder."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    noise, permutation = GaussianNoise(GaussianNoiseConfig(sigma=1e-6)), Permutation(PermutationConfig(bits=4))
    stack, model = Stack([noise, permutation, NoiseARL(NoiseARLConfig(**SMALL))]), small_network()
    stack.prepare(model, 10)
    stack.seed(0, torch.device("cpu"))
    given, seen = [], []
    model.encoder.register_forward_hook(lambda *called: given.append(called[2].detach()))
    stack.defenses[2].surrogate.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    config = TrainingConfig(precision=precision)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for seed in range(3):
        images = drawn(seed, 8, 1, 16, 16)
        training_step(model, stack, optimizer, images, torch.arange(8), epoch=0, rate=0.1, config=config)
        torch.testing.assert_close(seen[-1][:, :-1], given[-1][:, :-1], atol=1e-4, rtol=0.02)


@pytest.mark.parametrize("noise", [GaussianNoise(GaussianNoiseConfig()), LaplaceNoise(LaplaceNoiseConfig())])
def test_any_noise_will_do_wherever_it_stands_in_the_stack(noise):
    prepared(NoiseARL(NoiseARLConfig(**SMALL)), noise)


@pytest.mark.parametrize("others", [(), (GaussianNoise(GaussianNoiseConfig(sigma=0)),)])
def test_it_is_refused_without_noise(others):
    with pytest.raises(ValueError, match="noise-arl: expected noise in the stack"):
        prepared(*others, NoiseARL(NoiseARLConfig(**SMALL)))


def test_its_defaults_are_those_of_ressfl():
    assert NoiseARLConfig().document() == ResSFLConfig().document()
