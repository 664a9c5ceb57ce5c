import pytest
import torch

from splitleak.measures.linkage.probe import _fitted, majority_rate, train_probe


def blobs(count, size, seed=0, apart=3.0):
    draw = torch.Generator().manual_seed(seed)
    values = torch.randint(4, (count,), generator=draw)
    centres = torch.randn(4, size, generator=torch.Generator().manual_seed(9))
    return apart * centres[values] + torch.randn(count, size, generator=draw), values


@pytest.mark.parametrize(("count", "size"), [(200, 10), (60, 150)])
def test_it_reads_what_is_there_and_nothing_from_noise(count, size):
    features, values = blobs(count, size)
    others, theirs = blobs(400, size, seed=1)
    probe = train_probe(features, values, torch.Generator().manual_seed(0))
    assert (probe(others) == theirs).double().mean() > 0.95
    noise = torch.randn(400, size, generator=torch.Generator().manual_seed(2))
    assert (probe(noise) == theirs).double().mean() < 0.4


@pytest.mark.parametrize(("count", "size"), [(50, 8), (8, 50)])
def test_it_is_the_ridge_regression_of_one_hot_values(count, size):
    features, values = blobs(count, size)
    [(_, probe)] = _fitted(features, values, 4, (0.1,))
    rows = ((features - features.mean(0)) / probe.levels).double()
    hot = torch.nn.functional.one_hot(values, 4).double()
    largest = torch.linalg.eigvalsh(rows.T @ rows)[-1]
    weight = torch.linalg.solve(rows.T @ rows + 0.1 * largest * torch.eye(size), rows.T @ (hot - hot.mean(0)))
    torch.testing.assert_close(probe.weight.double(), weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(probe.bias.double(), hot.mean(0))


@pytest.mark.parametrize(("count", "size"), [(200, 10), (60, 150)])
def test_a_channel_of_huge_noise_hides_nothing_of_what_the_others_tell(count, size):
    (features, values), (others, theirs) = blobs(count, size), blobs(400, size, seed=1)
    draw = torch.Generator().manual_seed(2)
    noisy, sent = (torch.cat([each, 1e5 * torch.randn(len(each), 2, generator=draw)], 1) for each in (features, others))
    probe = train_probe(noisy, values, torch.Generator().manual_seed(0))
    assert (probe(sent) == theirs).double().mean() > 0.95


def test_the_majority_is_that_of_what_is_known():
    assert majority_rate(torch.tensor([2, 2, 1]), torch.tensor([1, 1, 2, 1])) == 0.25


def test_too_few_features_or_values_are_refused():
    for features, values in ((torch.rand(3, 2), torch.zeros(3).long()), (torch.rand(5, 2), torch.zeros(4).long())):
        with pytest.raises(ValueError, match="expected at least 4 features and a value of each"):
            train_probe(features, values, torch.Generator())
