import pytest
import torch

from splitleak.defenses.features.dropout import Dropout, DropoutConfig


def masked(rate, seed=0, features=None):
    dropout = Dropout(DropoutConfig(rate=rate)).eval()
    dropout.generator = torch.Generator().manual_seed(seed)
    return dropout(torch.full((10, 10_000), 0.7) if features is None else features)


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.9])
def test_the_share_that_is_zeroed_is_the_rate_at_inference_too(rate):
    assert float((masked(rate) == 0).float().mean()) == pytest.approx(rate, abs=0.006)


def test_kept_values_are_not_rescaled():
    assert masked(0.5).unique().tolist() == pytest.approx([0.0, 0.7])


def test_the_mask_is_fresh_at_every_call_and_repeats_under_one_seed():
    assert torch.equal(masked(0.5, seed=1), masked(0.5, seed=1))
    assert not torch.equal(masked(0.5, seed=1), masked(0.5, seed=2))
    dropout = Dropout(DropoutConfig(rate=0.5))
    dropout.generator = torch.Generator().manual_seed(0)
    assert not torch.equal(dropout(torch.ones(1000)), dropout(torch.ones(1000)))


@pytest.mark.parametrize("crossings", [1, 2, 16])
def test_the_mean_of_several_crossings_is_scaled_to_what_the_encoder_gave_where_it_was_ever_sent(crossings):
    mean = torch.stack([masked(0.5, seed=seed) for seed in range(crossings)]).mean(0)
    undone = Dropout(DropoutConfig(rate=0.5)).undone(mean, crossings)
    assert float(undone[mean != 0].mean()) == pytest.approx(0.7, abs=0.01)
    assert torch.equal(undone == 0, mean == 0)
    assert crossings > 1 or torch.equal(undone, mean)


def test_no_gradient_reaches_what_is_zeroed():
    features = torch.rand(1000).requires_grad_()
    sent = masked(0.5, features=features)
    sent.sum().backward()
    assert torch.equal(features.grad, (sent != 0).float())


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_outside_its_range_is_refused(rate):
    with pytest.raises(ValueError, match=f"rate: .*got {rate}"):
        DropoutConfig.parse({"rate": rate}, source="dropout")
