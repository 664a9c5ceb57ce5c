"""Fisher information of noisy features about the image (FSInfo), and the effective dimension of the encoder."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vjp, vmap

_LARGEST_SIDE = 2**14  # of a Gram matrix: 2 GiB


def missing(features: int, pixels: int) -> str | None:
    """Why the spectrum of so many features of so many pixels is not computed: memory; None if it is."""
    side, held = min(features, pixels), features * pixels
    if side <= _LARGEST_SIDE and (features > pixels or held <= _LARGEST_SIDE**2):
        return None
    return (
        f"expected features or an image of at most {_LARGEST_SIDE:,} values, and a Jacobian of {_LARGEST_SIDE:,}², got "
        f"{features:,} by {pixels:,}"
    )


def fisher_spectrum(encoder: Callable[[Tensor], Tensor], image: Tensor, *, chunk: int = 64) -> Tensor:
    r"""Eigenvalues of :math:`G G^\top`, G the Jacobian of the features by the pixels, at one image; ascending.

    They are the squared singular values of G. Divided by the variance s of Gaussian noise on the feature, they are
    the non-zero eigenvalues of the Fisher information matrix :math:`J(x) = G^\top G / s`.

    Args:
        encoder: Images ``(1, C, H, W)`` to features, differentiable; a module in eval mode.
        image: ``(C, H, W)``.
        chunk: Rows of the Jacobian computed at a time; memory holds the Gram matrix of the smaller side of G.

    Returns:
        ``(min(features, pixels),)`` float64, at least 0.

    Raises:
        ValueError: The Gram matrix, or a Jacobian with fewer features than pixels, would not fit into memory, see
            `missing`.
    """
    features, pullback, *_ = vjp(lambda pixels: encoder(pixels[None]).flatten(), image)
    if reason := missing(len(features), image.numel()):
        raise ValueError(reason)
    units = (
        image.new_zeros(len(places), len(features)).scatter(1, places[:, None], 1)
        for places in torch.arange(len(features), device=image.device).split(chunk)
    )
    rows = (vmap(pullback)(unit)[0].flatten(1).double() for unit in units)
    if len(features) <= image.numel():
        jacobian = torch.cat(list(rows))
        gram = jacobian @ jacobian.T
    else:
        gram = torch.zeros(image.numel(), image.numel(), dtype=torch.float64, device=image.device)
        for block in rows:
            gram += block.T @ block
    eigenvalues: Tensor = torch.linalg.eigvalsh(gram)
    return eigenvalues.clamp(min=0)


def fisher_information(
    spectrum: Tensor, dimensions: int, *, image_variance: float, noise_variance: float
) -> float | None:
    r"""Fisher information leakage (FSInfo) at one image, in nats per pixel, or None without noise (infinite).

    .. math:: \frac{1}{2 d} \log \det\big(I + s_x\, G^\top G / s\big)

    After Deng et al., FSInfo, arXiv:2504.10016: leakage as the negative conditional entropy of the input given the
    features sent, approximated by Fisher information with a Gaussian surrogate. Its published formula was not
    available; this one is derived here. The encoder is linearised at the image, and the image's prior is an isotropic
    Gaussian of variance :math:`s_x`; the posterior's precision is then :math:`I/s_x + J`, and the value is the entropy
    reduction from prior to posterior: the mutual information, exactly, if the encoder is linear and images have that
    distribution. It speaks of attackers who know no more of images than that prior. Without a prior, the inverse of J
    limits the squared error of *unbiased* attackers alone (Cramér and Rao; Maeng et al., arXiv:2305.04146); an attacker
    who has learned from images is biased, and may do better than either says. Deviations, therefore: the prior's
    entropy is subtracted, so that 0 is no leakage; divided by d; noise of other distributions counts as Gaussian of its
    variance.

    Args:
        spectrum: The result of `fisher_spectrum`.
        dimensions: d, the number of values of one image.
        image_variance: :math:`s_x`, of one pixel over images, at least 0.
        noise_variance: s, of the noise on each value sent; 0 without noise.

    Raises:
        ValueError: A variance is negative, or ``dimensions`` is not positive.

    >>> fisher_information(torch.ones(4), 4, image_variance=0.03, noise_variance=0.01)  # log(4) / 2
    0.6931471805599453
    """
    if dimensions < 1 or image_variance < 0 or noise_variance < 0:
        got = f"{dimensions}, {image_variance} and {noise_variance}"
        raise ValueError(f"expected at least 1 dimension and variances of at least 0, got {got}")
    if noise_variance == 0:
        return None
    gained = torch.log1p(spectrum.double() * (image_variance / noise_variance)).sum()
    return float(gained) / (2 * dimensions)


def effective_dimensions(spectrum: Tensor) -> float:
    r"""Effective dimension of the encoder at one image: the participation ratio of the spectrum.

    :math:`(\sum_i \lambda_i)^2 / \sum_i \lambda_i^2`: n for n equal eigenvalues, near 1 where one dominates, 0 where
    the feature is constant in the image. It does not depend on the noise.

    >>> effective_dimensions(torch.tensor([0.0, 2.0, 2.0, 2.0]))
    3.0
    """
    total = spectrum.double().sum()
    return float(total.square() / spectrum.double().square().sum()) if total > 0 else 0.0
