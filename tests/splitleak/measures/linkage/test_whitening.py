import pytest
import torch
from torch.nn import functional

from splitleak.measures.linkage.whitening import Whitening, levels


def correlated(count, size, seed=0):
    draw = torch.Generator().manual_seed(seed)
    mixing = torch.randn(size, size, generator=draw)
    return torch.randn(count, size, generator=draw) @ mixing + 5


def test_many_features_become_uncorrelated_of_variance_1():
    features = correlated(20_000, 6)
    white = Whitening.fit(features)(features)
    assert white.shape == (20_000, 12)  # what is along the directions, and nothing beside them
    torch.testing.assert_close(white[:, :6].T.cov(), torch.eye(6), atol=0.05, rtol=0)
    assert white[:, 6:].abs().max() < 1e-2


@pytest.mark.parametrize(("count", "size"), [(40, 12), (12, 40)])
def test_distances_are_those_of_the_shrunk_covariance(count, size):
    features, other = correlated(count, size), correlated(8, size, seed=1)
    whitening = Whitening.fit(features)
    rows = (features - features.mean(0)).double()
    sample = rows.T @ rows / count
    mean = sample.trace() / size
    apart = (sample - mean * torch.eye(size)).square().sum()
    noise = sum((torch.outer(row, row) - sample).square().sum() for row in rows) / count**2
    shrunk = min(1.0, float(noise / apart))
    covariance = (1 - shrunk) * sample + shrunk * mean * torch.eye(size)
    between = other.double()[:, None] - other.double()
    expected = torch.einsum("ijk,kl,ijl->ij", between, covariance.inverse(), between)
    white = whitening(other).double()
    found = (white[:, None] - white).square().sum(2)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_the_principal_components_are_the_first_of_the_whitened_ones():
    features = correlated(30, 10).reshape(30, 5, 2)
    whitening = Whitening.fit(features)
    torch.testing.assert_close(whitening.principal(features, 4), whitening(features)[:, :4])
    assert whitening.principal(features, 100).shape == (30, 10)


@pytest.mark.parametrize("features", [torch.rand(1, 4), torch.ones(5, 4)])
def test_features_without_a_covariance_are_refused(features):
    with pytest.raises(ValueError, match="expected at least two features that differ"):
        Whitening.fit(features)


@pytest.mark.parametrize(("count", "size"), [(300, 12), (12, 40)])
def test_a_channel_of_huge_noise_hides_nothing_of_what_the_others_tell(count, size):
    """Directions of less than a millionth of the largest variance were rounding, and the rest was shrunk away."""
    features = correlated(count, size)
    draw = torch.Generator().manual_seed(2)
    noisy, again = (torch.cat([features, 1e5 * torch.randn(count, 1, generator=draw)], 1) for _ in range(2))
    whitening = Whitening.fit(noisy)
    for told in (whitening, lambda sent: whitening.principal(sent, size)):
        found = torch.cdist(functional.normalize(told(again), dim=1), functional.normalize(told(noisy), dim=1))
        assert (found.argmin(1) == torch.arange(count)).double().mean() > 0.6


def test_values_that_vary_as_others_do_or_not_at_all_are_left_as_they_are():
    features = correlated(50, 6)
    rows = features - features.mean(0)
    assert levels(rows.std(0), features.mean(0)).tolist() == [1] * 6
    constant = torch.cat([rows, 1e-6 * torch.randn(50, 20, generator=torch.Generator().manual_seed(0))], 1)
    assert levels(constant.std(0), torch.full((26,), 5.0)).tolist() == [1] * 26
    assert levels(torch.zeros(3), torch.zeros(3)).tolist() == [1] * 3


@pytest.mark.parametrize(("count", "size"), [(40, 12), (12, 40)])
def test_what_follows_whitening_can_be_multiplied_before(count, size):
    features = correlated(count, size)
    whitening = Whitening.fit(features)
    white = whitening(features)
    weight = torch.randn(white.shape[1], 3, generator=torch.Generator().manual_seed(1))
    expected = (features - whitening.centre) @ whitening.composed(weight)
    torch.testing.assert_close(white @ weight, expected, atol=1e-3, rtol=1e-3)
