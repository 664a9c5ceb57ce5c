"""What a feature tells of an image by Fisher information: how far the noise on it lets neighbours be told apart."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vjp, vmap


def fisher_spectrum(encoder: Callable[[Tensor], Tensor], image: Tensor, *, chunk: int = 64) -> Tensor:
    r"""Eigenvalues of :math:`G G^\top`, G the Jacobian of the feature in the pixels, at one image; ascending.

    They are the squares of G's singular values. Divided by the variance s of Gaussian noise on the feature, they are
    the eigenvalues of the Fisher information :math:`J(x) = G^\top G / s`; those left out are 0.

    Args:
        encoder: Images ``(1, C, H, W)`` to features, differentiable; a module in eval mode.
        image: ``(C, H, W)``.
        chunk: Rows of the Jacobian computed at a time; only a square of the smaller side of G is kept.

    Returns:
        ``(min(features, pixels),)`` float64, at least 0.
    """
    features, pull, *_ = vjp(lambda pixels: encoder(pixels[None]).flatten(), image)
    rows = (
        vmap(pull)(unit)[0].flatten(1).double()
        for unit in torch.eye(len(features), dtype=image.dtype, device=image.device).split(chunk)
    )
    if len(features) <= image.numel():
        whole = torch.cat(list(rows))
        gram = whole @ whole.T
    else:
        gram = torch.zeros(image.numel(), image.numel(), dtype=torch.float64, device=image.device)
        for part in rows:
            gram += part.T @ part
    eigenvalues: Tensor = torch.linalg.eigvalsh(gram)
    return eigenvalues.clamp(min=0)


def fisher_information(
    spectrum: Tensor, dimensions: int, *, image_variance: float, noise_variance: float
) -> float | None:
    r"""The adversary's certainty at one image, in nats a pixel, or None where no noise bounds it.

    .. math:: \frac{1}{2 d} \log \det\big(I + s_x\, G^\top G / s\big)

    After Deng et al., FSInfo, arXiv:2504.10016: leakage as the adversary's certainty, the negative conditional entropy
    of the input given what was sent, approximated by Fisher information with a Gaussian surrogate. Its published
    formula was not at hand; this one is derived here. The feature is replaced by its linearisation at the image, the
    image by a Gaussian of one variance :math:`s_x` in every pixel; the posterior's precision is then
    :math:`I/s_x + J`, and this is what it has gained over the prior: the mutual information, exactly, if the encoder
    is linear and images are that Gaussian. Deviations, therefore: the prior's entropy is taken off, so that 0 is no
    leakage; divided by d; other noise counts by its variance.

    Args:
        spectrum: What `fisher_spectrum` gives.
        dimensions: d, the values of one image.
        image_variance: Of one pixel over images, at least 0.
        noise_variance: s, of the noise on each value sent; 0 where there is none.

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
    r"""How many directions of image space the feature follows: the participation ratio of its sensitivity.

    :math:`(\sum_i \lambda_i)^2 / \sum_i \lambda_i^2`: n for n equal eigenvalues, near 1 where one dwarfs the others,
    0 where the feature does not follow the image at all. It needs no noise.

    >>> effective_dimensions(torch.tensor([0.0, 2.0, 2.0, 2.0]))
    3.0
    """
    total = spectrum.double().sum()
    return float(total.square() / spectrum.double().square().sum()) if total > 0 else 0.0
