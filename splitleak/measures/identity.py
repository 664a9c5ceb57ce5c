"""Identity losses of class inversion: classification losses towards the target class, one value per image."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

IdentityLoss = Callable[[Tensor, Tensor], Tensor]
"""Logits ``(N, K)`` and labels ``(N,)`` to losses ``(N,)``; lower is closer to the class."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log-probability of the class; its gradient vanishes at high confidence."""
    return functional.cross_entropy(logits, labels, reduction="none")


def logit(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative logit of the class; its gradient does not depend on the confidence.

    Nguyen et al., "Re-thinking model inversion attacks against deep neural networks", CVPR 2023, without their
    regulariser.

    >>> logit(torch.tensor([[2.0, 5.0, 3.0]]), torch.tensor([2]))
    tensor([-3.])
    """
    return -logits.gather(1, labels[:, None]).squeeze(1)


def max_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Max-margin loss: the highest logit of the other classes minus that of the class.

    Yuan et al., "Pseudo label-guided model inversion attack via conditional generative adversarial network", AAAI 2023.

    >>> max_margin(torch.tensor([[2.0, 5.0, 3.0]]), torch.tensor([2]))
    tensor([2.])
    """
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.amax(1) + logit(logits, labels)


def poincare(logits: Tensor, labels: Tensor, xi: float = 1e-4) -> Tensor:
    r"""Poincaré distance between the logits, scaled to an L1 norm of 1, and the one-hot vector of the class.

    .. math:: \mathrm{arcosh}\left(1 + \frac{2 \|u - v\|^2}{(1 - \|u\|^2)(1 - \|v\|^2)}\right)

    Struppek et al., "Plug & play attacks", ICML 2022: u are the scaled logits, v is the one-hot vector minus ``xi``,
    clamped at 0. Deviation: :math:`1 - \|u\|^2` is at least 1e-7, where it would be 0 for one-hot logits.

    >>> poincare(torch.tensor([[2.0, 1.0, 1.0]], dtype=torch.float64), torch.tensor([0]))
    tensor([9.3926], dtype=torch.float64)
    """
    scaled = logits / logits.abs().sum(1, keepdim=True)
    corner = (functional.one_hot(labels, logits.shape[1]).to(logits) - xi).clamp(0, 1)
    room = (1 - scaled.square().sum(1)).clamp_min(1e-7) * (1 - corner.square().sum(1))
    return torch.acosh(1 + 2 * (scaled - corner).square().sum(1) / room)


def feature_distance(features: Tensor, labels: Tensor, means: Tensor, spread: float) -> Tensor:
    r"""Squared L2 distance between an image's feature and the mean feature of its class, in units of ``spread``.

    .. math:: \|h - \bar h_y\|^2 / s

    Args:
        features: h, ``(N, d)``.
        labels: ``(N,)``.
        means: Mean features of the classes ``(K, d)``.
        spread: s, above 0. With the mean squared distance of many images' features from their mean, a random image has
            a value of about 1 to the mean of all.

    Returns:
        ``(N,)``.

    >>> feature_distance(torch.tensor([[3.0, 4.0]]), torch.tensor([1]), torch.tensor([[9.0, 9.0], [0.0, 0.0]]), 5.0)
    tensor([5.])
    """
    return (features - means[labels]).square().sum(1) / spread


IDENTITY_LOSSES: dict[str, IdentityLoss] = {
    "cross-entropy": cross_entropy,
    "logit": logit,
    "max-margin": max_margin,
    "poincare": poincare,
}
