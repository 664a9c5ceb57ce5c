"""The common loop, by the plainest attack that there is."""

import dataclasses

import pytest
import torch

from splitleak.attacker.base import Query, Run
from splitleak.attacker.class_inversion.search import LatentSearch, Search, SearchConfig
from splitleak.attacker.prior import PriorConfig, train_prior


class Plain(LatentSearch):
    name = "plain"
    config_type = SearchConfig


def attacked(searched, run=None, **settings):
    attack = Plain(SearchConfig(**{"steps": 30, "restarts": 2, **settings}))
    return attack, attack(searched, run)


def test_the_search_raises_the_models_confidence(searched):
    before, after = attacked(searched, steps=0)[0], attacked(searched)[0]
    assert after.findings["confidence"] > before.findings["confidence"] + 0.3


def test_the_history_tells_how_sure_the_model_was_on_the_way(searched):
    attack, _ = attacked(searched, steps=75)
    first, second, last = (figures["confidence"] for figures in attack.findings["history"])
    assert 0 < first < second < last <= attack.findings["confidence"] + 0.05
    matched = attacked(searched, steps=25, identity={"loss": "features", "each": 5})[0]
    assert 0 < matched.findings["history"][0]["confidence"] < 1


def test_every_class_and_restart_starts_somewhere_else(searched):
    attack, _ = attacked(searched, steps=0)
    assert len(attack.weights()["latents"].flatten(0, 1).unique(dim=0)) == 20


def test_selection_alone_raises_it_too(searched):
    plain, selected = attacked(searched, steps=0)[0], attacked(searched, steps=0, candidates=100)[0]
    assert selected.findings["confidence"] > plain.findings["confidence"] + 0.1


def test_every_image_is_given_best_first_with_its_latent_and_the_models_confidence(searched):
    attack, images = attacked(searched, restarts=3)
    latents = attack.weights()["latents"]
    assert images.shape == (10, 3, *searched.image_shape)
    assert latents.shape == (10, 3, searched.prior.generator.config.latent)
    assert torch.allclose(searched.prior.generator(latents.flatten(0, 1)), images.flatten(0, 1), atol=1e-5)
    scores = searched.model(images.flatten(0, 1)).softmax(1).view(10, 3, 10)
    own = scores[torch.arange(10), :, torch.arange(10)]
    assert torch.allclose(own, torch.tensor(attack.findings["scores"]), atol=1e-4)
    assert (own.diff(dim=1) <= 1e-5).all()


def test_of_the_images_the_best_are_given(searched):
    every, few = attacked(searched, restarts=3)[1], attacked(searched, restarts=3, images=1)[1]
    assert torch.equal(few, every[:, :1])


def test_the_images_that_the_model_saw_are_counted(searched):
    attack, _ = attacked(searched, candidates=50, restarts=2, steps=3)
    blank, fingerprint, last = 1, 10, 20
    assert attack.findings["evaluations"] == blank + 50 + fingerprint + 3 * 20 + last


def test_a_restarts_way_does_not_depend_on_how_many_there_are(searched, monkeypatch):
    whole = attacked(searched)[1]
    monkeypatch.setattr("splitleak.attacker.class_inversion.search._BATCH", 3)
    alone = attacked(searched)[1]
    torch.testing.assert_close(alone, whole, atol=5e-3, rtol=0)  # steps of Adam enlarge what rounding leaves


def test_an_interrupted_search_goes_on_to_the_bit(searched, tmp_path, killed):
    whole, expected = attacked(searched, steps=80)
    checkpoint = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        attacked(searched, Run(report=killed(2), checkpoint=checkpoint), steps=80)
    heard = []
    run = Run(report=lambda what, done, total, figures: heard.append(done), checkpoint=checkpoint)
    again, found = attacked(searched, run, steps=80)
    assert heard[0] == 1
    assert torch.equal(found, expected)
    assert again.findings == whole.findings


def test_a_conditional_generator_is_told_the_class(searched, small_splits):
    config = PriorConfig(width=2, batch_size=8, iterations=2, conditional=True)
    prior = train_prior(config, small_splits.public, Run())
    attack, images = attacked(dataclasses.replace(searched, prior=prior), candidates=4, steps=2)
    latents, labels = attack.weights()["latents"].flatten(0, 1), torch.arange(10).repeat_interleave(2)
    assert torch.allclose(prior.generator(latents, labels), images.flatten(0, 1), atol=1e-5)


def test_a_generator_that_draws_by_other_classes_is_refused_before_it_is_searched(searched, small_splits):
    for classes in (4, 13):
        public = dataclasses.replace(
            small_splits.public, labels=small_splits.public.labels % classes, classes=tuple(map(str, range(classes)))
        )
        prior = train_prior(PriorConfig(width=2, batch_size=8, iterations=1, conditional=True), public, Run())
        with pytest.raises(ValueError, match=rf"without classes, or of the model's 10, got one of {classes} classes"):
            attacked(dataclasses.replace(searched, prior=prior))


def test_what_the_attack_was_given_is_left_as_it_was(searched):
    before = searched.prior.digest
    attacked(searched)
    assert searched.prior.digest == before


def test_answers_that_are_no_scores_are_refused(searched):
    query = Query(lambda images: torch.zeros(len(images), 10, 1))
    search = Search("plain", searched.prior.generator, None, None, query, searched, Run())
    with pytest.raises(ValueError, match=r"attack 'plain': expected scores \(3, K\), got \(3, 10, 1\)"):
        search.scores(torch.zeros(3, *searched.image_shape))
