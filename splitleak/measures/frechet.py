"""The Fréchet distance of two sets of features, as in FID (Fréchet inception distance)."""

import torch
from torch import Tensor


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """The squared Fréchet distance of features ``(N, d)`` and ``(M, d)`` under Gaussian assumption; 0 for equal sets.

    Heusel et al., "GANs trained by a two time-scale update rule", NeurIPS 2017. It is the FID if the features are those
    of an Inception network trained on ImageNet; here the caller chooses the network. Covariances are unbiased. The
    value falls with the number of samples, so state that beside it.

    Raises:
        ValueError: Not two sets of at least two features of one dimension.

    >>> round(frechet_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]])), 9)
    6.0
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        got = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise ValueError(f"expected features (N, d) and (M, d), at least two of each, got {got}")
    a, b = a.double(), b.double()
    return gaussian_frechet_distance(a.mean(0), _covariance(a), b.mean(0), _covariance(b))


def gaussian_frechet_distance(mean_a: Tensor, covariance_a: Tensor, mean_b: Tensor, covariance_b: Tensor) -> float:
    r"""The squared Fréchet distance of two Gaussians: means ``(d,)``, covariances ``(d, d)``.

    .. math:: \lVert \mu_a - \mu_b \rVert^2 + \mathrm{tr}\big(C_a + C_b - 2 (C_a C_b)^{1/2}\big)

    The trace of the root is the sum of roots of the eigenvalues of :math:`C_a^{1/2} C_b C_a^{1/2}`, which are those of
    :math:`C_a C_b`; negative rounding errors are clamped to 0, so that covariances may be singular. In float64.

    >>> unit = torch.eye(2)
    >>> gaussian_frechet_distance(torch.zeros(2), unit, torch.tensor([3.0, 4.0]), 4 * unit)
    27.0
    """
    values, vectors = torch.linalg.eigh(covariance_a.double())
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    product = torch.linalg.eigvalsh(root @ covariance_b.double() @ root).clamp(min=0)
    squared_distance = (mean_a.double() - mean_b.double()).square().sum()
    covariance_term = covariance_a.double().trace() + covariance_b.double().trace() - 2 * product.sqrt().sum()
    return float(squared_distance + covariance_term.clamp(min=0))


def _covariance(features: Tensor) -> Tensor:
    centred = features - features.mean(0)
    return centred.T @ centred / (len(features) - 1)
