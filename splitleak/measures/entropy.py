"""Mutual information and differential entropy of Gaussian mixtures, and the entropy power."""

import math

import torch
from torch import Tensor

from splitleak.measures.clusters import cluster_moments


def mixture_information(weights: Tensor, variances: Tensor, noise_variance: float | Tensor) -> Tensor:
    r"""Upper bound, in nats, of the mutual information between a mixture and its value plus Gaussian noise.

    .. math:: I(z; \hat z) \le \sum_i \pi_i \Big(-\log \pi_i + \frac12 \sum_j \log \frac{v_{ij} + s_j}{s_j}\Big)

    Equation S8 of Xia et al., CEM, CVPR 2025, with diagonal covariances; exact for one component that is Gaussian with
    independent values. It bounds the information for the *true* weights and variances, whatever the components'
    distributions (a Gaussian has the most entropy of its variance); with those of a sample it is an estimate.
    Differentiable; a component of weight 0 adds nothing.

    Args:
        weights: ``(k,)``, the mixture weights, which sum to 1.
        variances: ``(k, ...)``, each component's variance in every dimension, at least 0.
        noise_variance: The noise's variance, above 0: one for all dimensions, or of the shape of one component.

    Raises:
        ValueError: A dimension has no noise (the information is unbounded then), or shapes do not fit.

    >>> mixture_information(torch.ones(1), torch.full((1, 512), 0.03), 0.01)
    tensor(354.8914)
    """
    if weights.ndim != 1 or variances.ndim < 2 or len(variances) != len(weights):
        got = f"{tuple(weights.shape)} and {tuple(variances.shape)}"
        raise ValueError(f"expected weights (k,) and variances (k, ...), got {got}")
    if isinstance(noise_variance, Tensor):
        noise = noise_variance.to(variances)
        least = float(noise.min())
    else:  # not read back from the device, which a step of a training would wait for
        noise, least = variances.new_full((), noise_variance), noise_variance
    if noise.ndim and noise.shape != variances.shape[1:]:
        raise ValueError(f"expected one noise variance or {tuple(variances.shape[1:])}, got {tuple(noise.shape)}")
    if not least > 0:
        raise ValueError(f"expected noise variances above 0, got {least}")
    within = 0.5 * torch.log1p(variances / noise).flatten(1).sum(1)
    bound: Tensor = torch.special.entr(weights).sum() + weights @ within
    return bound


def sampled_information(values: Tensor, assigned: Tensor, noise_variance: float) -> float:
    r"""`mixture_information` of the distribution of ``values``, estimated from few of them, in nats.

    The variance of n values is below that of their distribution, and its logarithm, which counts, is further below: of
    four values by 0.65 nats on average, of forty by 0.05. For Gaussian components the expected difference is
    :math:`\log(n/2) - \psi((n-1)/2)`, :math:`\psi` the digamma function; by it variances are raised here in every
    dimension. Where the noise is the larger part that is too much, so that the estimate is on the side of more
    information. A component of a single value gets the mean variance within the others.

    Args:
        values: ``(N, d)``, more of them than components.
        assigned: ``(N,)``, the component of each, from 0.
        noise_variance: The noise's variance, above 0.

    Raises:
        ValueError: There are no more values than components, or no noise.
    """
    weights, _, variances = cluster_moments(values, assigned)
    counts = torch.bincount(assigned).double()
    freedom = (counts - 1).clamp(min=0)
    if not freedom.any():
        raise ValueError(f"expected more values than components, got {len(values)} values")
    within = (counts[:, None] * variances).sum(0) / freedom.sum()
    raised = (counts / 2).log() - torch.digamma(freedom.clamp(min=1) / 2)
    unbiased = torch.where(freedom[:, None] > 0, variances * raised.exp()[:, None], within)
    return float(mixture_information(weights.double(), unbiased, noise_variance))


def mixture_entropy(values: Tensor, assigned: Tensor, *, smallest_variance: float) -> float:
    r"""Estimate of the differential entropy, in nats, of the distribution of ``values`` by a Gaussian mixture.

    .. math:: H(x) \ge H(x \mid c) = \sum_i \pi_i\,H(N_i) = \tfrac12 \log \big((2 \pi e)^d \det \Sigma\big)

    with one covariance for all components, the unbiased within-cluster covariance. That leaves out the entropy of the
    cluster index, at most the log of the number of clusters. A Gaussian has the most entropy of its covariance, so for
    clusters that are not Gaussian the estimate is too high, without limit. With fewer samples than dimensions, the
    directions that they do not span count with ``smallest_variance``, which makes it lower.

    Args:
        values: ``(N, d)``, more of them than clusters.
        assigned: ``(N,)``, the cluster of each.
        smallest_variance: Least variance in any direction, above 0: the precision of the values.

    Raises:
        ValueError: There are no more values than clusters, or ``smallest_variance`` is not positive.
    """
    shares, means, _ = cluster_moments(values, assigned)
    freedom = len(values) - int((shares > 0).sum())
    if freedom < 1 or smallest_variance <= 0:
        expected = "more values than clusters and a smallest variance above 0"
        raise ValueError(f"expected {expected}, got {len(values)} values and {smallest_variance}")
    deviations = (values - means[assigned]).double()
    wide = deviations.shape[0] < deviations.shape[1]
    eigenvalues = torch.linalg.eigvalsh(deviations @ deviations.T if wide else deviations.T @ deviations) / freedom
    missing = max(0, deviations.shape[1] - len(eigenvalues))
    log_determinant = eigenvalues.clamp(min=smallest_variance).log().sum() + missing * math.log(smallest_variance)
    return 0.5 * (float(log_determinant) + deviations.shape[1] * math.log(2 * math.pi * math.e))


def entropy_power(entropy_nats: float, dimensions: int) -> float:
    r"""Entropy power :math:`e^{2H/d} / (2\pi e)`: the variance of the isotropic Gaussian of a differential entropy.

    For the *true* conditional entropy of the image given what was sent, no estimate of the image has a smaller expected
    squared error per dimension (Shannon; theorem 1 of Xia et al., CEM, CVPR 2025), and that of an isotropic Gaussian
    reaches it. For an entropy under a Gaussian model, which may be too high without limit, it is an estimate.

    Args:
        entropy_nats: H, in nats; minus infinity for images of countably many values.
        dimensions: d, the number of values of the image, at least 1.

    Raises:
        ValueError: ``dimensions`` is not positive.

    >>> round(entropy_power(0.5 * math.log(2 * math.pi * math.e * 0.04), 1), 6)
    0.04
    """
    if dimensions < 1:
        raise ValueError(f"expected at least 1 dimension, got {dimensions}")
    return math.exp(2 * entropy_nats / dimensions) / (2 * math.pi * math.e)
