import pytest
import torch

from splitleak.defenses.features.quantisation import Quantisation, QuantisationConfig


def quantised(values, **settings):
    return Quantisation(QuantisationConfig(**settings))(torch.as_tensor(values))


def test_values_are_rounded_to_the_nearest_of_evenly_spaced_levels():
    assert quantised([0.0, 0.2, 0.3, 0.6, 1.0], levels=3).tolist() == [0, 0, 0.5, 0.5, 1]
    assert quantised([-2.0, -0.4, 0.6, 9.0], levels=5, low=-1, high=1).tolist() == [-1, -0.5, 0.5, 1]


@pytest.mark.parametrize("levels", [2, 4, 256])
def test_no_more_levels_are_sent_and_nothing_is_further_than_half_a_step(levels):
    values = torch.rand(10_000, generator=torch.Generator().manual_seed(0))
    sent = quantised(values, levels=levels)
    assert len(sent.unique()) == levels
    assert float((sent - values).abs().max()) <= 0.5 / (levels - 1) + 1e-6


def test_the_gradient_passes_straight_through():
    values = torch.tensor([-1.0, 0.3, 2.0], requires_grad=True)
    (quantised(values) * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert values.grad.tolist() == [1, 2, 3]


def test_levels_without_a_range_are_refused():
    with pytest.raises(ValueError, match="expected the lowest level below the highest, got 1 and 1"):
        QuantisationConfig.parse({"low": 1}, source="quantisation")
