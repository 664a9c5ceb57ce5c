"""How near rebuilt images come to the private images of their class, in the feature space of some network."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FeatureDistances:
    """One value a rebuilt image, each ``(N,)`` float64. Published names are for the same minimum, squared or not."""

    nearest: Tensor  # L2 to the nearest private image of the class: delta_eval as PPA and CALoR print it
    nearest_squared: Tensor  # its square: the "KNN distance" of GMI's line, and delta_eval in the codes
    centroid: Tensor  # L2 to the mean of the class's private features: GMI's "feature distance"


def feature_distances(rebuilt: Tensor, labels: Tensor, private: Tensor, private_labels: Tensor) -> FeatureDistances:
    """Distances from ``rebuilt`` features ``(N, d)`` of the classes ``labels`` ``(N,)`` to ``private`` ones ``(M, d)``.

    Features of different networks are not comparable: say whose they are.

    Raises:
        ValueError: A class has no private image, or shapes do not fit.

    >>> private, of = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([0, 0])
    >>> found = feature_distances(torch.tensor([[3.0, 0.0]]), torch.tensor([0]), private, of)
    >>> float(found.nearest), float(found.nearest_squared), float(found.centroid)
    (3.0, 9.0, 2.5)
    """
    if rebuilt.ndim != 2 or private.ndim != 2 or rebuilt.shape[1] != private.shape[1]:
        got = f"{tuple(rebuilt.shape)} and {tuple(private.shape)}"
        raise ValueError(f"expected features (N, d) and (M, d), got {got}")
    nearest, centroid = (torch.empty(len(rebuilt), dtype=torch.float64) for _ in range(2))
    for label in labels.unique():
        own, theirs = rebuilt[labels == label].double(), private[private_labels == label].double()
        if not len(theirs):
            raise ValueError(f"expected private images of class {int(label)}, got none")
        nearest[labels == label] = pairwise_distances(own, theirs).amin(1)
        centroid[labels == label] = (own - theirs.mean(0)).norm(dim=1)
    return FeatureDistances(nearest, nearest.square(), centroid)


def pairwise_distances(a: Tensor, b: Tensor) -> Tensor:
    """L2 distances ``(N, M)`` between the rows of two batches, each exact: equal rows are 0 apart."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
