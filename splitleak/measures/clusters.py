"""Hard clusters by k-means, and their moments: a mixture that is fitted in a moment."""

import torch
from torch import Tensor


def spread_out(members: Tensor, clusters: int, draw: torch.Generator) -> Tensor:
    """First means ``(clusters, d)``: each a member drawn with probability proportional to its distance to the others.

    The published code of CEM draws by distance where k-means++ draws by its square.
    """
    chosen = [members[int(torch.randint(len(members), (1,), generator=draw))]]
    while len(chosen) < clusters:
        distance = torch.cdist(members, torch.stack(chosen)).amin(1).cpu()
        if not distance.any():
            distance = torch.ones_like(distance)
        chosen.append(members[int(torch.multinomial(distance, 1, generator=draw))])
    return torch.stack(chosen)


def lloyd(members: Tensor, means: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """k-means from ``means``: the means ``(clusters, d)`` and each member's cluster ``(n,)``; empty ones stay put."""
    assigned = torch.cdist(members, means).argmin(1)
    for _ in range(steps):
        counts = torch.bincount(assigned, minlength=len(means)).to(members)
        sums = torch.zeros_like(means).index_add_(0, assigned, members)
        means = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], means)
        again = torch.cdist(members, means).argmin(1)
        if torch.equal(again, assigned):
            break
        assigned = again
    return means, assigned


def within_classes(values: Tensor, labels: Tensor, clusters: int, draw: torch.Generator, *, steps: int = 50) -> Tensor:
    """The cluster ``(N,)`` of each of ``values`` ``(N, d)``: k-means inside each class of ``labels`` ``(N,)``.

    Clusters are numbered from 0 over all classes. A class with no more members than ``clusters`` is one cluster.
    """
    assigned = torch.empty_like(labels)
    first = 0
    for label in labels.unique():
        members = labels == label
        found = torch.zeros_like(labels[members])
        if len(found) > clusters:
            found = lloyd(values[members], spread_out(values[members], clusters, draw), steps)[1]
        assigned[members] = first + found
        first += int(found.max()) + 1
    return assigned


def moments(values: Tensor, assigned: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shares ``(k,)``, means ``(k, d)`` and variances ``(k, d)`` around them of the clusters of ``values`` ``(N, d)``.

    ``assigned`` ``(N,)`` holds each one's cluster; a number in between that nothing is assigned to has share 0.
    """
    counts = torch.bincount(assigned).to(values)
    zeros = values.new_zeros(len(counts), values.shape[1])
    means = zeros.index_add(0, assigned, values) / counts.clamp(min=1)[:, None]
    squares = zeros.index_add(0, assigned, (values - means[assigned]).square())
    return counts / len(values), means, squares / counts.clamp(min=1)[:, None]
