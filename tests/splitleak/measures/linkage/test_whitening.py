import pytest
import torch

from splitleak.measures.linkage.whitening import Whitening


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
