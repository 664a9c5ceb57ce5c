import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from splitleak.measures.identity import (
    IDENTITY_LOSSES,
    cross_entropy,
    feature_distance,
    logit,
    max_margin,
    poincare,
)


@pytest.mark.parametrize(
    ("logits", "label", "expected"),
    [
        ((2, 1, 1), 0, 9.3926119),
        ((2, 1, 1), 1, 10.2399098),
        ((8, 1, 1), 0, 8.1688366),
        ((1, 1, 1, 1), 2, 9.9034376),
    ],
)
def test_the_poincare_distance_has_the_values_worked_out_by_hand(logits, label, expected):
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 3e-4)):  # float32 holds 1 - |v|^2 to 3e-4
        found = poincare(torch.tensor([logits], dtype=dtype), torch.tensor([label]))
        assert float(found) == pytest.approx(expected, abs=tolerance)


def test_the_poincare_distance_of_one_hot_logits_is_finite():
    assert poincare(torch.tensor([[5.0, 0, 0]]), torch.tensor([0])).isfinite().all()


def test_the_margin_is_to_the_highest_of_the_other_classes():
    logits = torch.tensor([[2.0, 5.0, 3.0]]).expand(3, 3)
    assert max_margin(logits, torch.tensor([2, 1, 0])).tolist() == [2, -2, 3]


def test_the_logit_loss_pulls_as_hard_at_any_confidence():
    for scale in (0.0, 1.0, 100.0):
        logits = torch.tensor([[0.0, scale, 0.0]], requires_grad=True)
        (gradient,) = torch.autograd.grad(logit(logits, torch.tensor([1])).sum(), logits)
        assert gradient.tolist() == [[0, -1, 0]]


def test_the_cross_entropy_is_torchs():
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    assert torch.allclose(cross_entropy(logits, labels).mean(), functional.cross_entropy(logits, labels))


@pytest.mark.parametrize("name", sorted(IDENTITY_LOSSES))
@given(st.lists(st.floats(-50, 50), min_size=3, max_size=3), st.integers(0, 2), st.floats(0.1, 20))
def test_a_higher_logit_of_the_class_is_never_further_from_it(name, values, label, more):
    logits = torch.tensor([values, values], dtype=torch.float64) + 0.1
    if name == "poincare":  # it sees signs: only where all are positive is the direction plain
        logits = logits.abs() + 0.1
    logits[1, label] += more
    found = IDENTITY_LOSSES[name](logits, torch.tensor([label, label]))
    assert found[1] <= found[0] + 1e-9


def test_a_features_distance_is_squared_and_in_units_of_the_spread():
    means = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    found = feature_distance(torch.tensor([[3.0, 4.0], [3.0, 4.0], [1.0, 1.0]]), torch.tensor([0, 1, 1]), means, 2.5)
    assert found.tolist() == pytest.approx([10, 5.2, 0])
