import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitleak.measures.clusters import cluster_moments, kmeans, kmeans_init, kmeans_per_class


def clumps(count=60, seed=0):
    """Values around three far corners, and which corner each is of."""
    draw = torch.Generator().manual_seed(seed)
    corner = torch.arange(count) % 3
    return 10.0 * torch.eye(3, 5)[corner] + 0.1 * torch.randn(count, 5, generator=draw), corner


def same_partition(first, second):
    return torch.equal(first[:, None] == first, second[:, None] == second)


def test_k_means_from_members_that_are_spread_out_finds_the_clumps():
    values, corner = clumps()
    for seed in range(5):
        start = kmeans_init(values, 3, torch.Generator().manual_seed(seed))
        assert all((start[i] == values).all(1).any() for i in range(3))
        means, assigned = kmeans(values, start, 50)
        assert same_partition(assigned, corner)
        for cluster in range(3):
            torch.testing.assert_close(means[cluster], values[assigned == cluster].mean(0))


@pytest.mark.parametrize("offset", [1e3, 1e5])
def test_a_value_that_is_far_from_0_hides_no_cluster(offset):
    """Squares of 1e5 leave no digits for distances of 10, which were all the same, or 0."""
    values, corner = clumps()
    labels = torch.zeros(len(values), dtype=torch.int64)
    for seed in range(5):
        moved = torch.cat([values, torch.full((len(values), 1), offset)], 1)
        assert same_partition(kmeans_per_class(moved, labels, 3, torch.Generator().manual_seed(seed)), corner)


def test_equal_members_can_be_spread_out_too():
    start = kmeans_init(torch.ones(4, 2), 3, torch.Generator().manual_seed(0))
    assert torch.equal(start, torch.ones(3, 2))


def test_an_empty_cluster_stays_where_it_was():
    values, _ = clumps()
    far = torch.full((1, 5), 1000.0)
    means, assigned = kmeans(values, torch.cat([values[:1], far]), 10)
    assert torch.equal(means[1:], far)
    assert not assigned.any()


def test_clusters_never_mix_classes_and_are_numbered_in_turn():
    values, corner = clumps()
    labels = torch.tensor([4, 7])[(torch.arange(60) // 3) % 2]
    assigned = kmeans_per_class(values, labels, 3, torch.Generator().manual_seed(0))
    assert sorted(assigned.unique().tolist()) == list(range(6))
    assert same_partition(assigned, 10 * labels + corner)


def test_a_class_with_no_more_members_than_clusters_is_one_cluster():
    values, _ = clumps(9)
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 1])
    assigned = kmeans_per_class(values, labels, 3, torch.Generator().manual_seed(0))
    assert assigned[:3].tolist() == [0, 0, 0]
    assert sorted(assigned[3:].unique().tolist()) == [1, 2, 3]


@given(count=st.integers(1, 20), clusters=st.integers(1, 5), dimensions=st.integers(1, 4), seed=st.integers(0, 2**32))
def test_moments_are_those_of_each_cluster_alone(count, clusters, dimensions, seed):
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(count, dimensions, generator=draw, dtype=torch.float64)
    assigned = torch.randint(clusters, (count,), generator=draw)
    shares, means, variances = cluster_moments(values, assigned)
    assert len(shares) == int(assigned.max()) + 1
    assert float(shares.sum()) == pytest.approx(1)
    for cluster in range(len(shares)):
        members = values[assigned == cluster]
        assert float(shares[cluster]) == pytest.approx(len(members) / count)
        if len(members):
            torch.testing.assert_close(means[cluster], members.mean(0))
            torch.testing.assert_close(variances[cluster], members.var(0, correction=0))
