import dataclasses

import pytest
import torch

from splitleak.attacker.base import Run
from splitleak.attacker.class_inversion.ppa import PPA, PPAConfig
from splitleak.attacker.class_inversion.search import Search
from splitleak.attacker.prior import PriorConfig, train_prior
from splitleak.attacker.training.augmentation import CropsConfig, random_crops

PUBLISHED = PPA.paper_config()
QUICK = {"candidates": 40, "restarts": 3, "images": 2, "steps": 2}


def test_it_starts_from_the_candidates_that_the_model_is_surest_of(searched):
    attack = PPA(PPAConfig(**QUICK))
    search = attack.prepare(searched, Run())
    pool = attack.sample(search)
    scores = searched.model(searched.prior.generator(pool)).softmax(1)
    best = scores.topk(3, dim=0).indices.T
    assert torch.equal(attack.select(search, pool), pool[best])


def test_a_mirrored_start_scores_both_images(searched):
    attack = PPA(PPAConfig(**QUICK, mirrored_start=True))
    search = attack.prepare(searched, Run())
    pool = attack.sample(search)
    images = searched.prior.generator(pool)
    expected = (searched.model(images).softmax(1) + searched.model(images.flip(3)).softmax(1)) / 2
    assert torch.allclose(attack.rate(search, pool), expected.T, atol=1e-5)


@pytest.mark.parametrize("mirrored", [False, True])
def test_candidates_of_a_conditional_generator_are_drawn_for_each_class_and_scored_as_they_are(
    searched, small_splits, mirrored
):
    config = PriorConfig(width=2, batch_size=8, iterations=2, conditional=True)
    known = dataclasses.replace(searched, prior=train_prior(config, small_splits.public, Run()))
    attack = PPA(PPAConfig(**QUICK, mirrored_start=mirrored))
    search = attack.prepare(known, Run())
    pool = attack.sample(search)
    for label, found in enumerate(attack.rate(search, pool)):
        images = search.generator(pool, torch.full((40,), label))
        sides = (images, images.flip(3)) if mirrored else (images,)
        expected = torch.stack([searched.model(side).softmax(1)[:, label] for side in sides]).mean(0)
        assert torch.allclose(found, expected, atol=1e-5)


def test_the_last_are_chosen_by_what_survives_random_crops(searched):
    views = CropsConfig(count=4, least=0.5, most=0.9)
    attack = PPA(PPAConfig(**QUICK, final_views=views))
    rebuilt = attack(searched)
    assert rebuilt.shape == (10, 2, *searched.image_shape)
    search = Search("ppa", searched.prior.generator, None, searched.model, None, searched, Run(), classes=10)
    draw, images, labels = search.draw("views"), rebuilt.flatten(0, 1), search.labels(2)
    seen = [random_crops(images, views, draw) for _ in range(4)]
    expected = torch.stack([searched.model(view).softmax(1)[torch.arange(20), labels] for view in seen]).mean(0)
    assert torch.allclose(attack.judge(search, images, labels), expected, atol=1e-5)


def test_the_published_settings_are_those_for_facescrub():
    assert (PUBLISHED.candidates, PUBLISHED.restarts, PUBLISHED.images, PUBLISHED.steps) == (2000, 200, 50, 50)
    assert (PUBLISHED.learning_rate, PUBLISHED.beta1, PUBLISHED.beta2, PUBLISHED.identity) == (
        0.005,
        0.1,
        0.1,
        "poincare",
    )
    assert PUBLISHED.final_views.count == 100
