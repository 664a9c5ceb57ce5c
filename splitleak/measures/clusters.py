"""k-means clustering, per class too, and the moments of clusters: a Gaussian mixture with hard assignments."""

import torch
from torch import Tensor


def kmeans_init(members: Tensor, clusters: int, draw: torch.Generator) -> Tensor:
    """k-means++-like initial means ``(clusters, d)``: members drawn proportionally to their distance to earlier ones.

    As in the published code of CEM, by distance, where k-means++ draws by the squared distance.

    Args:
        members: ``(n, d)``.
        clusters: Number of means.
        draw: CPU generator.
    """
    chosen = [members[int(torch.randint(len(members), (1,), generator=draw))]]
    while len(chosen) < clusters:
        distance = _distances(members, torch.stack(chosen)).amin(1).cpu()
        if not distance.any():
            distance = torch.ones_like(distance)
        chosen.append(members[int(torch.multinomial(distance, 1, generator=draw))])
    return torch.stack(chosen)


def kmeans(members: Tensor, means: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """k-means by Lloyd's algorithm; the mean of an empty cluster stays where it is.

    Args:
        members: ``(n, d)``.
        means: Initial means ``(clusters, d)``.
        steps: Maximum number of iterations.

    Returns:
        The means ``(clusters, d)`` and the cluster of each member ``(n,)``.
    """
    assigned = _distances(members, means).argmin(1)
    for _ in range(steps):
        counts = torch.bincount(assigned, minlength=len(means)).to(members)
        sums = torch.zeros_like(means).index_add_(0, assigned, members)
        means = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], means)
        reassigned = _distances(members, means).argmin(1)
        if torch.equal(reassigned, assigned):
            break
        assigned = reassigned
    return means, assigned


def _distances(members: Tensor, means: Tensor) -> Tensor:
    """Of members ``(n, d)`` from means ``(k, d)``, about their mean: `torch.cdist` squares what is far from 0."""
    centre = members.mean(0)
    return torch.cdist(members - centre, means - centre)


def kmeans_per_class(
    values: Tensor, labels: Tensor, clusters: int, draw: torch.Generator, *, steps: int = 50
) -> Tensor:
    """k-means inside each class. A class with no more members than ``clusters`` is one cluster.

    Args:
        values: ``(N, d)``.
        labels: ``(N,)``.
        clusters: Clusters per class.
        draw: CPU generator of the initial means.
        steps: Maximum number of iterations.

    Returns:
        The cluster of each value ``(N,)``, numbered from 0 over all classes.
    """
    assigned = torch.empty_like(labels)
    first = 0
    for label in labels.unique():
        members = labels == label
        within = torch.zeros_like(labels[members])
        if len(within) > clusters:
            within = kmeans(values[members], kmeans_init(values[members], clusters, draw), steps)[1]
        assigned[members] = first + within
        first += int(within.max()) + 1
    return assigned


def cluster_moments(values: Tensor, assigned: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mixture weights, means and (biased) variances of clusters.

    Args:
        values: ``(N, d)``.
        assigned: ``(N,)``, the cluster of each value, from 0.

    Returns:
        Weights ``(k,)``, means ``(k, d)`` and variances ``(k, d)``; an empty cluster has weight 0.
    """
    counts = torch.bincount(assigned).to(values)
    zeros = values.new_zeros(len(counts), values.shape[1])
    means = zeros.index_add(0, assigned, values) / counts.clamp(min=1)[:, None]
    squares = zeros.index_add(0, assigned, (values - means[assigned]).square())
    return counts / len(values), means, squares / counts.clamp(min=1)[:, None]
