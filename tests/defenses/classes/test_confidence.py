import math

import pytest
import torch

from splitleak.defenses.base import EpochEnd
from splitleak.defenses.classes.confidence import ConfidenceAdaptation, ConfidenceAdaptationConfig, confidence_loss
from splitleak.defenses.training import assemble, train

CPU = torch.device("cpu")


def of(p, a=1.0, b=8.0):
    """The loss where the label has probability ``p``."""
    logits = torch.tensor([[math.log(p), math.log1p(-p)]], dtype=torch.float64)
    return float(confidence_loss(logits, torch.tensor([0]), a, b))


def slopes(p):
    """The loss's first and second derivative in the probability of the label."""
    at = torch.tensor(p, dtype=torch.float64, requires_grad=True)
    logits = torch.stack([at.log(), torch.log1p(-at)])[None]
    (first,) = torch.autograd.grad(confidence_loss(logits, torch.tensor([0])), at, create_graph=True)
    (second,) = torch.autograd.grad(first, at)
    return float(first.detach()), float(second)


def test_the_loss_has_the_minimum_and_slopes_worked_out_by_hand():
    assert of(math.exp(-1 / 8)) == pytest.approx(-0.0459849, abs=1e-6)
    assert of(math.exp(-1 / 2), b=2.0) == pytest.approx(-0.1839397, abs=1e-6)
    assert of(0.6, a=3.0) == pytest.approx(3 * of(0.6))
    assert slopes(0.8824969) == pytest.approx((0, 3.7789324), abs=1e-5)
    for p, slope in ((0.5, -0.0355092), (0.8, -0.1646576), (0.9, 0.0751480), (0.99, 0.8571248)):
        assert slopes(p)[0] == pytest.approx(slope, abs=1e-6)


def test_there_is_next_to_no_gradient_where_the_label_is_unlikely():
    logits = torch.tensor([[-12.0, 0.0]], requires_grad=True)
    confidence_loss(logits, torch.tensor([0])).backward()
    assert float(logits.grad.abs().max()) < 1e-30


def adapting_after(confidences, epochs=8, **settings):
    """In which epochs, from 0, the second stage is on, if epochs have these mean confidences."""
    defense = ConfidenceAdaptation(ConfidenceAdaptationConfig(**settings))
    found = []
    for epoch, p in enumerate(confidences):
        logits = torch.tensor([[math.log(p), math.log1p(-p)]]).expand(6, 2)
        if defense.task_loss(logits, torch.zeros(6).long(), epoch) is not None:
            found.append(epoch)
        defense.on_epoch(EpochEnd(epoch, epochs, lambda: None))
        assert float(defense.confidence) == pytest.approx(p, abs=1e-6)
    assert defense.findings(None)["adapted_epochs"] == len(found)
    return found


def test_the_second_stage_waits_for_its_epoch_and_for_confidence_and_then_stays():
    assert adapting_after([0.9] * 8, start=0.75, wait_for=0.8) == [6, 7]
    assert adapting_after([0.5] * 6 + [0.85, 0.5], start=0.5, wait_for=0.8) == [7]
    assert adapting_after([0.9] * 4 + [0.5] * 4, start=0.25, wait_for=0.8) == [2, 3, 4, 5, 6, 7]
    assert adapting_after([0.5] * 8, start=0.75, wait_for=0.8) == []
    assert adapting_after([0.01] * 8, start=0.75, wait_for=0) == [6, 7]


@pytest.mark.parametrize("p", [0.6, 0.999])
def test_descent_settles_at_the_confidence_of_least_loss_from_either_side(p):
    logits = torch.tensor([[math.log(p), math.log1p(-p)]], requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        confidence_loss(logits, torch.tensor([0])).backward()
        optimizer.step()
    assert float(logits.detach().softmax(1)[0, 0]) == pytest.approx(0.8825, abs=2e-3)


def test_findings_of_the_second_stage_are_recorded(small_target, small_splits):
    document = {"name": "confidence-adaptation", "start": 0.5, "wait_for": 0.1}
    target = train(small_target(document, epochs=4), small_splits, device=CPU)
    found = target.record["defenses"]["confidence-adaptation"]
    assert found["adapted_epochs"] == 2
    assert 0.1 < found["train_confidence"] < 0.8825


def test_it_stacks_with_a_low_rank_head_but_not_with_another_task_loss(small_target):
    assemble(small_target("low-rank", "confidence-adaptation"), "builtin")
    with pytest.raises(ValueError, match="one defense with a task loss of its own, got label-smoothing, confidence-ad"):
        assemble(small_target("label-smoothing", "confidence-adaptation"), "builtin")
