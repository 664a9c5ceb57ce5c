import pytest
import torch

from splitleak.attacker.class_inversion.vmi import VMI, VMIConfig, divergence


def fitted(searched, **settings):
    attack = VMI(VMIConfig(**{"steps": 20, "samples": 4, "restarts": 30, "learning_rate": 0.05, **settings}))
    return attack, attack(searched)


@pytest.mark.parametrize(
    ("mean", "deviations", "expected"), [((1.0, 0.0), (1.0, 2.0), 1.3068528), ((0.0, 0.0), (1.0, 1.0), 0)]
)
def test_the_divergence_is_that_worked_out_by_hand(mean, deviations, expected):
    found = divergence(torch.tensor([mean]), torch.diag(torch.tensor(deviations))[None])
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_the_divergence_is_torchs():
    factor = torch.randn(3, 4, 4).tril() + 2 * torch.eye(4)
    mean = torch.randn(3, 4)
    own = torch.distributions.MultivariateNormal(mean, covariance_matrix=factor @ factor.mT)
    normal = torch.distributions.MultivariateNormal(torch.zeros(3, 4), torch.eye(4).expand(3, 4, 4))
    expected = torch.distributions.kl_divergence(own, normal)
    assert torch.allclose(divergence(mean, factor), expected, rtol=1e-3)


def test_it_starts_at_the_prior_itself(searched):
    latents = fitted(searched, steps=0, restarts=200)[0].weights()["latents"]
    assert latents.mean() == pytest.approx(0, abs=0.02)
    assert latents.std() == pytest.approx(1, abs=0.02)


def test_a_heavier_divergence_keeps_the_latents_likelier_and_the_model_less_sure(searched):
    light, heavy = (fitted(searched, divergence_weight=weight, steps=60)[0] for weight in (0, 1.0))
    sizes = [attack.weights()["latents"].mean(1).square().sum(1).mean() for attack in (light, heavy)]
    assert sizes[1] < 0.8 * sizes[0]
    assert heavy.findings["confidence"] < light.findings["confidence"]


def test_the_published_weight_is_a_thousandth():
    assert VMI.paper_config().divergence_weight == 1e-3
