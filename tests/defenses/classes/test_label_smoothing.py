import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from splitleak.defenses.base import EpochEnd, TrainingStart
from splitleak.defenses.classes.label_smoothing import LabelSmoothing, LabelSmoothingConfig, smoothed_cross_entropy
from splitleak.defenses.training import assemble, train, training_step

CPU = torch.device("cpu")


def made(epochs, **config):
    defense = LabelSmoothing(LabelSmoothingConfig(**config))
    defense.begin(TrainingStart(None, "builtin", (), epochs))
    return defense


def logits_of(*probabilities):
    return torch.tensor([probabilities], dtype=torch.float64).log()


@pytest.mark.parametrize(
    ("alpha", "expected"), [(-0.3, -0.0811548), (-0.05, 0.2837033), (0.0, 0.3566749), (0.1, 0.5026182)]
)
def test_the_loss_has_the_values_worked_out_by_hand(alpha, expected):
    label = torch.tensor([0])
    found = smoothed_cross_entropy(logits_of(0.7, 0.1, 0.1, 0.1), label, alpha)
    assert float(found) == pytest.approx(expected, abs=1e-6)
    uniform = smoothed_cross_entropy(logits_of(0.25, 0.25, 0.25, 0.25), label, alpha)
    assert float(uniform) == pytest.approx(math.log(4), abs=1e-6)


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), alpha=st.floats(0, 0.9), rows=st.integers(1, 5), classes=st.integers(2, 6))
def test_a_positive_alpha_is_torchs_own_label_smoothing(seed, alpha, rows, classes):
    draw = torch.Generator().manual_seed(seed)
    logits, labels = torch.randn(rows, classes, generator=draw), torch.randint(classes, (rows,), generator=draw)
    expected = functional.cross_entropy(logits, labels, label_smoothing=alpha)
    torch.testing.assert_close(smoothed_cross_entropy(logits, labels, alpha), expected)


def test_alpha_is_zero_then_a_ramp_to_half_then_full():
    defense = made(100, alpha=-0.3)
    found = [defense.alpha_in(epoch) / -0.3 for epoch in (0, 49, 50, 74, 75, 99)]
    assert found == pytest.approx([0, 0, 1 / 50, 1 / 2, 1, 1])
    assert made(4, alpha=-0.3, plain=0, ramp=0).alpha_in(0) == -0.3


def test_gradients_are_cut_to_the_length_asked_for_where_alpha_is_negative(small_target):
    images, labels = torch.rand(12, 1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 10
    lengths = {}
    for alpha, limit in ((-0.3, 1e-3), (-0.3, None), (0.3, 1e-3)):
        document = {"name": "label-smoothing", "alpha": alpha, "plain": 0, "ramp": 0, "gradient_norm": limit}
        model, stack = assemble(small_target(document), "builtin")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        training_step(model, stack, optimizer, images, labels, epoch=0, rate=0.1)
        lengths[alpha, limit] = math.sqrt(sum(float(each.grad.square().sum()) for each in model.parameters()))
    assert lengths[-0.3, 1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert min(lengths[-0.3, None], lengths[0.3, 1e-3]) > 0.1


def test_logits_that_half_precision_cannot_hold_end_the_training():
    for logits in (torch.full((2, 3), -7e4), torch.full((2, 3), torch.nan)):
        defense = made(4)
        defense.task_loss(torch.zeros(2, 3), torch.tensor([0, 1]), 2)
        defense.on_epoch(EpochEnd(2, 4, lambda: None))
        defense.task_loss(logits, torch.tensor([0, 1]), 3)
        with pytest.raises(FloatingPointError, match=r"logits of at most 65504 .* in epoch 4 at alpha -0.05"):
            defense.on_epoch(EpochEnd(3, 4, lambda: None))


def test_a_negative_alpha_increases_confidence_and_logits(small_target, small_splits):
    found = {}
    for alpha in (-0.5, 0.5):
        document = {"name": "label-smoothing", "alpha": alpha, "plain": 0, "ramp": 0}
        target = train(small_target(document, epochs=3), small_splits, device=CPU)
        with torch.no_grad():
            sure = float(target.model(small_splits.train.floats()).softmax(1).max(1).values.mean())
        found[alpha] = sure, target.record["defenses"]["label-smoothing"]["largest_logit"]
    assert found[-0.5] > found[0.5]


def test_without_alpha_it_is_plain_training(small_target, small_splits):
    plain = train(small_target(epochs=1), small_splits, device=CPU)
    none = train(small_target({"name": "label-smoothing", "alpha": 0}, epochs=1), small_splits, device=CPU)
    assert none.record["accuracy"] == pytest.approx(plain.record["accuracy"], abs=0.02)
    assert none.record["history"][0]["loss"] == pytest.approx(plain.record["history"][0]["loss"], rel=1e-3)


def test_more_than_all_epochs_are_refused():
    with pytest.raises(ValueError, match=r"expected plain \+ ramp of at most 1, got 1.1"):
        LabelSmoothing(LabelSmoothingConfig(plain=0.6, ramp=0.5))
