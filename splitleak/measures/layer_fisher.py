"""Fisher information of a network's weights, layer by layer: which layers a task depends on."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from splitleak.models.penultimate import penultimate

SampleLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""One image's penultimate features ``(d,)``, its logits ``(K,)`` and its label ``()`` to a loss ``()``."""


def classification_loss(features: Tensor, logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy: Fisher information for classification."""
    return functional.cross_entropy(logits[None], label[None])


def inversion_loss(centroids: Tensor) -> SampleLoss:
    """L2 distance of a reconstruction's features to the mean private features of its class, ``centroids`` ``(K, d)``.

    The centroids are constants: the information is that of the reconstruction's features alone.
    """

    def loss(features: Tensor, logits: Tensor, label: Tensor) -> Tensor:
        own = centroids.index_select(0, label[None])[0]
        distance: Tensor = torch.linalg.vector_norm(features - own)
        return distance

    return loss


def layer_fisher(
    network: nn.Module, images: Tensor, labels: Tensor, loss: SampleLoss, *, chunk: int = 8
) -> dict[str, float]:
    r"""The diagonal empirical Fisher information of each layer: the mean of :math:`F_i` over its parameters.

    Ho et al., "Model inversion robustness: can transfer learning help?", CVPR 2024. Deviation from what is printed
    there, :math:`-E[\partial^2 L/\partial\theta^2]`, which is of the wrong sign for a loss: squares of gradients.

    Layers are by name in the network's order; a normalisation is a layer of its own. A layer that the loss does not
    depend on has 0, as the last linear layer for `inversion_loss`.

    Args:
        network: Images to logits, in eval mode (batch statistics would mix the samples).
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``; for reconstructions their target classes.
        loss: Of one image.
        chunk: Images whose gradients are in memory at a time.

    Raises:
        ValueError: The network is in training mode, or there is no image.
    """
    sums: dict[str, tuple[float, int]] = {}
    for name, squares in squared_gradients(network, images, labels, loss, chunk=chunk).items():
        layer = name.rpartition(".")[0]
        total, count = sums.get(layer, (0.0, 0))
        sums[layer] = total + float(squares.sum()), count + squares.numel()
    return {layer: total / count for layer, (total, count) in sums.items()}


def squared_gradients(
    network: nn.Module, images: Tensor, labels: Tensor, loss: SampleLoss, *, chunk: int = 8
) -> dict[str, Tensor]:
    r"""Diagonal empirical Fisher information :math:`F_i = E[(\partial L/\partial\theta_i)^2]` of each parameter.

    Arguments as of `layer_fisher`. The mean of squared per-sample gradients, in float64, not the squared mean.
    """
    if network.training or not len(images):
        state = "training" if network.training else "eval"
        raise ValueError(f"expected a network in eval mode and an image, got {state} mode and {len(images)} images")
    wrapped = _WithFeatures(network)
    weights = {name: weight.detach() for name, weight in wrapped.named_parameters()}

    def of_one(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        features, logits = functional_call(wrapped, weights, (image[None],))
        return loss(features[0], logits[0], label)

    gradients = vmap(grad(of_one), (None, 0, 0), randomness="different")  # stochastic layers draw for each image
    sums = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in weights.items()}
    for batch, batch_labels in zip(images.split(chunk), labels.split(chunk), strict=True):
        for name, gradient in gradients(weights, batch, batch_labels).items():
            sums[name] += gradient.double().square().sum(0)
    return {name.removeprefix("network."): total / len(images) for name, total in sums.items()}


class _WithFeatures(nn.Module):
    """A network that returns its penultimate features and its logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return penultimate(self.network, images)
