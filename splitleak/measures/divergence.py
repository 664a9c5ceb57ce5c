"""The Kullback-Leibler divergence of Gaussians."""

from torch import Tensor


def kl_to_standard_normal(mean: Tensor, deviation: Tensor) -> Tensor:
    r"""Kullback-Leibler divergence from a diagonal Gaussian to the standard normal, in nats, one value per row.

    .. math:: -\tfrac12 \sum_j (1 + 2 \log \sigma_j - \mu_j^2 - \sigma_j^2)

    Args:
        mean: ``(N, k)``.
        deviation: Standard deviations ``(N, k)``, above 0.

    Returns:
        ``(N,)``, at least 0, and 0 at mean 0 and deviation 1.

    >>> import torch
    >>> kl_to_standard_normal(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 2.0]]))
    tensor([1.3069])
    """
    return -0.5 * (1 + 2 * deviation.log() - mean.square() - deviation.square()).sum(1)
