"""Identity losses: how far a model is from saying that an image shows a class. One value an image; lower is closer."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

IdentityLoss = Callable[[Tensor, Tensor], Tensor]
"""Takes logits ``(N, K)`` and labels ``(N,)`` to losses ``(N,)``."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the logarithm of the class's probability; its gradient vanishes where the model is sure."""
    return functional.cross_entropy(logits, labels, reduction="none")


def logit(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the class's logit; its gradient is the same at any confidence.

    Nguyen et al., "Re-thinking model inversion attacks against deep neural networks", CVPR 2023, without their
    regulariser.

    >>> logit(torch.tensor([[2.0, 5.0, 3.0]]), torch.tensor([2]))
    tensor([-3.])
    """
    return -logits.gather(1, labels[:, None]).squeeze(1)


def max_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The highest logit of the other classes minus that of the class.

    Yuan et al., "Pseudo label-guided model inversion attack via conditional generative adversarial network", AAAI 2023.

    >>> max_margin(torch.tensor([[2.0, 5.0, 3.0]]), torch.tensor([2]))
    tensor([2.])
    """
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.amax(1) + logit(logits, labels)


def poincare(logits: Tensor, labels: Tensor, xi: float = 1e-4) -> Tensor:
    r"""The distance in the Poincaré ball between the logits, scaled to an L1 norm of 1, and the class's corner.

    .. math:: \mathrm{arcosh}\left(1 + \frac{2 \|u - v\|^2}{(1 - \|u\|^2)(1 - \|v\|^2)}\right)

    Struppek et al., "Plug & play attacks", ICML 2022: u are the scaled logits, v is the one-hot vector less ``xi`` and
    at least 0. Deviation: one less the squared norm of u is at least 1e-7, where it would be 0 for one-hot logits.

    >>> poincare(torch.tensor([[2.0, 1.0, 1.0]]), torch.tensor([0]))
    tensor([9.3926])
    """
    scaled = logits / logits.abs().sum(1, keepdim=True)
    corner = (functional.one_hot(labels, logits.shape[1]).to(logits) - xi).clamp(0, 1)
    room = (1 - scaled.square().sum(1)).clamp_min(1e-7) * (1 - corner.square().sum(1))
    return torch.acosh(1 + 2 * (scaled - corner).square().sum(1) / room)


def feature_distance(features: Tensor, labels: Tensor, means: Tensor, spread: float) -> Tensor:
    r"""The squared distance between an image's feature and its class's mean feature, in units of ``spread``.

    .. math:: \|h - \bar h_y\|^2 / s

    Features ``(N, d)``, labels ``(N,)`` and means ``(K, d)`` to ``(N,)``. With s the mean squared distance of many
    images' features from their own mean, an image drawn at random has a value of about 1 to the mean of all.

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
