import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitleak.measures.frechet import frechet_distance, gaussian_frechet_distance


@given(st.integers(2, 12), st.integers(2, 12), st.integers(1, 6), st.integers(0, 2**32))
def test_it_equals_the_distance_from_singular_values_for_few_and_many_samples(n, m, dimensions, seed):
    draw = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(count, dimensions, generator=draw, dtype=torch.float64) for count in (n, m))
    b = 1 + 2 * b
    around_a, around_b = (a - a.mean(0)) / (n - 1) ** 0.5, (b - b.mean(0)) / (m - 1) ** 0.5
    overlap = torch.linalg.svdvals(around_a @ around_b.T).sum()  # the trace of the root, without any covariance
    expected = (a.mean(0) - b.mean(0)).square().sum() + around_a.square().sum() + around_b.square().sum() - 2 * overlap
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-6, abs=1e-6)
    assert frechet_distance(b, a) == pytest.approx(float(expected), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("count", [3, 200])
def test_a_set_is_nowhere_away_from_itself_even_with_fewer_samples_than_dimensions(count):
    features = 100 * torch.rand(count, 64)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-3)


def test_a_shift_costs_its_square():
    features = torch.randn(50, 4, dtype=torch.float64)
    assert frechet_distance(features, features + 2) == pytest.approx(16)


def test_a_gaussian_without_spread_is_a_point():
    none = torch.zeros(2, 2)
    assert gaussian_frechet_distance(torch.zeros(2), none, torch.ones(2), none) == 2


@pytest.mark.parametrize(("a", "b"), [((1, 3), (5, 3)), ((5, 3), (5, 4)), ((5,), (5,))])
def test_too_few_samples_for_a_covariance_are_refused(a, b):
    with pytest.raises(ValueError, match="at least two of each"):
        frechet_distance(torch.rand(a), torch.rand(b))
