"""Inversion of what victims tell of a classifier's answers: on a world of mixtures, where all answers are known."""

import dataclasses

import pytest
import torch
from torch.nn import functional

from splitleak.attacker.base import Knowledge, Query, Run
from splitleak.attacker.reconstruction import prediction
from splitleak.attacker.reconstruction.prediction import (
    PredictionInversionAttack,
    PredictionInversionConfig,
    train_inverter,
)
from splitleak.measures.pixel import mse
from splitleak.measures.scores import truncate

CLASSES, SIDE = 6, 8
BLOBS = torch.rand(CLASSES, 1, 4, 4, generator=torch.Generator().manual_seed(5)) > 0.5
TEMPLATES = functional.interpolate(0.1 + 0.8 * BLOBS.float(), scale_factor=2)


def images(count, seed):
    """Mixtures of two of the classes' pictures, one of them the greater part."""
    draw = torch.Generator().manual_seed(seed)
    order = torch.rand(count, CLASSES, generator=draw).argsort(1)
    part = (0.6 + 0.4 * torch.rand(count, generator=draw)).view(-1, 1, 1, 1)
    return part * TEMPLATES[order[:, 0]] + (1 - part) * TEMPLATES[order[:, 1]]


def serve(given):
    """Scores of a sure classifier: the nearer a class's picture, the higher."""
    distances = (given[:, None] - TEMPLATES).square().flatten(2).mean(2)
    return (-60 * distances).softmax(1)


VICTIMS = images(60, 1)


def world(share=CLASSES, send=serve, **changes):
    given = {"public": images(400, 0), "query": Query(send), "captured": truncate(send(VICTIMS), share)}
    return Knowledge(**{"image_shape": (1, SIDE, SIDE), "kind": "scores", **given, **changes})


PLAIN = {"hidden": 0, "learning_rate": 1e-2, "schedule": "cosine", "batch_size": 32}
"""The inverter alone, which learns this small world from 400 pairs in a moment."""


def attack(**settings):
    return PredictionInversionAttack(PredictionInversionConfig(**{"epochs": 6, **PLAIN, **settings}))


def error(known, **settings):
    return float(mse(attack(**settings)(known), VICTIMS).mean())


@pytest.mark.parametrize("rescale", ["quantiles", "learned", "fixed"])
def test_trained_on_as_little_as_victims_tell_it_rebuilds_them_better_than_trained_on_whole_answers(rescale):
    aligned = error(world(share=1), rescale=rescale)
    unaligned = error(world(share=1), rescale=rescale, align=False)
    assert unaligned > 1.3 * aligned


@pytest.mark.parametrize("rescale", ["quantiles", "learned"])
def test_two_scores_tell_more_than_one_of_a_mixture_of_two(rescale):
    of_the_mean = float(mse(world().public.mean(0).expand_as(VICTIMS), VICTIMS).mean())
    one, two = (error(world(share=m), rescale=rescale) for m in (1, 2))
    assert 2 * two < one < of_the_mean / 2


def test_by_default_hidden_layers_come_first_and_as_published_there_are_none():
    hidden, plain = PredictionInversionConfig(), PredictionInversionAttack.paper_config()
    assert (hidden.rescale, hidden.hidden, hidden.schedule) == ("joined", 512, "one-cycle")
    assert "hidden" not in plain.document()
    known = world()
    of_the_mean = float(mse(known.public.mean(0).expand_as(VICTIMS), VICTIMS).mean())
    assert error(known, **{**hidden.document(), "epochs": 12, "hidden": 64, "batch_size": 16}) < of_the_mean / 3


def test_a_few_answers_teach_it_more_than_their_mean():
    """An epoch of a single step taught it little: the MSE was .73 of the mean's, and is .1."""
    known = world(public=images(24, 0))
    of_the_mean = float(mse(known.public.mean(0).expand_as(VICTIMS), VICTIMS).mean())
    assert error(known) < of_the_mean / 3


def test_a_few_answers_of_pictures_that_differ_tell_it_more_than_their_classes():
    """Of 40 pairs the network alone had an MSE of .150, where the mean picture of a victim's class has .149."""
    draw = torch.Generator().manual_seed(4)
    public, victims = (
        (each + 0.6 * torch.randn(each.shape, generator=draw)).clamp(0, 1) for each in (images(40, 0), VICTIMS)
    )
    known, labels = world(public=public, captured=serve(victims)), serve(public).argmax(1)
    means = torch.stack([public[labels == label].mean(0) for label in range(CLASSES)])
    made = PredictionInversionAttack(PredictionInversionConfig())
    rebuilt = mse(made(known), victims).mean()
    assert rebuilt < 0.95 * mse(means[serve(victims).argmax(1)], victims).mean()
    assert made.findings["rebuilt_by"] != "network"
    assert made.findings["held_out_mse"] == made.findings["held_out_mse_by"][made.findings["rebuilt_by"]]
    made.network.load_state_dict(made.weights())
    with torch.no_grad():
        torch.testing.assert_close(mse(made.network(known.captured), victims).mean(), rebuilt)


