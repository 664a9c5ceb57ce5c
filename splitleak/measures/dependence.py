"""How much one batch of vectors depends on another."""

import torch
from torch import Tensor

_ZERO = 4.0  # squared distances below this many rounding errors are those of equal rows


def distance_correlation(x: Tensor, y: Tensor, *, squared: bool = False) -> Tensor:
    r"""Distance correlation of two batches of equal length, in [0, 1]; 0 where either batch is constant.

    Both are ``(N, ...)``, any shapes, flattened to one vector a sample; returns a scalar. Differentiable, with a
    finite gradient where samples coincide. With A and B the doubly centred matrices of distances within each batch,

    .. math:: \mathrm{dCor}(x, y) = \sqrt{\langle A, B \rangle / (\lVert A \rVert \lVert B \rVert)}

    Székely et al., "Measuring and testing dependence by correlation of distances", Annals of Statistics 2007: the
    biased sample statistic, not its square. ``squared`` takes squared distances instead, as the code of Titcombe et
    al., 2021, does; that sees linear dependence only. Unlike published code there is no constant inside the roots.

    Raises:
        ValueError: The batches differ in length.

    >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    >>> distance_correlation(x, 5 - 2 * x)
    tensor(1.)
    """
    if len(x) != len(y):
        raise ValueError(f"expected batches of equal length, got {len(x)} and {len(y)}")
    a, b = (_centred_distances(batch, squared) for batch in (x, y))
    alike = (a * b).sum()
    dependent = alike > 0
    one = torch.ones_like(alike)  # what is not taken must have a finite gradient too
    scale = torch.where(dependent, a.square().sum(), one).sqrt() * torch.where(dependent, b.square().sum(), one).sqrt()
    return torch.where(dependent, (torch.where(dependent, alike, one) / scale).sqrt(), torch.zeros_like(alike))


def _centred_distances(batch: Tensor, squared: bool) -> Tensor:
    """Distances ``(N, N)`` between the samples, minus their row means and column means, plus their mean."""
    vectors = batch.flatten(1)
    vectors = vectors if vectors.dtype == torch.float64 else vectors.float()
    vectors = vectors - vectors.mean(0)  # changes no distance, and leaves them more digits
    lengths = vectors.square().sum(1)
    sums = lengths[:, None] + lengths
    distances = sums - 2 * vectors @ vectors.T
    apart = distances > _ZERO * torch.finfo(distances.dtype).eps * sums.detach()
    distances = torch.where(apart, distances, torch.zeros_like(distances))
    if not squared:
        root = torch.where(apart, distances, torch.ones_like(distances)).sqrt()
        distances = torch.where(apart, root, torch.zeros_like(root))
    return distances - distances.mean(0) - distances.mean(1, keepdim=True) + distances.mean()
