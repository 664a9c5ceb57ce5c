"""How much one batch of vectors depends on another."""

from typing import Literal

import torch
from torch import Tensor

_TINY = 1e-12
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
    return _centred(distances)


def gaussian_kernel(batch: Tensor, width: float = 5.0) -> Tensor:
    r"""How alike the samples of a batch ``(N, ...)`` are: ``(N, N)`` float64, in (0, 1], 1 on the diagonal.

    .. math:: k(u, v) = \exp\bigl(-\lVert u - v \rVert^2 / 2 \sigma^2\bigr), \qquad \sigma = w \sqrt d

    d is the number of values of one sample, w the ``width``. At a width of 5 all entries are close to 1.

    >>> gaussian_kernel(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))[0]
    tensor([1.0000, 0.7788], dtype=torch.float64)
    """
    vectors = batch.flatten(1).double()
    vectors = vectors - vectors.mean(0)  # changes no distance, and leaves them more digits
    lengths = vectors.square().sum(1)
    distances = (lengths[:, None] + lengths - 2 * vectors @ vectors.T).clamp(min=0)
    return torch.exp(-distances / (2 * width**2 * vectors.shape[1]))


def label_kernel(labels: Tensor) -> Tensor:
    """1 where two labels ``(N,)`` are one, else 0, ``(N, N)`` float64: the linear kernel of one-hot rows."""
    return (labels[:, None] == labels).double()


def hsic(a: Tensor, b: Tensor) -> Tensor:
    r"""The Hilbert-Schmidt independence criterion of two kernel matrices ``(N, N)``; a scalar, 0 for a constant kernel.

    .. math:: \mathrm{tr}(A H B H) / (N - 1)^2, \qquad H = I - 11^\top / N

    Gretton et al., "Measuring statistical dependence with Hilbert-Schmidt norms", ALT 2005: the biased statistic.
    """
    return (_centred(a) * _centred(b)).sum() / (len(a) - 1) ** 2


def normalised_hsic(a: Tensor, b: Tensor, epsilon: float = 1e-5) -> Tensor:
    r"""A dependence of two kernel matrices ``(N, N)`` that does not hang on their scale; a scalar in [0, N - 1).

    .. math:: \mathrm{tr}(R_A R_B), \qquad R_K = HKH\,(HKH + \epsilon N I)^{-1}

    Fukumizu et al., "Kernel measures of conditional dependence", NIPS 2007. It is what published code of BiDO calls
    HSIC. Of a label kernel with itself it is about the classes present, less one.
    """
    size = len(a)
    ridge = epsilon * size * torch.eye(size, dtype=a.dtype, device=a.device)
    of_a, of_b = (torch.linalg.solve(kernel + ridge, kernel) for kernel in (_centred(a), _centred(b)))
    together: Tensor = of_a * of_b.T
    return together.sum()


def coco(a: Tensor, b: Tensor, norm: Literal["spectral", "frobenius"] = "spectral") -> Tensor:
    r"""The constrained covariance of two kernel matrices ``(N, N)``; a scalar, 0 for a constant kernel.

    .. math:: \lVert HAH \cdot HBH \rVert^{1/2} / N

    Gretton et al., "Kernel constrained covariance for dependence measurement", AISTATS 2005: the spectral norm.
    ``frobenius`` is what published code of BiDO takes, the larger of the two where the product is not of rank 1.
    """
    product = _centred(a) @ _centred(b)
    size: Tensor = torch.linalg.matrix_norm(product, 2 if norm == "spectral" else "fro")
    return torch.where(size > _TINY, size.clamp(min=_TINY).sqrt(), 0.0) / len(a)  # a root's gradient at 0 is infinite


def _centred(kernel: Tensor) -> Tensor:
    """A kernel ``(N, N)`` with its row means and column means taken off, and its mean put back."""
    return kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean()
