"""Re-finding: whether a picture that crossed the wire is found again, among others, by its feature."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

SAME, MOVED, BRIGHTER, MIRRORED = "same", "moved", "brighter", "mirrored"
VIEWS = (SAME, MOVED, BRIGHTER, MIRRORED)
"""A picture as it was, a pixel to the right, a tenth brighter, and mirrored left to right."""


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
    return _apart(probes, gallery).argmin(1)


def found_again(probes: Tensor, gallery: Tensor) -> Tensor:
    """Whether the nearest to each probe is its own entry, which has the same place: ``(N,)`` bool; by chance one in N.

    A feature that tells nothing, as one that is the same for all, finds nobody: all are equally near.

    Args:
        probes: Features of N pictures ``(N, ...)``, sent another time.
        gallery: Features of the same pictures, in their order.
    """
    apart = _apart(probes, gallery)
    return (apart <= apart.diagonal()[:, None]).sum(1) == 1


def unordered(features: Tensor) -> Tensor:
    """Features ``(N, C, ...)`` with the values at each place sorted over channels: the same in any order of these.

    Values that are alike for all of several pictures, as a number that is sent along, count as 0.

    >>> unordered(torch.tensor([[[3.0], [1.0]], [[0.0], [2.0]]]))[:, :, 0]
    tensor([[1., 3.],
            [0., 2.]])
    """
    if len(features) > 1:
        features = features * (features != features[:1]).any(0)
    return features.sort(1).values


def _apart(probes: Tensor, gallery: Tensor) -> Tensor:
    """Distances ``(N, M)``, of rows centred first: they are small beside the mean of features after a ReLU."""
    centre = gallery.mean(0)
    return torch.cdist((probes - centre).flatten(1).double(), (gallery - centre).flatten(1).double())
