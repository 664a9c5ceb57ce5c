"""k-NN distance and feature distance of reconstructions to the private images of their class, in a feature space."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FeatureDistances:
    """One value per reconstruction, each ``(N,)`` float64. Papers print the same minimum, squared or not."""

    nearest: Tensor  # L2 to the nearest private image of the class: delta_eval as printed by PPA and CALoR
    nearest_squared: Tensor  # its square: the "KNN distance" of GMI and its successors, and delta_eval in their code
    centroid: Tensor  # L2 to the mean of the class's private features: GMI's "feature distance"


def feature_distances(rebuilt: Tensor, labels: Tensor, private: Tensor, private_labels: Tensor) -> FeatureDistances:
    """k-NN (k = 1) and centroid distances of reconstructions to the private images of their class.

    Features of different networks are not comparable: state the network.

    Args:
        rebuilt: Features of the reconstructions ``(N, d)``.
        labels: Their target classes ``(N,)``.
        private: Features of the private images ``(M, d)``.
        private_labels: ``(M,)``.

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
        own, class_features = rebuilt[labels == label].double(), private[private_labels == label].double()
        if not len(class_features):
            raise ValueError(f"expected private images of class {int(label)}, got none")
        nearest[labels == label] = pairwise_distances(own, class_features).amin(1)
        centroid[labels == label] = (own - class_features.mean(0)).norm(dim=1)
    return FeatureDistances(nearest, nearest.square(), centroid)


def pairwise_distances(a: Tensor, b: Tensor) -> Tensor:
    """L2 distances ``(N, M)`` between the rows of two batches, without cancellation: equal rows have distance 0."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