@pytest.mark.parametrize("count", [12, 30])
def test_of_fewest_answers_that_tell_one_score_it_rebuilds_as_much_as_their_class_means(count):
    """By one to three held-out pairs it took its network, with up to 1.4 times the error of the classes' means."""
    rebuilt, by_means = [], []
    for seed in range(3):
        draw = torch.Generator().manual_seed(seed)
        public, victims = (
            (each + 0.6 * torch.randn(each.shape, generator=draw)).clamp(0, 1)
            for each in (images(count, seed), VICTIMS)
        )
        known = world(public=public, captured=truncate(serve(victims), 1))
        made = PredictionInversionAttack(PredictionInversionConfig())
        rebuilt.append(float(mse(made(known, Run(seed=seed)), victims).mean()))
        means, labels = public.mean(0).repeat(CLASSES, 1, 1, 1), serve(public).argmax(1)
        for label in labels.unique():
            own = public[labels == label]
            means[label] = (own.sum(0) + public.mean(0)) / (len(own) + 1)
        by_means.append(float(mse(means[serve(victims).argmax(1)], victims).mean()))
    assert sum(rebuilt) < 1.02 * sum(by_means)


def test_a_class_that_one_pair_tells_the_least_score_of_is_not_blown_up_for_a_victim_that_tells_more():
    """All of its pixels were black or white, an error of .25."""
    draw = torch.Generator().manual_seed(0)
    public = 0.5 + 0.1 * torch.randn(60, 1, 4, 4, generator=draw)
    labels = torch.arange(60) % 2
    labels[7] = 2
    scores = functional.one_hot(labels, 3) * (0.6 + 0.3 * torch.rand(60, 1, generator=draw))
    scores[7] *= 0.2 / scores[7].sum()
    victims = torch.tensor([[0.0, 0.0, 0.9]])
    rebuilt = prediction._ridge(scores[None], public, Run())(victims)
    assert (rebuilt - 0.5).square().mean() < 0.01


@pytest.mark.parametrize("temperature", [10, 1000])
@pytest.mark.parametrize("rescale", ["quantiles", "learned"])
def test_a_service_that_flattens_its_scores_protects_nobody(rescale, temperature):
    flat = world(send=lambda given: (serve(given).double().log() / temperature).softmax(1).float())
    assert error(flat, rescale=rescale) < 1.5 * error(world(), rescale=rescale) + 1e-3


def trained_on(monkeypatch, known, **settings):
    """The scores that the inverter was trained on, and the attack."""
    seen = []

    def spy(name, config, scores, *rest):
        seen.append(scores)
        return train_inverter(name, config, scores, *rest)

    monkeypatch.setattr(prediction, "train_inverter", spy)
    made = attack(epochs=1, **settings)
    made(known)
    return seen[0], made


def test_answers_are_truncated_to_the_most_that_any_victim_tells(monkeypatch):
    known = world(share=3)
    known.captured[0] = truncate(known.captured[:1], 2)
    scores, made = trained_on(monkeypatch, known)
    assert torch.equal(scores[0], truncate(serve(known.public), 3))
    assert made.findings["share"] == 3
    scores, made = trained_on(monkeypatch, known, align=False)
    assert torch.equal(scores[0], serve(known.public))
    assert made.findings["share"] == 3


@pytest.mark.parametrize("told", [1, 2])
def test_of_victims_that_tell_more_than_any_answer_it_takes_as_much_as_answers_tell(told):
    """Trained on as few scores and given all, it had ten times the error."""
    query = Query(lambda given: truncate(serve(given), told))
    as_much, more = world(query=query, captured=truncate(serve(VICTIMS), told)), world(query=query)
    made = attack()
    torch.testing.assert_close(made(more), attack()(as_much))
    assert made.findings["share"] == told


def test_each_draw_of_an_answer_is_trained_on(monkeypatch):
    turns = iter((1, 2, 4))
    query = Query(lambda given: serve(given) / next(turns), draws=3)
    scores, _ = trained_on(monkeypatch, world(share=2, query=query))
    assert scores.shape == (3, 400, CLASSES)
    assert torch.equal(scores, torch.stack([scores[0] / n for n in (1, 2, 4)]))
    assert query.made == 3 * 400


def without(label):
    """A service that never speaks of one class."""
    keep = (torch.arange(CLASSES) != label).float()
    return lambda given: serve(given) * keep


