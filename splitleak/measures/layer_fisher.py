"""Which layers hold what a task is about: the Fisher information of a network's weights, layer by layer."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from splitleak.models.penultimate import penultimate

SampleLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Takes one image's penultimate features ``(d,)``, its logits ``(K,)`` and its label ``()`` to a loss ``()``."""


def classification_loss(features: Tensor, logits: Tensor, label: Tensor) -> Tensor:
    """The cross-entropy: the information that classifying needs."""
    return functional.cross_entropy(logits[None], label[None])


def inversion_loss(centroids: Tensor) -> SampleLoss:
    """How far a rebuilt image's features are from the mean of its class's private ones ``centroids`` ``(K, d)``: L2.

    The centroids are fixed, so that the information is what moving the rebuilt image there needs.
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

    Layers are in the network's own order, by name; a normalisation is a layer of its own. What does not reach the
    loss is 0, as the last linear layer is for `inversion_loss`.

    Args:
        network: Images to logits, in eval mode (batch statistics would mix the samples).
        images: ``(N, C, H, W)`` in [0, 1]; ``labels`` are ``(N,)``.
        labels: Of the images; for rebuilt ones the classes they are of.
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
    r""":math:`F_i = E[(\partial L/\partial\theta_i)^2]` over the images, as `layer_fisher`, for each parameter.

    The mean of each sample's squares, in float64; never the square of the mean.
    """
    if network.training or not len(images):
        state = "training" if network.training else "eval"
        raise ValueError(f"expected a network in eval mode and an image, got {state} mode and {len(images)} images")
    whole = _Seen(network)
    weights = {name: weight.detach() for name, weight in whole.named_parameters()}

    def of_one(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        features, logits = functional_call(whole, weights, (image[None],))
        return loss(features[0], logits[0], label)

    gradients = vmap(grad(of_one), (None, 0, 0), randomness="different")  # a layer that draws, draws for each image
    sums = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in weights.items()}
    for batch, of in zip(images.split(chunk), labels.split(chunk), strict=True):
        for name, each in gradients(weights, batch, of).items():
            sums[name] += each.double().square().sum(0)
    return {name.removeprefix("network."): total / len(images) for name, total in sums.items()}


class _Seen(nn.Module):
    """A network that gives its penultimate features beside its logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return penultimate(self.network, images)
