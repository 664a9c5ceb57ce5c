import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from splitleak.measures.divergence import kl_to_standard_normal


def test_the_value_worked_out_by_hand_is_met_and_it_is_zero_at_the_standard_normal():
    mean, deviation = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 2.0], [1.0, 1.0]])
    assert kl_to_standard_normal(mean.double(), deviation.double()).tolist() == pytest.approx([1.3068528, 0], abs=1e-7)


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 4), width=st.integers(1, 5))
def test_it_agrees_with_torchs_own(seed, rows, width):
    drawn = torch.Generator().manual_seed(seed)
    mean = torch.randn(rows, width, generator=drawn).double()
    deviation = torch.rand(rows, width, generator=drawn).double() + 0.01
    expected = kl_divergence(Normal(mean, deviation), Normal(torch.tensor(0.0), torch.tensor(1.0))).sum(1)
    torch.testing.assert_close(kl_to_standard_normal(mean, deviation), expected)
