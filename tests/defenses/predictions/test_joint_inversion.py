import copy

import pytest
import torch
from torch.nn import functional
from torch.optim import SGD, Adam

from splitleak.defenses.artifact import load_cloud, load_edge, save
from splitleak.defenses.base import EpochEnd, Step
from splitleak.defenses.training import assemble, train, training_step

CPU = torch.device("cpu")
SMALL = {"name": "joint-inversion", "width": 0.05}


def drawn(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def prepared(small_target, **settings):
    model, stack = assemble(small_target({**SMALL, **settings}), "builtin")
    (defense,) = stack
    return model, stack, defense


def step(images, logits):
    return Step(images, torch.zeros(len(images)).long(), torch.empty(0), torch.empty(0), logits, 0, 0.1)


@pytest.mark.parametrize("m", [None, 10, 3, 1])
def test_the_penalty_is_the_weighted_error_of_what_is_made_of_the_highest_scores(small_target, m):
    _, _, defense = prepared(small_target, weight=7.0, m=m, c=4.0)
    images, logits = drawn(0, 5, 1, 16, 16), 6 * drawn(1, 5, 10)
    seen = torch.zeros(5, 10, dtype=torch.float64)
    for row, scores in enumerate(logits.double().exp()):
        for index in scores.argsort(descending=True)[: m or 10]:
            seen[row, index] = torch.log(scores[index] / scores.sum()) + 4
    rebuilt = copy.deepcopy(defense.inverter)(seen.float())
    expected = 7 * functional.mse_loss(rebuilt, images)
    torch.testing.assert_close(defense.penalty(step(images, logits)), expected)


@pytest.mark.parametrize("m", [None, 3, 1])
def test_the_classifier_gets_a_gradient_through_the_kept_scores_at_any_confidence(small_target, m):
    _, _, defense = prepared(small_target, m=m)
    logits = 4 * drawn(1, 5, 10)
    logits[0] = torch.tensor([1000.0, *[0.0] * 9])
    logits[1] = torch.tensor([95.0, *[0.0] * 9])  # scores that are no normal number in single precision
    logits.requires_grad_()
    defense.penalty(step(drawn(0, 5, 1, 16, 16), logits)).backward()
    assert bool(logits.grad.isfinite().all())
    assert bool(logits.grad[2:].any(1).all())


def test_classifier_and_inverter_descend_one_loss_at_once(small_target):
    model, stack, defense = prepared(small_target, weight=20.0, m=3, learning_rate=1e-3)
    by_hand, inverter, c = copy.deepcopy(model), copy.deepcopy(defense.inverter), defense.c.detach().clone()
    c.requires_grad_()
    optimizers = SGD(by_hand.parameters(), lr=0.01), Adam([c, *inverter.parameters()], 1e-3, (0.5, 0.999), amsgrad=True)
    sgd, labels = SGD([*model.parameters(), *stack.task_parameters()], lr=0.01), torch.arange(12) % 10
    for index in range(3):
        images = drawn(index, 12, 1, 16, 16)
        training_step(model, stack, sgd, images, labels, epoch=0, rate=0.01)
        logits = by_hand(images)
        scores = logits.softmax(1)
        kept = scores >= scores.sort(1).values[:, -3:-2]
        rebuilt = inverter(torch.where(kept, scores.log() + c, 0))
        loss = functional.cross_entropy(logits, labels) + 20 * functional.mse_loss(rebuilt, images)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    stack.on_epoch(EpochEnd(0, 1, lambda: None))
    for key, value in by_hand.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=1e-3, atol=1e-4)
    scores = drawn(9, 12, 10)  # biases before batch normalisation have no gradient but rounding: outputs are compared
    torch.testing.assert_close(defense.inverter(scores), inverter(scores), rtol=1e-3, atol=1e-3)
    assert defense.c.item() == pytest.approx(c.item(), abs=1e-4)
    assert c.item() != 20


@pytest.mark.slow
def test_a_classifier_that_takes_part_carries_more_of_the_image(small_target, small_splits):
    errors = {}
    for weight in (0.01, 100.0):
        document = {**SMALL, "weight": weight}
        history = train(small_target(document, epochs=4), small_splits, device=CPU).record["history"]
        errors[weight] = history[-1]["penalty"] / weight
        assert errors[weight] < history[0]["penalty"] / weight
    assert errors[100.0] < 0.95 * errors[0.01]


def test_without_weight_it_is_plain_training(small_target, small_splits):
    plain = train(small_target(epochs=1), small_splits, device=CPU)
    weightless = train(small_target({**SMALL, "weight": 0}, epochs=1), small_splits, device=CPU)
    assert weightless.record["history"] == plain.record["history"]
    expected = plain.model.state_dict()
    assert all(torch.equal(expected[key], value) for key, value in weightless.model.state_dict().items())


def test_no_half_holds_the_inverter_and_nothing_acts_on_the_wire(small_target, small_splits, tmp_path):
    target = train(small_target(SMALL, epochs=1), small_splits, device=CPU)
    save(tmp_path / "a", "small", target)
    edge, cloud = load_edge(tmp_path / "a" / "edge", CPU, seed=0), load_cloud(tmp_path / "a" / "cloud", CPU)
    assert list(edge.stack) == []
    plain, _ = assemble(small_target(), "builtin")
    assert edge.encoder.state_dict().keys() == plain.encoder.state_dict().keys()
    assert cloud.head.state_dict().keys() == plain.head.state_dict().keys()


def test_more_scores_than_classes_are_refused(small_target):
    with pytest.raises(ValueError, match="m of at most 10 classes, got 11"):
        prepared(small_target, m=11)
