"""Placing networks on a device and freezing their weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def to_channels_last(module: M, device: torch.device) -> M:
    """Moves ``module`` to ``device``, the weights of its convolutions in channels-last layout; changed in place."""
    module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module


def freeze(module: M, device: torch.device) -> M:
    """``module`` in eval mode, its parameters without gradients, on ``device``; changed in place."""
    return module.requires_grad_(False).eval().to(device)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """``module`` in eval mode for a while; afterwards each of its submodules is in the mode that it was in."""
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for each, training in modes:
            each.training = training
