"""Class inference on a service whose answers and classes are known."""

import pytest
import torch
from torch.nn import functional

from splitleak.attacker.base import Query, Run
from splitleak.attacker.class_inversion.base import ClassKnowledge
from splitleak.attacker.class_inversion.class_inference import ClassInference, ClassInferenceConfig
from splitleak.attacker.reconstruction.prediction import PredictionInversionAttack

SHAPE = (1, 16, 16)
QUICK = {"epochs": 12, "width": 0.0625, "batch_size": 16}


@pytest.fixture(scope="module")
def people():
    """Five people: means ``(5, 1, 16, 16)``, pictures and labels ``(200,)``."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(5, 1, 4, 4, generator=draw)
    means = functional.interpolate(coarse, SHAPE[1:], mode="bicubic").clamp(0, 1)
    labels = torch.arange(5).repeat_interleave(40)
    return means, (means[labels] + 0.05 * torch.randn(200, *SHAPE, generator=draw)).clamp(0, 1), labels


def scores(images, means, columns, classes):
    """A service of ``classes``, that knows ``means`` as those at ``columns``, and no picture of the others."""
    far = (images[:, None] - means).square().flatten(2).sum(2)
    told = torch.zeros(len(images), classes)
    told[:, columns] = (-0.3 * far).softmax(1) * 0.9
    told[:, [label for label in range(classes) if label not in columns]] = 0.001
    return told


def known(people, columns=(0, 1, 2, 3, 4), classes=5, change=lambda told: told, **query):
    means, images, _ = people
    return ClassKnowledge(
        SHAPE,
        public=images,
        query=Query(lambda asked: change(scores(asked, means, columns, classes)), **query),
    )


def infer(given, run=None, **changes):
    attack = ClassInference(ClassInferenceConfig(**{**QUICK, **changes}))
    return attack, attack(given, run)[:, 0]


@pytest.mark.slow
def test_each_class_gets_the_face_behind_it(people):
    attack, rebuilt = infer(known(people))
    errors = (rebuilt[:, None] - people[0]).square().flatten(2).mean(2)
    assert (errors.argmin(1) == torch.arange(5)).all()
    assert errors.diagonal().max() < 0.3 * float((people[0] - people[0].mean(0)).square().mean())
    assert attack.findings["classes_seen"] == 5
    assert attack.findings["classes_unseen"] == []


@pytest.mark.slow
def test_a_class_that_no_answer_is_sure_of_gets_the_mean_public_image_and_the_findings_say_so(people):
    columns = (1, 2, 4, 6, 7)
    attack, rebuilt = infer(known(people, columns, 9))
    assert attack.findings["classes_unseen"] == [0, 3, 5, 8]
    assert attack.findings["unseen_picture"] == "mean of the public images"
    for label in (0, 3, 5, 8):
        assert torch.equal(rebuilt[label], people[1].mean(0))
    _, of_seen_alone = infer(known(people))
    assert torch.equal(rebuilt[list(columns)], of_seen_alone)
    assert any(value.shape[0] == 5 for value in attack.weights().values() if value.ndim == 4)


@pytest.mark.slow
def test_nothing_but_the_highest_score_of_an_answer_is_used(people):
    def top_only(told):
        return torch.where(told == told.max(1, keepdim=True).values, told, 0)

    assert torch.equal(infer(known(people, change=top_only))[1], infer(known(people))[1])


def test_the_highest_of_equal_scores_is_the_first(people):
    def tied(told):
        return torch.full_like(told, 0.2)

    attack, rebuilt = infer(known(people, change=tied), epochs=1)
    assert attack.findings["classes_unseen"] == [1, 2, 3, 4]
    assert len(rebuilt) == 5


@pytest.mark.slow
def test_a_service_that_flattens_its_scores_protects_nobody(people):
    def flattened(told):
        return torch.where(told == 0, 0, told ** (1 / 50)) / 5

    _, rebuilt = infer(known(people, change=flattened))
    _, plain = infer(known(people))
    assert (rebuilt - plain).square().mean().sqrt() < 0.02


def test_labels_without_a_confidence_are_enough(people):
    def label_only(told):
        return functional.one_hot(told.argmax(1), 5).float()

    _, rebuilt = infer(known(people, change=label_only))
    errors = (rebuilt[:, None] - people[0]).square().flatten(2).mean(2)
    assert (errors.argmin(1) == torch.arange(5)).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (torch.zeros_like, "expected answers with a score above zero, got none"),
        (lambda told: told[:, :, None], r"expected scores \(200, K\), got \(200, 5, 1\)"),
        (lambda told: told[:-1], r"expected scores \(200, K\), got \(199, 5\)"),
        (lambda told: told - 1, "expected finite scores of at least zero"),
    ],
)
def test_answers_that_are_no_scores_are_refused(people, change, said):
    with pytest.raises(ValueError, match=said):
        infer(known(people, change=change))


def test_each_draw_of_an_answer_is_asked_for(people):
    given = known(people, draws=3)
    infer(given, epochs=1)
    assert given.query.made == 600


def test_a_budget_is_used_as_far_as_it_goes_and_not_beyond(people):
    given = known(people, budget=150)
    infer(given, epochs=1)
    assert given.query.made == 150


def test_another_seed_gives_another_inverter(people):
    first, other = (infer(known(people), Run(seed=seed), epochs=1)[1] for seed in (0, 1))
    assert not torch.equal(first, other)


def test_the_published_settings_are_those_of_prediction_inversion():
    published = ClassInference.paper_config().document()
    assert published.items() <= PredictionInversionAttack.paper_config().document().items()
    assert (published["rescale"], published["width"], published["epochs"]) == ("fixed", 1, 100)
