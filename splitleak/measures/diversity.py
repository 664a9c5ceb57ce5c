"""Precision, recall, density and coverage: are rebuilt images like the private ones, and like all of them."""

from dataclasses import asdict, dataclass

from torch import Tensor

from splitleak.measures.feature_distance import pairwise_distances


@dataclass(frozen=True)
class Diversity:
    """All in [0, 1], save density, which is 1 on average where both sets are of one kind, and may be more."""

    precision: float  # share of rebuilt images within the private manifold
    recall: float  # share of private images within the rebuilt manifold
    density: float  # how many private balls a rebuilt image lies in, over what is expected
    coverage: float  # share of private images whose ball has a rebuilt one in it

    def document(self) -> dict[str, float]:
        """As JSON."""
        return asdict(self)


def diversity(rebuilt: Tensor, private: Tensor, k: int) -> Diversity:
    """Compares features of rebuilt ``(M, d)`` and private images ``(N, d)``, as a rule those of one class.

    The ball of an image reaches to its ``k``-th nearest neighbour in its own set, itself not counted, and has its
    border in it; a set's manifold is all its balls.

    Precision and recall: Kynkäänniemi et al., "Improved precision and recall metric for assessing generative models",
    NeurIPS 2019. Density and coverage: Naeem et al., "Reliable fidelity and diversity metrics for generative models",
    ICML 2020. By these definitions, not as the code of inversion papers has them, which looks at the nearest ball only
    and divides density by the number of private images.

    Raises:
        ValueError: A set has no more than ``k`` images, or shapes do not fit.
    """
    if rebuilt.ndim != 2 or private.ndim != 2 or rebuilt.shape[1] != private.shape[1]:
        got = f"{tuple(rebuilt.shape)} and {tuple(private.shape)}"
        raise ValueError(f"expected features (M, d) and (N, d), got {got}")
    if not 1 <= k < min(len(rebuilt), len(private)):
        raise ValueError(f"expected more than k = {k} images of each set, got {len(rebuilt)} and {len(private)}")
    rebuilt, private = rebuilt.double(), private.double()
    apart = pairwise_distances(private, rebuilt)  # (N, M)
    in_private = apart <= _radii(private, k)[:, None]
    in_rebuilt = apart <= _radii(rebuilt, k)
    return Diversity(
        precision=float(in_private.any(0).double().mean()),
        recall=float(in_rebuilt.any(1).double().mean()),
        density=float(in_private.sum(0).double().mean() / k),
        coverage=float(in_private.any(1).double().mean()),
    )


def _radii(members: Tensor, k: int) -> Tensor:
    """To the ``k``-th nearest other member ``(N,)``."""
    distances = pairwise_distances(members, members)
    distances.fill_diagonal_(0)
    return distances.kthvalue(k + 1, dim=1).values
