"""Layer lookup in a split model: the architecture's positions, also inside wrappers of defenses, and the last layer."""

import re

from torch import nn

from splitleak.defenses.features.pruning import LayerSlot, flatten_sequential
from splitleak.models.split import SplitModel

_POSITION = re.compile(r"position(\d+)")


def positions(model: SplitModel) -> dict[int, LayerSlot]:
    """The architecture's positions (possible cuts) of both halves, by number from 1, in the order of their calls."""
    slots = {}
    for parent in model.modules():
        for name, _ in parent.named_children():
            if match := _POSITION.fullmatch(name):
                slots[int(match[1])] = LayerSlot(parent, name)
    return dict(sorted(slots.items()))


def last_layer(head: nn.Module) -> LayerSlot:
    """The layer that computes the logits.

    Raises:
        ValueError: ``head`` is not a sequence of layers.
    """
    slots = flatten_sequential(nn.Sequential(head))
    if len(slots) < 2:
        raise ValueError(f"expected a head of several layers, got {type(head).__name__}")
    return slots[-1]


def last_linear(head: nn.Module, defense_name: str) -> tuple[LayerSlot, nn.Linear]:
    """The linear layer that computes the logits, for a defense to replace.

    Args:
        head: The cloud's half of the model.
        defense_name: Named in the error message.

    Raises:
        ValueError: The last layer is not linear, for example because another defense has replaced it.
    """
    slot = last_layer(head)
    layer = slot.layer
    if not isinstance(layer, nn.Linear):
        raise ValueError(f"{defense_name}: expected a head that ends in a linear layer, got {type(layer).__name__}")
    return slot, layer


def reduces_resolution(position: nn.Module) -> bool:
    """Whether a position reduces height and width: by pooling, a strided convolution or too little padding."""
    return any(getattr(layer, "stride", 1) not in (1, (1, 1)) or _narrows(layer) for layer in position.modules())


def _narrows(layer: nn.Module) -> bool:
    """Whether it is a convolution whose padding is too small to keep height and width at stride 1."""
    if not isinstance(layer, nn.Conv2d) or isinstance(layer.padding, str):
        return False
    return any(kernel > 2 * border + 1 for kernel, border in zip(layer.kernel_size, layer.padding, strict=True))
