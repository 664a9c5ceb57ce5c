import dataclasses

import pytest
import torch

from splitleak.attacker.base import Run
from splitleak.attacker.class_inversion.ked import KEDMI, KEDConfig, unreal

GAN = {"width": 4, "batch_size": 8, "iterations": 30}
QUICK = {"gan": GAN, "steps": 3, "restarts": 3}


def test_the_critics_doubt_is_that_worked_out_by_hand():
    assert unreal(torch.zeros(1, 2)).item() == pytest.approx(0.4054651, abs=1e-6)


def test_the_images_of_a_class_are_samples_of_one_gaussian(searched):
    attack = KEDMI(KEDConfig(**{**QUICK, "restarts": 40, "steps": 0, "log_variance": -2.0}))
    rebuilt = attack(searched)
    assert rebuilt.shape == (10, 40, *searched.image_shape)
    latents = attack.weights()["latents"]
    assert latents.std(1, correction=0).mean() == pytest.approx(torch.tensor(-1.0).exp().item(), rel=0.1)


@pytest.mark.slow
def test_its_critic_learns_the_models_answers(searched):
    attack = KEDMI(KEDConfig(**{**QUICK, "gan": {**GAN, "width": 8, "iterations": 100}}))
    _, critic = attack.networks(searched, Run(), searched.model)
    agreed = critic(searched.public).argmax(1) == searched.model(searched.public).argmax(1)
    assert agreed.float().mean() > 0.3


@pytest.mark.slow
def test_public_images_and_the_model_are_all_it_needs(searched):
    given = dataclasses.replace(searched, prior=None, query=None, labels=None)
    attack = KEDMI(KEDConfig(**QUICK))
    assert torch.equal(attack(given), KEDMI(KEDConfig(**QUICK))(searched))
    assert any(name.startswith("generator.") for name in attack.weights())


def test_the_published_settings_are_keds():
    published = KEDMI.paper_config()
    assert (published.steps, published.learning_rate, published.identity_weight) == (2400, 0.02, 100)
    assert (published.entropy_weight, published.log_variance) == (1e-4, 1)
    assert (published.gan.critic_steps, published.gan.learning_rate, published.gan.average) == (5, 2e-4, 0)
