import dataclasses

import pytest
import torch

from splitleak.attacker.base import Query, Run
from splitleak.attacker.class_inversion.mirror import Mirror, MirrorConfig, MirrorGenetic, MirrorGeneticConfig

QUICK = {"candidates": 40, "restarts": 2, "steps": 3}
BREEDING = {"candidates": 40, "restarts": 12, "images": 3, "steps": 4}


def bred(known, **settings):
    attack = MirrorGenetic(MirrorGeneticConfig(**{**BREEDING, **settings}))
    return attack, attack(known)


@pytest.fixture
def served(searched):
    return dataclasses.replace(searched, query=Query(searched.query._send), model=None)


def test_latents_stay_in_the_box(searched):
    attack = Mirror(MirrorConfig(**QUICK, deviations=0.5))
    attack(searched)
    assert attack.weights()["latents"].abs().max() == 0.5


def test_evolution_raises_the_confidence_over_its_best_start(served):
    before, after = bred(served, steps=0)[0], bred(served)[0]
    best, start = (torch.tensor(each.findings["scores"])[:, 0] for each in (after, before))
    assert (best >= start - 1e-6).all()
    assert best.mean() > start.mean() + 0.02


def test_every_query_is_counted_and_no_more_are_made_than_the_budget(served):
    attack, _ = bred(served, enough=1.0)
    assert served.query.made == 40 + 4 * 10 * 11
    poor = dataclasses.replace(served, query=Query(served.query._send, 40 + 115))
    bred(poor, enough=1.0)
    assert poor.query.made == 40 + 110
    assert attack.findings["evaluations"] == 0


@pytest.mark.parametrize("budget", [None, 40 + 230])
def test_taken_up_again_it_ends_with_the_pictures_and_the_count_of_one_that_was_not_interrupted(
    served, budget, tmp_path, killed
):
    def asked():
        return dataclasses.replace(served, query=Query(served.query._send, budget))

    whole, again = asked(), asked()
    config = MirrorGeneticConfig(**{**BREEDING, "enough": 1.0})
    pictures = MirrorGenetic(config)(whole)
    checkpoint = tmp_path / "attack.checkpoint"
    with pytest.raises(KeyboardInterrupt):
        MirrorGenetic(config)(asked(), Run(report=killed(3), checkpoint=checkpoint))
    assert torch.equal(MirrorGenetic(config)(again, Run(checkpoint=checkpoint)), pictures)
    assert again.query.made == whole.query.made


def test_a_class_that_is_sure_enough_asks_no_more(served):
    bred(served, enough=1e-6)
    assert served.query.made == 40


def test_a_budget_below_the_candidates_buys_as_many_of_them(served):
    """It asked for a batch of them, and ended with an error."""
    poor = dataclasses.replace(served, query=Query(served.query._send, 300))
    rebuilt = bred(poor, candidates=600, steps=0)[1]
    assert poor.query.made == 300
    assert torch.equal(rebuilt, bred(served, candidates=300, steps=0)[1])
    nothing = dataclasses.replace(served, query=Query(served.query._send, 1))
    with pytest.raises(PermissionError, match="at most 1 queries"):
        bred(nothing)
    assert nothing.query.made == 0


def test_the_images_are_those_of_the_latents_and_scores_told(served, searched):
    attack, rebuilt = bred(served)
    latents = attack.weights()["latents"]
    assert latents.abs().max() <= 1
    assert torch.allclose(searched.prior.generator(latents.flatten(0, 1)), rebuilt.flatten(0, 1), atol=1e-5)
    scores = searched.model(rebuilt.flatten(0, 1)).softmax(1).view(10, 3, 10)[torch.arange(10), :, torch.arange(10)]
    assert torch.allclose(scores, torch.tensor(attack.findings["scores"]), atol=1e-4)


def test_labels_alone_are_refused(searched):
    labels = dataclasses.replace(searched, query=Query(lambda images: images, answers="labels"))
    with pytest.raises(PermissionError, match="'mirror-genetic' needs scores"):
        bred(labels)


def test_the_published_settings_are_mirrors():
    published = Mirror.paper_config()
    assert (published.learning_rate, published.steps, published.deviations, published.restarts) == (0.25, 500, 1, 8)
    assert MirrorGenetic.paper_config().steps == 100


def test_one_candidate_breeds_nothing_and_is_refused_before_it_is_asked_about():
    with pytest.raises(ValueError, match=r"candidates.*greater than or equal to 2"):
        MirrorGeneticConfig.parse({"candidates": 1}, source="test")
