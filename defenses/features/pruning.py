"""Structured channel pruning by Taylor importance: channels are masked in training and removed after it."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call

_ZERO_PRESERVING = (nn.ReLU, nn.LeakyReLU, nn.MaxPool2d, nn.AvgPool2d, nn.Identity)


@dataclass(frozen=True)
class LayerSlot:
    """A reference to a layer by parent and attribute name, so that it can be replaced."""

    parent: nn.Module
    name: str

    @property
    def layer(self) -> nn.Module:
        """The current layer."""
        layer: nn.Module = getattr(self.parent, self.name)
        return layer

    def replace(self, layer: nn.Module) -> None:
        """Puts ``layer`` in its place."""
        setattr(self.parent, self.name, layer)


def flatten_sequential(module: nn.Sequential) -> list[LayerSlot]:
    """The layers of nested ``nn.Sequential`` in the order of their calls; any other module is one layer."""
    slots: list[LayerSlot] = []
    for name, child in module.named_children():
        slots += flatten_sequential(child) if isinstance(child, nn.Sequential) else [LayerSlot(module, name)]
    return slots


class GatedBatchNorm(nn.Module):
    r"""Batch normalisation with a gate g on each channel, which measures the channel's importance and can mask it.

    .. math:: y_c = g_c\,(\gamma_c \hat x_c + \beta_c), \qquad g_c \in \{0, 1\}

    In training it sums, per channel, the squared derivative of the loss with respect to the gate: the first-order
    Taylor importance of Molchanov et al., "Importance estimation for neural network pruning", CVPR 2019
    (arXiv:1906.10771). The gate multiplies scale and shift, not the features, so its cost is negligible.
    """

    mask: Tensor  # (channels,) the gates, 0 or 1
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
        """Sets the ``count`` least important gates to 0; gates that are 0 already are among them."""
        self.mask[self.importance.masked_fill(self.mask == 0, -1).topk(count, largest=False).indices] = 0

    def _weigh(self, derivative: Tensor) -> None:
        self.importance += derivative.square()


@dataclass(frozen=True)
class PrunableConv:
    """A convolution whose batch-normalised output reaches, through zero-preserving layers, exactly one convolution."""

    convolution: nn.Conv2d
    normalisation: LayerSlot
    following: nn.Conv2d

    @property
    def channels(self) -> int:
        return self.convolution.out_channels

    def gate(self) -> GatedBatchNorm:
        """Replaces the normalisation by a gated one, and returns it."""
        norm = self.normalisation.layer
        assert isinstance(norm, nn.BatchNorm2d)
        gated = GatedBatchNorm(norm)
        self.normalisation.replace(gated)
        return gated

    def cut(self, kept: Tensor | slice) -> None:
        """Removes all channels but ``kept`` from the three layers, and the gate."""
        norm = self.normalisation.layer
        assert isinstance(norm, GatedBatchNorm)
        for layer in (self.convolution, norm.norm):
            for name, tensor in (*layer.named_parameters(), *layer.named_buffers()):
                if tensor.ndim:
                    _replace(layer, name, tensor.detach()[kept])
        _replace(self.following, "weight", self.following.weight.detach()[:, kept])
        left = len(self.convolution.weight)
        self.convolution.out_channels = norm.norm.num_features = self.following.in_channels = left
        self.normalisation.replace(norm.norm)


def prunable_convolutions(encoder: nn.Module) -> list[PrunableConv]:
    """Every prunable convolution of ``encoder``, also inside residual blocks, in the order of their calls.

    Convolutions whose output goes to several layers, or over the wire, are not prunable.
    """
    convolutions = []
    for slots in _chains(nn.Sequential(encoder)):
        layers = [slot.layer for slot in slots]
        for index, (convolution, norm) in enumerate(pairwise(layers)):
            following = next((layer for layer in layers[index + 2 :] if not isinstance(layer, _ZERO_PRESERVING)), None)
            if _plain(convolution) and isinstance(norm, nn.BatchNorm2d) and _plain(following):
                assert isinstance(convolution, nn.Conv2d)
                assert isinstance(following, nn.Conv2d)
                convolutions.append(PrunableConv(convolution, slots[index + 1], following))
    return convolutions


def _plain(layer: nn.Module | None) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups == 1


def _chains(module: nn.Module) -> Iterator[list[LayerSlot]]:
    """Every sequence of consecutive layers: the module's own, and those inside layers of other kinds."""
    inner = list(module.children())
    if isinstance(module, nn.Sequential):
        slots = flatten_sequential(module)
        yield slots
        inner = [slot.layer for slot in slots]
    for layer in inner:
        yield from _chains(layer)


def _replace(layer: nn.Module, name: str, value: Tensor) -> None:
    setattr(layer, name, nn.Parameter(value) if name in layer._parameters else value)
