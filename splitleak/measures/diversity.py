"""PRDC (precision, recall, density, coverage): fidelity and diversity of reconstructions against private images."""

from dataclasses import asdict, dataclass

from torch import Tensor

from splitleak.measures.feature_distance import pairwise_distances


@dataclass(frozen=True)
class PRDC:
    """All in [0, 1], except density, which is 1 on average for two sets of one distribution, and may be larger."""

    precision: float  # share of reconstructions inside the private manifold
    recall: float  # share of private images inside the reconstructions' manifold
    density: float  # mean number of private balls that contain a reconstruction, divided by k
    coverage: float  # share of private images whose ball contains a reconstruction

    def document(self) -> dict[str, float]:
        """As JSON."""
        return asdict(self)


def prdc(rebuilt: Tensor, private: Tensor, k: int) -> PRDC:
    """Precision, recall, density and coverage of reconstructed against private features, usually of one class.

    The ball of an image reaches to its ``k``-th nearest neighbour in its own set, itself not counted, border included;
    the manifold of a set is the union of its balls.

    Precision and recall: Kynkäänniemi et al., "Improved precision and recall metric for assessing generative models",
    NeurIPS 2019. Density and coverage: Naeem et al., "Reliable fidelity and diversity metrics for generative models",
    ICML 2020. By these definitions, unlike the code of inversion papers, which considers the nearest ball only and
    divides density by the number of private images.

    Args:
        rebuilt: Features of the reconstructions ``(M, d)``.
        private: Features of the private images ``(N, d)``.
        k: Nearest neighbour that sets the radius, from 1 to min(M, N) - 1.

    Raises:
        ValueError: A set has no more than ``k`` images, or shapes do not fit.
    """
    if rebuilt.ndim != 2 or private.ndim != 2 or rebuilt.shape[1] != private.shape[1]:
        got = f"{tuple(rebuilt.shape)} and {tuple(private.shape)}"
        raise ValueError(f"expected features (M, d) and (N, d), got {got}")
    if not 1 <= k < min(len(rebuilt), len(private)):
        raise ValueError(f"expected more than k = {k} images of each set, got {len(rebuilt)} and {len(private)}")
    rebuilt, private = rebuilt.double(), private.double()
    distances = pairwise_distances(private, rebuilt)  # (N, M)
    in_private = distances <= _radii(private, k)[:, None]
    in_rebuilt = distances <= _radii(rebuilt, k)
    return PRDC(
        precision=float(in_private.any(0).double().mean()),
        recall=float(in_rebuilt.any(1).double().mean()),
        density=float(in_private.sum(0).double().mean() / k),
        coverage=float(in_private.any(1).double().mean()),
    )


def _radii(members: Tensor, k: int) -> Tensor:
    """k-NN radii: the distance of each member to its ``k``-th nearest other member ``(N,)``."""
    distances = pairwise_distances(members, members)
    distances.fill_diagonal_(0)
    return distances.kthvalue(k + 1, dim=1).values
