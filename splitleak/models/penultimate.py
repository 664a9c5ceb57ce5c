"""Penultimate features: the input of a classifier's last linear layer, the feature space for comparing images."""

from typing import Any

from torch import Tensor, nn


def penultimate(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features ``(N, d)`` and logits ``(N, K)`` of images ``(N, C, H, W)``, by one differentiable forward pass.

    The features are the input of the linear layer that runs last, whatever its name: with a low-rank head, therefore,
    its inner values. The network's mode and gradients are left to the caller.

    Raises:
        ValueError: No linear layer runs.
    """
    entered: list[Tensor] = []

    def note(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        entered[:] = [inputs[0]]

    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    hooks = [module.register_forward_pre_hook(note) for module in linear]
    try:
        logits = network(images)
    finally:
        for hook in hooks:
            hook.remove()
    if not entered:
        raise ValueError(f"expected a network with a linear layer at its end, got {type(network).__name__} with none")
    return entered[0].flatten(1), logits
