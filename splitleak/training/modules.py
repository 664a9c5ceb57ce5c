"""Placing networks on a device and freezing their weights."""

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
