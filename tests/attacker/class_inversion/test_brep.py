import dataclasses

import pytest
import torch

from splitleak.attacker.base import Query, Run
from splitleak.attacker.class_inversion.brep import BREPMI, BREPConfig, _Walks
from splitleak.attacker.class_inversion.search import Search

QUICK = {"steps": 6, "candidates": 400}


class Ball:
    """A generator that draws the latents themselves."""

    class config:
        classes = None
        latent = 2

    def __call__(self, latents, labels):
        return latents


def walking(inside, **settings):
    """One walk from the origin, in a plane where ``inside(points)`` is class 1, and its one step."""
    attack = BREPMI(BREPConfig(**settings))
    query = Query(lambda points: torch.nn.functional.one_hot(inside(points).long(), 2).float(), answers="labels")
    known = type("Known", (), {"classes": 2})()
    search = Search("brep-mi", Ball(), None, None, query, known, Run(), classes=2)
    walks = _Walks(torch.zeros(1, 2), attack.config.radius)
    attack.step(search, walks, torch.tensor([1]), torch.Generator().manual_seed(0))
    return walks, query


@pytest.mark.parametrize(("outside", "grows"), [(3, True), (4, False)])
def test_a_sphere_grows_when_29_of_32_points_are_of_the_class_and_not_at_28(outside, grows):
    turns = iter([torch.arange(32) >= outside, torch.tensor([True])])
    walks, _ = walking(lambda points: next(turns))
    assert bool(walks.grown) is grows
    assert float(walks.radius) == pytest.approx(2 * 1.3 if grows else 2)
    assert int(walks.idle) == (0 if grows else 1)


def test_a_step_leads_away_from_what_is_not_of_the_class():
    walks, query = walking(lambda points: points[:, 0] < 0.5, bound=10)
    assert float(walks.centres[0, 0]) < -0.1
    assert query.made == 33


def test_a_step_that_would_leave_the_class_is_not_made():
    turns = iter([torch.arange(32) < 10, torch.tensor([False])])
    walks, _ = walking(lambda points: next(turns))
    assert torch.equal(walks.centres, torch.zeros(1, 2))


def labels_only(known, budget=None):
    def send(images):
        answers = known.query(images)
        return torch.nn.functional.one_hot(answers.argmax(1), answers.shape[1]).float()

    return dataclasses.replace(known, query=Query(send, budget, answers="labels"), model=None)


class ByClass(Ball):
    """Moves latents by the class that they are drawn of."""

    class config:
        classes = 2
        latent = 2

    def __call__(self, latents, labels):
        return latents + 10 * labels[:, None]


def test_a_conditional_generator_is_searched_where_what_it_draws_of_a_class_is_labelled_so():
    attack = BREPMI(BREPConfig(restarts=3, candidates=20))
    query = Query(lambda points: torch.nn.functional.one_hot((points[:, 0] > 5).long(), 2).float(), answers="labels")
    search = Search("brep-mi", ByClass(), None, None, query, type("Known", (), {"classes": 2})(), Run(), classes=2)
    starts = attack.select(search, attack.sample(search))
    assert starts.shape == (2, 3, 2)
    assert attack.findings["classes_unseen"] == []
    walks, labels = _Walks(starts.flatten(0, 1), attack.config.radius), search.labels(3)
    attack.step(search, walks, labels, torch.Generator().manual_seed(0))
    assert bool(walks.grown.all())
    assert query.made == 20 + 6 * 33


def test_taken_up_again_it_ends_with_the_pictures_and_the_count_of_one_that_was_not_interrupted(
    searched, tmp_path, killed
):
    whole, again, config = labels_only(searched), labels_only(searched), BREPConfig(**{**QUICK, "steps": 40})
    pictures = BREPMI(config)(whole)
    checkpoint = tmp_path / "attack.checkpoint"
    with pytest.raises(KeyboardInterrupt):
        BREPMI(config)(labels_only(searched), Run(report=killed(3, of="brep-mi"), checkpoint=checkpoint))
    assert torch.equal(BREPMI(config)(again, Run(checkpoint=checkpoint)), pictures)
    assert again.query.made == whole.query.made


def test_labels_are_enough_and_scores_are_not_looked_at(searched):
    told = labels_only(searched)
    attack = BREPMI(BREPConfig(**QUICK))
    rebuilt = attack(told)
    assert torch.equal(BREPMI(BREPConfig(**QUICK))(searched), rebuilt)
    unseen = attack.findings["classes_unseen"]
    named = searched.model(rebuilt[:, 0]).argmax(1)
    assert all(int(named[label]) == label for label in range(10) if label not in unseen)
    assert told.query.made > 0


def test_it_stops_within_the_budget_with_what_it_has(searched):
    told = labels_only(searched, budget=700)
    attack = BREPMI(BREPConfig(**QUICK))
    assert attack(told).shape == (10, 1, *searched.image_shape)
    assert 300 < told.query.made <= 700


def test_a_budget_below_a_batch_of_candidates_buys_as_many_of_them(searched):
    """It asked for none, and gave the first candidate of all for each class."""
    told = labels_only(searched, budget=50)
    attack = BREPMI(BREPConfig(**QUICK))
    rebuilt = attack(told)[:, 0]
    assert told.query.made == 50
    seen = sorted({*range(10)} - {*attack.findings["classes_unseen"]})
    assert seen
    assert searched.model(rebuilt[seen]).argmax(1).tolist() == seen


def test_the_published_walk_ends_after_a_thousand_idle_iterations():
    published = BREPMI.paper_config()
    assert (published.points, published.radius, published.growth, published.patience) == (32, 2, 1.3, 1000)
    assert (published.bound, published.longest) == (1.5, 3)


def test_a_sphere_that_grows_moves_away_from_the_points_outside():
    turns = iter([torch.arange(32) >= 3, torch.tensor([True])])
    walks, query = walking(lambda points: next(turns), bound=10)
    assert bool(walks.grown)
    assert float(walks.centres.norm()) > 0
    assert torch.equal(walks.best, torch.zeros(1, 2))  # where it grew
    assert query.made == 33


def test_its_radii_are_not_called_a_confidence(searched):
    attack = BREPMI(BREPConfig(**QUICK))
    attack(labels_only(searched))
    assert "confidence" not in attack.findings
    assert len(attack.findings["radii"]) == 10
