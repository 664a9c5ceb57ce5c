"""Counts parameters and multiply-accumulates (MACs) of a network, layer by layer, without running it."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from splitleak.graphs.module import GraphModule
from splitleak.models.export import takes_one
from splitleak.models.split import output_shape

Rule = Literal["macs", "ptflops"]

COUNTING_RULES: dict[Rule, str] = {
    "macs": (
        "MACs are the multiply-accumulates of convolutions, transposed convolutions (per input element) and linear "
        "layers for one input; biases, normalisations, activations and pools are not counted."
    ),
    "ptflops": (
        "ptflops' MACs are these and one for each bias added, two for each element of an affine normalisation (one of "
        "a plain one), and two for each element of a ReLU or of what a pool reduces: ptflops 0.7.5 charges one for the "
        "layer and one for the function that the layer calls."
    ),
}
"""The counting rules by name: "macs" is ours, "ptflops" that of the published tables."""

COUNTING_RULE = COUNTING_RULES["macs"]

_PER_OUTPUT = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_PER_INPUT = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


@dataclass(frozen=True)
class LayerCount:
    """One call of one layer; ``output_shape`` without batch dimension, ``parameters`` without those of children."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    macs: int


@dataclass(frozen=True)
class ModuleCount:
    """The layers in the order of their calls, and the totals of the module."""

    rows: tuple[LayerCount, ...]
    parameters: int
    macs: int

    def document(self) -> dict[str, Any]:
        """The counts as plain values, for JSON."""
        return dataclasses.asdict(self)


def count_macs(
    module: nn.Module,
    input_shape: tuple[int, ...],
    rule: Rule = "macs",
    functional: tuple[type[nn.Module], ...] = (),
) -> ModuleCount:
    """Counts the parameters and MACs of ``module`` for one input, by one of `COUNTING_RULES`.

    A layer is a module without children or with parameters of its own. One that is called twice has two rows, the
    second with no parameters; shared parameters count once in the total.

    Args:
        module: The network; nothing is changed or computed.
        input_shape: Without batch dimension, ``(C, H, W)`` for images.
        rule: Name of the counting rule.
        functional: Module types whose ReLUs were functional calls in a published count; "ptflops" counts them once.
    """
    rows: list[LayerCount] = []
    seen: set[nn.Module] = set()
    names = {layer: name for name, layer in module.named_modules()}
    once = {layer for parent in module.modules() if isinstance(parent, functional) for layer in parent.modules()}

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        own = 0 if layer in seen else sum(parameter.numel() for parameter in layer.parameters(recurse=False))
        seen.add(layer)
        shape = tuple(output.shape[1:])
        macs = _macs(layer, inputs[0], output)
        if rule == "ptflops":
            macs += _elementwise(layer, inputs[0], output, calls=1 if layer in once else 2)
        rows.append(LayerCount(names[layer], type(layer).__name__, shape, own, macs))

    hooks = [
        layer.register_forward_hook(record)
        for layer in names
        if not list(layer.children()) or list(layer.parameters(recurse=False))
    ]
    try:
        output_shape(module, input_shape, rows=1 if takes_one(module) else 2)  # one row after another: a call for each
    finally:
        for hook in hooks:
            hook.remove()
    total = sum(parameter.numel() for parameter in module.parameters())
    return ModuleCount(tuple(rows), total, sum(row.macs for row in rows))


def _macs(layer: nn.Module, inputs: Tensor, output: Tensor) -> int:
    """MACs for one sample: elements of the output (or input, if transposed) times the weights applied to each.

    Those of an imported network are half the floating-point operations that torch counts.
    """
    if isinstance(layer, GraphModule):
        from torch.utils.flop_counter import FlopCounterMode  # deferred: a slow import that no other layer needs

        with FlopCounterMode(display=False) as counter:
            layer.forward(inputs)
        return int(counter.get_total_flops()) // (2 * len(inputs))
    if isinstance(layer, _PER_OUTPUT):
        return output[0].numel() * layer.weight[0].numel()
    if isinstance(layer, _PER_INPUT):
        return inputs[0].numel() * layer.weight[0].numel()
    return 0


def _elementwise(layer: nn.Module, inputs: Tensor, output: Tensor, calls: int) -> int:
    """The operations that ptflops counts in addition, for one sample; a pool that keeps its input's shape costs 0."""
    if isinstance(layer, (*_PER_OUTPUT, *_PER_INPUT)):
        return output[0].numel() if layer.bias is not None else 0
    if isinstance(layer, _NORMALISATIONS):
        return inputs[0].numel() * (2 if layer.affine else 1)
    if isinstance(layer, nn.ReLU):
        return output[0].numel() * calls
    if isinstance(layer, _POOLS):
        return inputs[0].numel() * calls if inputs.shape != output.shape else 0
    return 0
