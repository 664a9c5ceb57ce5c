"""Where a model's positions are, whatever defenses have wrapped around them, and what comes last in it."""

import re

from torch import nn

from splitleak.defenses.features.pruning import Place, chain
from splitleak.models.split import SplitModel

_POSITION = re.compile(r"position(\d+)")


def positions(model: SplitModel) -> dict[int, Place]:
    """The architecture's positions of both halves, by number from 1, in the order of their calls."""
    found = {}
    for parent in model.modules():
        for name, _ in parent.named_children():
            if match := _POSITION.fullmatch(name):
                found[int(match[1])] = Place(parent, name)
    return dict(sorted(found.items()))


def last_layer(head: nn.Module) -> Place:
    """What gives the logits.

    Raises:
        ValueError: ``head`` is no sequence of layers.
    """
    places = chain(nn.Sequential(head))
    if len(places) < 2:
        raise ValueError(f"expected a head of several layers, got {type(head).__name__}")
    return places[-1]


def last_linear(head: nn.Module, who: str) -> tuple[Place, nn.Linear]:
    """The linear layer that gives the logits, for the defense ``who`` to replace.

    Raises:
        ValueError: Something else gives them: another defense has replaced it, for one.
    """
    place = last_layer(head)
    layer = place.layer
    if not isinstance(layer, nn.Linear):
        raise ValueError(f"{who}: expected a head that ends in a linear layer, got {type(layer).__name__}")
    return place, layer


def shrinks(position: nn.Module) -> bool:
    """Whether a position makes images smaller: it pools, or convolves in strides or without a border wide enough."""
    return any(getattr(layer, "stride", 1) not in (1, (1, 1)) or _narrows(layer) for layer in position.modules())


def _narrows(layer: nn.Module) -> bool:
    """Whether it convolves so that fewer pixels come out than went in, at stride 1 too."""
    if not isinstance(layer, nn.Conv2d) or isinstance(layer.padding, str):
        return False
    return any(kernel > 2 * border + 1 for kernel, border in zip(layer.kernel_size, layer.padding, strict=True))
