"""Re-finding: whether a picture that crossed the wire is found again, among others, by its feature."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

SAME, MOVED, BRIGHTER, MIRRORED = "same", "moved", "brighter", "mirrored"
VIEWS = (SAME, MOVED, BRIGHTER, MIRRORED)
"""A picture as it was, a pixel to the right, a tenth brighter, and mirrored left to right."""
_ROUNDING = 1e-13  # of squared lengths: by less do squared distances differ that are equal


def views(images: Tensor) -> Mapping[str, Tensor]:
    """By name, the `VIEWS` of images ``(N, C, H, W)`` in [0, 1], of the same shape and range.

    >>> {name: view.flatten().tolist() for name, view in views(torch.tensor([[[[0.0, 0.5]]]])).items()}
    {'same': [0.0, 0.5], 'moved': [0.0, 0.0], 'brighter': [0.0, 0.550000011920929], 'mirrored': [0.5, 0.0]}
    """
    return {SAME: images, MOVED: moved(images, 1, 0), BRIGHTER: brighter(images, 1.1), MIRRORED: images.flip(-1)}


def moved(images: Tensor, right: int, down: int) -> Tensor:
    """Images ``(N, C, H, W)`` moved by so many pixels, either way; the border is repeated.

    >>> moved(torch.tensor([[[[1.0, 2.0, 3.0]]]]), -1, 0)
    tensor([[[[2., 3., 3.]]]])
    """
    high, wide = images.shape[2:]
    pads = (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0))
    padded = functional.pad(images, pads, mode="replicate")
    return padded[:, :, max(-down, 0) :, max(-right, 0) :][:, :, :high, :wide]


def brighter(images: Tensor, factor: float) -> Tensor:
    """Images in [0, 1] times a factor, clamped."""
    return (factor * images).clamp(0, 1)


def nearest(probes: Tensor, gallery: Tensor) -> Tensor:
    """The index ``(N,)`` of the nearest to each probe ``(N, ...)`` in a gallery ``(M, ...)``, by Euclidean distance.

    Of equal distances the first counts.

    >>> nearest(torch.tensor([[0.0], [3.0]]), torch.tensor([[4.0], [1.0], [0.0]]))
    tensor([2, 0])
    """
    return torch.cdist(*_centred(probes, gallery)).argmin(1)


def found_again(probes: Tensor, gallery: Tensor) -> Tensor:
    """How likely the nearest to each probe is its own entry, which has the same place: ``(N,)`` in [0, 1].

    Of k entries that are equally near, the searcher guesses one: 1/k where the own one is among them. A feature that
    tells nothing, as one that is the same for all, gives 1/N.

    Args:
        probes: Features of N pictures ``(N, ...)``, sent another time.
        gallery: Features of the same pictures, in their order.

    >>> found_again(torch.tensor([[0.0], [0.0], [3.0]]), torch.tensor([[0.0], [0.0], [3.0]]))
    tensor([0.5000, 0.5000, 1.0000], dtype=torch.float64)
    """
    probes, gallery = _centred(probes, gallery)
    apart = torch.cdist(probes, gallery).square()
    return own_is_least(apart, _ROUNDING * (probes.square().sum(1)[:, None] + gallery.square().sum(1)))


def own_is_least(apart: Tensor, rounding: Tensor) -> Tensor:
    """How likely a guess among the least of each row is the row's own, on the diagonal: ``(N,)`` in [0, 1].

    Args:
        apart: How far each of N is from each ``(N, N)``, by any measure.
        rounding: By how much each may be wrong, of a shape that broadcasts to it.

    >>> own_is_least(torch.tensor([[0.0, 0.0], [2.0, 1.0]]), torch.zeros(1)).tolist()
    [0.5, 1.0]
    """
    tied = (apart - rounding <= apart.min(1, keepdim=True).values + rounding).double()
    return tied.diagonal() / tied.sum(1)


def unordered(features: Tensor) -> Tensor:
    """Features ``(N, C, ...)`` with the values at each place sorted over channels: the same in any order of these.

    Values that are alike for all of several pictures, as a number that is sent along, count as 0.

    >>> unordered(torch.tensor([[[3.0], [1.0]], [[0.0], [2.0]]]))[:, :, 0]
    tensor([[1., 3.],
            [0., 2.]])
    """
    return _varying(features).sort(1).values


def aligned(probes: Tensor, gallery: Tensor) -> Tensor:
    """Probes ``(N, C, ...)`` with their channels in the order of the gallery's ``(M, C, ...)``.

    Each channel is given to the one of the gallery whose mean over pictures is like its own, by the assignment that has
    the least sum of distances: an order that was drawn for a session is recovered from what crossed in it, without a
    picture that is known to be in both. Where nothing is permuted, channels stay where they are. Values that are alike
    for all of several pictures count as 0, as in `unordered`.

    >>> aligned(torch.tensor([[[5.0], [1.0]], [[6.0], [0.0]]]), torch.tensor([[[0.0], [6.0]], [[1.0], [5.0]]]))[:, :, 0]
    tensor([[1., 5.],
            [0., 6.]])
    """
    from scipy.optimize import linear_sum_assignment  # takes longer to import than all of this module

    probes, gallery = _varying(probes), _varying(gallery)
    ours, theirs = (each.double().mean(0).flatten(1) for each in (gallery.unsqueeze(-1), probes.unsqueeze(-1)))
    if ours.shape[1] == 1:  # of single values, what assigns them at the least cost is their rank
        return probes[:, theirs[:, 0].argsort()[ours[:, 0].argsort().argsort()]]
    _, order = linear_sum_assignment(torch.cdist(ours, theirs).numpy())
    return probes[:, torch.from_numpy(order)]


def _varying(features: Tensor) -> Tensor:
    """Features ``(N, ...)`` with 0 for values that are alike for all of several pictures, as a number sent along."""
    return features * (features != features[:1]).any(0) if len(features) > 1 else features


def _centred(probes: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    """Rows ``(N, d)`` and ``(M, d)`` without the gallery's mean, beside which they are small after a ReLU."""
    centre = gallery.mean(0)
    return (probes - centre).flatten(1).double(), (gallery - centre).flatten(1).double()
