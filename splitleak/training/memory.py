"""How many rows of a batch fit into memory, where pictures are large."""

from typing import Any

import torch
from torch import Tensor, nn

from splitleak.models.decoder import LARGE

MOST_BYTES = 2**30
"""Of the values that a network's layers give for one batch."""


def affordable_rows(network: nn.Module, row: Tensor, pixels: int, wanted: int) -> int:
    """Rows of a batch through ``network``: ``wanted``, or, for pictures of more than `LARGE` pixels, those in memory.

    A batch's values are counted, not measured: the outputs of all layers, four bytes each, at most `MOST_BYTES`. With
    smaller pictures nothing depends on it, so that batches are those asked for on every machine.

    Args:
        network: Rows to anything, in eval mode on the device of ``row``.
        row: One row of its input ``(1, ...)``.
        pixels: Of a picture, height times width.
        wanted: At least 1.
    """
    if pixels <= LARGE:
        return wanted
    return max(1, min(wanted, MOST_BYTES // max(1, activation_bytes(network, row))))


@torch.no_grad()
def activation_bytes(network: nn.Module, row: Tensor) -> int:
    """Bytes of the outputs of all layers without layers of their own, as float32, for one row ``(1, ...)``."""
    values = 0

    def count(layer: nn.Module, inputs: Any, output: object) -> None:  # noqa: ANN401
        nonlocal values
        values += output.numel() if isinstance(output, Tensor) else 0

    hooks = [layer.register_forward_hook(count) for layer in network.modules() if not list(layer.children())]
    try:
        network(row)
    finally:
        for hook in hooks:
            hook.remove()
    return 4 * values
