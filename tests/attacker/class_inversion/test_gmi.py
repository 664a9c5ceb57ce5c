import dataclasses

import pytest
import torch
from torch import nn

from splitleak.attacker.base import Run
from splitleak.attacker.class_inversion.base import ClassKnowledge
from splitleak.attacker.class_inversion.gmi import GMI, GMIConfig
from splitleak.attacker.class_inversion.search import Search

PUBLISHED = GMI.paper_config()


def attacked(searched, config, **changes):
    attack = GMI(config)
    return attack, attack(dataclasses.replace(searched, **changes), Run(seed=1))


def test_a_step_is_that_of_the_published_code():
    attack = GMI(PUBLISHED.model_copy(update={"bound": None}))
    value = nn.Parameter(torch.zeros(1, 1))
    optimizer, seen = attack.optimizer(value), []
    for _ in range(2):
        value.grad = torch.ones(1, 1)
        optimizer.step()
        seen.append(value.item())
    assert seen == pytest.approx([-0.038, -0.0922])


def test_latents_stay_within_the_bound(searched):
    attack, _ = attacked(searched, GMIConfig(steps=2, learning_rate=10))
    assert attack.weights()["latents"].abs().max() == 1
    free, _ = attacked(searched, GMIConfig(steps=2, learning_rate=10, bound=None))
    assert free.weights()["latents"].abs().max() > 1


def test_the_loss_is_the_critics_and_a_hundred_times_the_identitys(searched):
    attack, latents = GMI(GMIConfig()), torch.randn(3, searched.prior.generator.config.latent)
    search = Search("gmi", searched.prior.generator, searched.prior.critic, searched.model, None, searched, Run())
    labels, images = torch.tensor([4, 0, 9]), searched.prior.generator(latents)
    identity = nn.functional.cross_entropy(searched.model(images), labels, reduction="none")
    expected = 100 * identity - searched.prior.critic(images)
    assert torch.allclose(attack.loss(search, latents, labels, torch.Generator()), expected, atol=1e-4)


def test_a_prior_without_a_critic_is_refused_unless_the_critic_counts_for_nothing(searched):
    prior = dataclasses.replace(searched.prior, critic=None)
    with pytest.raises(ValueError, match="'gmi': expected a prior with a critic"):
        attacked(searched, GMIConfig(steps=1), prior=prior)
    attacked(searched, GMIConfig(steps=1, prior_weight=0), prior=prior)


def test_it_needs_no_number_of_classes(searched):
    given = ClassKnowledge(searched.image_shape, model=searched.model, prior=searched.prior)
    assert GMI(GMIConfig(steps=1))(given).shape == (10, 5, *searched.image_shape)


def test_the_published_settings_are_gmis():
    assert (PUBLISHED.optimizer, PUBLISHED.learning_rate, PUBLISHED.beta1) == ("nesterov", 0.02, 0.9)
    assert (PUBLISHED.steps, PUBLISHED.restarts, PUBLISHED.identity_weight, PUBLISHED.bound) == (1500, 5, 100, 1)