def test_classes_that_no_answer_shows_are_dropped_and_the_findings_say_how_much_that_was():
    captured = truncate(serve(VICTIMS), 1)
    made = attack(epochs=1)
    rebuilt = made(world(captured=captured, query=Query(without(2))))
    assert made.findings["classes_seen"] == CLASSES - 1
    assert made.findings["mass_dropped"] == pytest.approx(float(captured[:, 2].sum() / captured.sum()))
    lost = captured[:, 2] > 0
    assert made.findings["nothing_left"] == lost.sum() > 0
    mean = world().public.mean(0)
    assert torch.equal(rebuilt[lost], mean.expand_as(rebuilt[lost]))
    assert not any(torch.equal(each, mean) for each in rebuilt[~lost])


def test_that_a_victim_tells_nothing_is_learnt_where_answers_tell_nothing_too():
    known = world(send=lambda given: torch.where(serve(given) > 0.9999, serve(given), 0))
    nothing = known.captured.sum(1) == 0
    made = attack(epochs=1)
    rebuilt = made(known)
    assert made.findings["nothing_left"] == nothing.sum() > 0
    mean = known.public.mean(0)
    assert not any(torch.equal(each, mean) for each in rebuilt[nothing])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"captured": torch.zeros(3, CLASSES)}, "at least one score above zero among those shared"),
        ({"captured": torch.full((3, CLASSES), torch.nan)}, "expected finite scores of at least zero"),
        ({"captured": -torch.ones(3, CLASSES)}, "expected finite scores of at least zero"),
        (
            {"captured": torch.ones(3, CLASSES + 1)},
            r"expected features \(400, 7\) for the public images, got \(400, 6\)",
        ),
        ({"query": Query(lambda given: 0 * serve(given))}, "expected answers with at least one score above zero"),
        ({"query": Query(lambda given: serve(given) - 1)}, "expected finite scores of at least zero"),
    ],
)
@pytest.mark.parametrize("align", [True, False])
def test_what_does_not_fit_together_is_refused(change, said, align):
    with pytest.raises(ValueError, match=said):
        attack(align=align)(world(**change))


@pytest.mark.parametrize("rescale", ["quantiles", "learned", "fixed", "none"])
def test_its_weights_rebuild_the_images_from_the_shared_scores(rescale):
    known, made = world(share=2), attack(rescale=rescale, epochs=2)
    rebuilt = made(known)
    other, _ = train_inverter("x", made.config, serve(known.public)[None], known.public, Run(seed=9))
    other.load_state_dict(made.weights())
    with torch.no_grad():
        torch.testing.assert_close(other.eval()(known.captured), rebuilt)


def test_the_findings_tell_the_constant_where_there_is_one():
    told = {}
    for rescale in ("quantiles", "learned", "fixed", "none"):
        made = attack(epochs=1, rescale=rescale, c=None if rescale != "learned" else 9)
        made(world())
        told[rescale] = made.findings["c"]
    assert (told["quantiles"], told["none"], told["fixed"]) == (None, None, 50)
    assert told["learned"] == pytest.approx(9, abs=1)
    assert told["learned"] != 9


def test_an_interrupted_training_goes_on_to_the_bit(tmp_path, killed):
    known, checkpoint = world(share=2), tmp_path / "checkpoint"
    straight = attack(rescale="learned")(known, Run(seed=2))
    with pytest.raises(KeyboardInterrupt):
        attack(rescale="learned")(known, Run(seed=2, checkpoint=checkpoint, report=killed(4)))
    assert checkpoint.exists()
    assert torch.equal(attack(rescale="learned")(known, Run(seed=2, checkpoint=checkpoint)), straight)
    assert not checkpoint.exists()


def test_the_paper_preset_is_the_published_training_and_network():
    paper = PredictionInversionAttack.paper_config()
    assert (paper.epochs, paper.batch_size, paper.learning_rate, paper.schedule) == (100, 128, 2e-4, "constant")
    assert (paper.beta1, paper.amsgrad, paper.rescale, paper.c, paper.align) == (0.5, True, "fixed", None, True)
    config = paper.model_copy(update={"epochs": 1})
    digits = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    _, findings = train_inverter("x", config, torch.eye(10)[None, :3], digits, Run())
    assert (findings["parameters"], findings["c"]) == (2_708_097, 50)


def test_it_is_told_nothing_but_public_images_and_answers():
    known = world(share=2)
    more = dataclasses.replace(known, labels=torch.zeros(400, dtype=torch.int64))
    assert torch.equal(attack(epochs=1)(known, Run(seed=1)), attack(epochs=1)(more, Run(seed=1)))


def test_the_best_way_to_feed_it_is_chosen_by_held_out_pairs_of_the_attackers_own():
    tried, known = attack(rescale="best", epochs=2), world(share=2)
    rebuilt, findings = tried(known), tried.findings
    errors = findings["held_out_mse_by_rescaling"]
    assert findings["held_out_mse"] == min(errors.values()) == errors[findings["rescale"]]
    for how, held_out in errors.items():
        alone = attack(rescale=how, epochs=2)
        same = torch.equal(alone(known), rebuilt)
        assert alone.findings["held_out_mse"] == held_out
        assert same == (how == findings["rescale"])
