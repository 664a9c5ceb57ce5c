"""Statistical dependence of two batches: distance correlation, HSIC, normalised HSIC (NOCCO) and COCO."""

from typing import Literal

import torch
from torch import Tensor

_TINY = 1e-12
_ZERO = 4.0  # squared distances below this many rounding errors count as 0


def distance_correlation(x: Tensor, y: Tensor, *, squared: bool = False) -> Tensor:
    r"""Distance correlation of two batches of equal length, a scalar in [0, 1]; 0 where either batch is constant.

    With A and B the doubly centred matrices of distances within each batch,

    .. math:: \mathrm{dCor}(x, y) = \sqrt{\langle A, B \rangle / (\lVert A \rVert \lVert B \rVert)}

    Székely et al., "Measuring and testing dependence by correlation of distances", Annals of Statistics 2007: the
    biased sample statistic, not its square. Differentiable, with a finite gradient where samples coincide. Unlike
    published code there is no constant inside the roots.

    Args:
        x: ``(N, ...)``, flattened to one vector per sample.
        y: ``(N, ...)``, likewise; the shapes may differ.
        squared: Use squared distances, as the code of Titcombe et al., 2021; that detects linear dependence only.

    Raises:
        ValueError: The batches differ in length.

    >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    >>> distance_correlation(x, 5 - 2 * x)
    tensor(1.)
    """
    if len(x) != len(y):
        raise ValueError(f"expected batches of equal length, got {len(x)} and {len(y)}")
    a, b = (_centred_distances(batch, squared) for batch in (x, y))
    dcov = (a * b).sum()
    dependent = dcov > 0
    one = torch.ones_like(dcov)  # the branch not taken needs a finite gradient too
    scale = torch.where(dependent, a.square().sum(), one).sqrt() * torch.where(dependent, b.square().sum(), one).sqrt()
    return torch.where(dependent, (torch.where(dependent, dcov, one) / scale).sqrt(), torch.zeros_like(dcov))


def _centred_distances(batch: Tensor, squared: bool) -> Tensor:
    """Distances ``(N, N)`` between the samples, minus their row means and column means, plus their mean."""
    vectors = batch.flatten(1)
    vectors = vectors if vectors.dtype == torch.float64 else vectors.float()
    vectors = vectors - vectors.mean(0)  # keeps all distances, and reduces cancellation
    lengths = vectors.square().sum(1)
    sums = lengths[:, None] + lengths
    distances = sums - 2 * vectors @ vectors.T
    distinct = distances > _ZERO * torch.finfo(distances.dtype).eps * sums.detach()
    distances = torch.where(distinct, distances, torch.zeros_like(distances))
    if not squared:
        root = torch.where(distinct, distances, torch.ones_like(distances)).sqrt()
        distances = torch.where(distinct, root, torch.zeros_like(root))
    return _centred(distances)


def gaussian_kernel(batch: Tensor, width: float = 5.0) -> Tensor:
    r"""Gaussian (RBF) kernel matrix of a batch: ``(N, N)`` float64 in (0, 1], 1 on the diagonal.

    .. math:: k(u, v) = \exp\bigl(-\lVert u - v \rVert^2 / 2 \sigma^2\bigr), \qquad \sigma = w \sqrt d

    Args:
        batch: ``(N, ...)``; d is the number of values of one sample.
        width: w, the bandwidth in units of the root of d. At 5 all entries are close to 1.

    >>> gaussian_kernel(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))[0]
    tensor([1.0000, 0.7788], dtype=torch.float64)
    """
    vectors = batch.flatten(1).double()
    vectors = vectors - vectors.mean(0)  # keeps all distances, and reduces cancellation
    lengths = vectors.square().sum(1)
    distances = (lengths[:, None] + lengths - 2 * vectors @ vectors.T).clamp(min=0)
    return torch.exp(-distances / (2 * width**2 * vectors.shape[1]))


def label_kernel(labels: Tensor) -> Tensor:
    """Linear kernel of one-hot labels ``(N,)``: ``(N, N)`` float64, 1 where two labels are equal, else 0."""
    return (labels[:, None] == labels).double()


def hsic(a: Tensor, b: Tensor) -> Tensor:
    r"""The Hilbert-Schmidt independence criterion of two kernel matrices ``(N, N)``; a scalar, 0 for a constant kernel.

    .. math:: \mathrm{tr}(A H B H) / (N - 1)^2, \qquad H = I - 11^\top / N

    Gretton et al., "Measuring statistical dependence with Hilbert-Schmidt norms", ALT 2005: the biased statistic.
    """
    return (_centred(a) * _centred(b)).sum() / (len(a) - 1) ** 2


def normalised_hsic(a: Tensor, b: Tensor, epsilon: float = 1e-5) -> Tensor:
    r"""Normalised HSIC (NOCCO) of two kernel matrices ``(N, N)``, independent of their scale; a scalar in [0, N - 1).

    .. math:: \mathrm{tr}(R_A R_B), \qquad R_K = HKH\,(HKH + \epsilon N I)^{-1}

    Fukumizu et al., "Kernel measures of conditional dependence", NIPS 2007; called HSIC in the published code of BiDO.
    Of a label kernel with itself it is about the number of classes present minus one.

    Args:
        a: ``(N, N)``.
        b: ``(N, N)``.
        epsilon: Ridge regularisation, above 0.
    """
    size = len(a)
    ridge = epsilon * size * torch.eye(size, dtype=a.dtype, device=a.device)
    of_a, of_b = (torch.linalg.solve(kernel + ridge, kernel) for kernel in (_centred(a), _centred(b)))
    product: Tensor = of_a * of_b.T
    return product.sum()


def coco(a: Tensor, b: Tensor, norm: Literal["spectral", "frobenius"] = "spectral") -> Tensor:
    r"""The constrained covariance (COCO) of two kernel matrices; a scalar, 0 for a constant kernel.

    .. math:: \lVert HAH \cdot HBH \rVert^{1/2} / N

    Gretton et al., "Kernel constrained covariance for dependence measurement", AISTATS 2005, with the spectral norm.

    Args:
        a: ``(N, N)``.
        b: ``(N, N)``.
        norm: ``frobenius`` is that of the published code of BiDO, larger where the product is not of rank 1.
    """
    product = _centred(a) @ _centred(b)
    size: Tensor = torch.linalg.matrix_norm(product, 2 if norm == "spectral" else "fro")
    return torch.where(size > _TINY, size.clamp(min=_TINY).sqrt(), 0.0) / len(a)  # a root's gradient at 0 is infinite


def _centred(kernel: Tensor) -> Tensor:
    """The doubly centred kernel HKH ``(N, N)``: minus its row and column means, plus its mean."""
    return kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean()
