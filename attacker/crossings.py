"""Several crossings of the same pictures as one: what an attacker who sees them more than once reads."""

import torch
from torch import Tensor

_FAR = 6.0  # deviations of what is not zero: a value so far from 0 is not 0 by noise
_RARE = 0.01  # of such values: from there on zeros among them are a defense's


def together(crossings: Tensor) -> Tensor:
    """Features ``(k, N, *cut)`` of N pictures, k times each, as ``(N, *cut)``: their mean, but see `unzeroed`."""
    if len(crossings) == 1:
        return crossings[0]
    squares = torch.linalg.vector_norm(crossings, dim=0).square()  # no copy of all that crossed
    return unzeroed(crossings.mean(0), squares, crossings.count_nonzero(0).to(crossings), times=len(crossings))


def unzeroed(mean: Tensor, squares: Tensor, counted: Tensor, *, times: int) -> Tensor:
    """The mean of several crossings, without what a defense zeroed now and then, as `Dropout` does.

    A value that is far from 0 at some crossings, by how they vary where they are not 0, and exactly 0 at others, was
    zeroed. Where more than one of a hundred such values were, each value is the mean of what is not 0, times the share
    of crossings, of all values, that is not: so its scale is the mean's. Elsewhere it is the mean.

    Args:
        mean: ``(N, *cut)``.
        squares: Their sum over the crossings, likewise.
        counted: Crossings that are not 0.
        times: Crossings.
    """
    alive, seen = mean * times / counted.clamp(min=1), counted > 0
    varies, freedom = (squares - counted * alive.square()).clamp(min=0), (counted - 1).clamp(min=0)
    overall = varies.sum() / freedom.sum().clamp(min=1)
    noise = (varies.sum(0) + overall) / (freedom.sum(0) + 1)  # of each place; of few pictures, of all places
    far = seen & (alive.square() > _FAR**2 * noise)
    zeroed = far & (counted < times)
    if not zeroed.sum() > _RARE * far.sum():
        return mean
    return alive * (counted.sum() / (times * seen.sum()))
