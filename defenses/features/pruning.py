"""Structured pruning: channels of an encoder that matter least are gated off in training, and cut out after it."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call

_ZERO_STAYS_ZERO = (nn.ReLU, nn.LeakyReLU, nn.MaxPool2d, nn.AvgPool2d, nn.Identity)


@dataclass(frozen=True)
class Place:
    """Where a layer is, so that it can be replaced."""

    parent: nn.Module
    name: str

    @property
    def layer(self) -> nn.Module:
        """The layer that is there now."""
        found: nn.Module = getattr(self.parent, self.name)
        return found

    def put(self, layer: nn.Module) -> None:
        """Replaces it."""
        setattr(self.parent, self.name, layer)


def chain(module: nn.Sequential) -> list[Place]:
    """The layers of nested sequences in the order of their calls; a layer of any other kind is one link."""
    places: list[Place] = []
    for name, child in module.named_children():
        places += chain(child) if isinstance(child, nn.Sequential) else [Place(module, name)]
    return places


class GatedNorm(nn.Module):
    r"""A batch normalisation with a gate g on each channel, which weighs the channel and may close it.

    .. math:: y_c = g_c\,(\gamma_c \hat x_c + \beta_c), \qquad g_c \in \{0, 1\}

    In training it adds up, a channel, the squared derivative of the loss by the gate: the first-order Taylor importance
    of Molchanov et al., "Importance estimation for neural network pruning", CVPR 2019 (arXiv:1906.10771). The gate
    acts on the scale and the shift, not on the features, so it costs nothing.
    """

    mask: Tensor  # (channels,) the gates
    importance: Tensor  # (channels,)

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm
        self.register_buffer("mask", torch.ones_like(norm.weight.detach()))
        self.register_buffer("importance", torch.zeros_like(norm.weight.detach()))

    def forward(self, features: Tensor) -> Tensor:
        gate = self.mask
        if self.training and torch.is_grad_enabled():
            gate = gate.detach().requires_grad_()
            gate.register_hook(self._weigh)
        gated = {"weight": self.norm.weight * gate, "bias": self.norm.bias * gate}
        result: Tensor = functional_call(self.norm, gated, (features,))
        return result

    def close(self, count: int) -> None:
        """Closes the ``count`` gates that matter least; those that are closed already count."""
        self.mask[self.importance.masked_fill(self.mask == 0, -1).topk(count, largest=False).indices] = 0

    def _weigh(self, derivative: Tensor) -> None:
        self.importance += derivative.square()


@dataclass(frozen=True)
class Prunable:
    """A convolution whose normalised channels go, through layers that leave a zero a zero, to one convolution only."""

    convolution: nn.Conv2d
    normalisation: Place
    following: nn.Conv2d

    @property
    def channels(self) -> int:
        return self.convolution.out_channels

    def gate(self) -> GatedNorm:
        """Puts a gate behind the normalisation."""
        norm = self.normalisation.layer
        assert isinstance(norm, nn.BatchNorm2d)
        gated = GatedNorm(norm)
        self.normalisation.put(gated)
        return gated

    def cut(self, kept: Tensor | slice) -> None:
        """Leaves the channels ``kept`` alone, in all three layers, and takes the gate away."""
        norm = self.normalisation.layer
        assert isinstance(norm, GatedNorm)
        for layer in (self.convolution, norm.norm):
            for name, tensor in (*layer.named_parameters(), *layer.named_buffers()):
                if tensor.ndim:
                    _replace(layer, name, tensor.detach()[kept])
        _replace(self.following, "weight", self.following.weight.detach()[:, kept])
        left = len(self.convolution.weight)
        self.convolution.out_channels = norm.norm.num_features = self.following.in_channels = left
        self.normalisation.put(norm.norm)


def prunable(encoder: nn.Module) -> list[Prunable]:
    """Every such convolution of ``encoder``, the inner ones of residual blocks among them, in the order of calls.

    What goes to several layers, or over the wire, is not among them.
    """
    found = []
    for places in _chains(nn.Sequential(encoder)):
        layers = [place.layer for place in places]
        for index, (convolution, norm) in enumerate(pairwise(layers)):
            after = next((layer for layer in layers[index + 2 :] if not isinstance(layer, _ZERO_STAYS_ZERO)), None)
            if _plain(convolution) and isinstance(norm, nn.BatchNorm2d) and _plain(after):
                assert isinstance(convolution, nn.Conv2d)
                assert isinstance(after, nn.Conv2d)
                found.append(Prunable(convolution, places[index + 1], after))
    return found


def _plain(layer: nn.Module | None) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups == 1


def _chains(module: nn.Module) -> Iterator[list[Place]]:
    """Every sequence of layers that feed each other: the module's own, and those inside layers of other kinds."""
    inner = list(module.children())
    if isinstance(module, nn.Sequential):
        own = chain(module)
        yield own
        inner = [place.layer for place in own]
    for layer in inner:
        yield from _chains(layer)


def _replace(layer: nn.Module, name: str, value: Tensor) -> None:
    setattr(layer, name, nn.Parameter(value) if name in layer._parameters else value)
