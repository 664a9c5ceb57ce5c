"""What a network costs: parameters and multiply-accumulates, layer by layer, without running it."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from splitleak.models.split import output_shape

COUNTING_RULE = (
    "MACs are the multiply-accumulates of convolutions, transposed convolutions (per input element) and linear "
    "layers for one input; biases, normalisations, activations and pools are not counted."
)

_PER_OUTPUT = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_PER_INPUT = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class LayerCount:
    """One call of one layer; ``output_shape`` is without the batch, ``parameters`` are the layer's own."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    macs: int


@dataclass(frozen=True)
class ModuleCount:
    """The layers in the order of their calls, and totals of the whole module."""

    rows: tuple[LayerCount, ...]
    parameters: int
    macs: int

    def document(self) -> dict[str, Any]:
        """The counts as plain values, for JSON."""
        return dataclasses.asdict(self)


def count(module: nn.Module, input_shape: tuple[int, ...]) -> ModuleCount:
    """Counts ``module`` for one input of ``input_shape``, given without the batch, by `COUNTING_RULE`.

    A layer is a module without children or with parameters of its own. One that is called twice has two rows, the
    second with no parameters; shared parameters count once in the total. Published counts often differ: "ptflops"
    adds biases, normalisations and activations, and charged transposed convolutions per output element.
    """
    rows: list[LayerCount] = []
    seen: set[nn.Module] = set()
    names = {layer: name for name, layer in module.named_modules()}

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        own = 0 if layer in seen else sum(parameter.numel() for parameter in layer.parameters(recurse=False))
        seen.add(layer)
        shape = tuple(output.shape[1:])
        rows.append(LayerCount(names[layer], type(layer).__name__, shape, own, _macs(layer, inputs[0], output)))

    hooks = [
        layer.register_forward_hook(record)
        for layer in names
        if not list(layer.children()) or list(layer.parameters(recurse=False))
    ]
    try:
        output_shape(module, input_shape)
    finally:
        for hook in hooks:
            hook.remove()
    total = sum(parameter.numel() for parameter in module.parameters())
    return ModuleCount(tuple(rows), total, sum(row.macs for row in rows))


def _macs(layer: nn.Module, inputs: Tensor, output: Tensor) -> int:
    """Elements of one sample, times the weights that each of them meets."""
    if isinstance(layer, _PER_OUTPUT):
        return output[0].numel() * layer.weight[0].numel()
    if isinstance(layer, _PER_INPUT):
        return inputs[0].numel() * layer.weight[0].numel()
    return 0
