"""A generator that somebody else made, read from ONNX as torch operations, so that gradients pass through it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from splitleak.models.generator import GeneratorConfig

_Attributes = dict[str, Any]
_Operation = Callable[[list[Tensor], _Attributes], Tensor]


class ImportedGenerator(nn.Module):
    """Latents ``(N, latent)`` to images ``(N, C, size, size)``, by the graph of an ONNX file; no code of it is run.

    It has one input, the latents, and one output, images; its weights stay as they are. ``config`` says what
    it takes and gives; its width and kernel are not the file's. It has no ``blocks`` that an attack could look between.
    """

    def __init__(self, path: Path, config: GeneratorConfig, *, signed: bool = False) -> None:
        """Reads ``path``; ``signed`` says that its images are in [-1, 1], from where they are brought to [0, 1].

        Raises:
            ValueError: It is no ONNX file, or holds something that cannot be rebuilt; the message names it.
        """
        super().__init__()
        self.config, self.signed = config, signed
        try:
            graph = onnx.load(path).graph
        except (DecodeError, ValueError, OSError) as error:
            raise ValueError(f"{path}: expected an ONNX file, but {error}") from None
        self.weights = nn.ParameterDict()
        self._given: dict[str, str] = {}  # a tensor of the graph to its place among the weights
        for index, tensor in enumerate(graph.initializer):
            value = torch.from_numpy(numpy_helper.to_array(tensor).copy())
            self.weights[str(index)] = nn.Parameter(value, requires_grad=False)
            self._given[tensor.name] = str(index)
        inputs = [each.name for each in graph.input if each.name not in self._given]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise ValueError(f"{path}: expected one input and one output, got {len(inputs)} and {len(graph.output)}")
        (self._input,), self._output = inputs, graph.output[0].name
        self._nodes = [(node.op_type, list(node.input), node.output[0], _attributes(node)) for node in graph.node]
        strange = sorted({kind for kind, *_ in self._nodes} - _OPERATIONS.keys())
        if strange:
            raise ValueError(f"{path}: expected operations of {', '.join(sorted(_OPERATIONS))}, got {strange}")
        with torch.no_grad():
            shape = tuple(self(torch.zeros(2, config.latent)).shape)
        if shape != (2, *config.image_shape):
            raise ValueError(f"{path}: expected a generator of images {config.image_shape}, got {shape[1:]}")

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        values: dict[str, Tensor] = {name: self.weights[place] for name, place in self._given.items()}
        values[self._input] = latents
        for kind, inputs, output, attributes in self._nodes:
            values[output] = _OPERATIONS[kind]([values[name] for name in inputs if name], attributes)
        drawn = values[self._output]
        return (drawn + 1) / 2 if self.signed else drawn


def _attributes(node: onnx.NodeProto) -> _Attributes:
    found = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    if "value" in found and node.op_type == "Constant":
        found["value"] = torch.from_numpy(numpy_helper.to_array(found["value"]).copy())
    return found


def _gemm(given: list[Tensor], about: _Attributes) -> Tensor:
    left = given[0].mT if about.get("transA") else given[0]
    right = given[1].mT if about.get("transB") else given[1]
    product: Tensor = about.get("alpha", 1.0) * (left @ right)
    return product + about.get("beta", 1.0) * given[2] if len(given) > 2 else product


def _padding(about: _Attributes) -> list[int]:
    pads = list(about.get("pads", [0, 0, 0, 0]))
    if pads[:2] != pads[2:] or about.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise ValueError(f"expected a convolution padded alike on both sides, got {pads}")
    return pads[:2]


def _convolution(given: list[Tensor], about: _Attributes) -> Tensor:
    bias = given[2] if len(given) > 2 else None
    options = {
        "stride": about.get("strides", 1),
        "dilation": about.get("dilations", 1),
        "groups": about.get("group", 1),
    }
    return functional.conv2d(given[0], given[1], bias, padding=_padding(about), **options)


def _transposed(given: list[Tensor], about: _Attributes) -> Tensor:
    bias = given[2] if len(given) > 2 else None
    options = {
        "stride": about.get("strides", 1),
        "dilation": about.get("dilations", 1),
        "groups": about.get("group", 1),
    }
    extra = about.get("output_padding", 0)
    return functional.conv_transpose2d(
        given[0], given[1], bias, padding=_padding(about), output_padding=extra, **options
    )


def _normalised(given: list[Tensor], about: _Attributes) -> Tensor:
    values, scale, bias, mean, variance = given
    return functional.batch_norm(values, mean, variance, scale, bias, eps=about.get("epsilon", 1e-5))


def _reshaped(given: list[Tensor], about: _Attributes) -> Tensor:
    asked = given[1].tolist()
    return given[0].reshape([given[0].shape[place] if size == 0 else size for place, size in enumerate(asked)])


def _resized(given: list[Tensor], about: _Attributes) -> Tensor:
    if about.get("mode", b"nearest") != b"nearest" or not given[-1].is_floating_point():
        raise ValueError(f"expected images enlarged by factors, to the nearest value, got {about}")
    factors = given[-1].tolist()
    if any(factor != round(factor) for factor in factors):
        raise ValueError(f"expected images enlarged by whole factors, got {factors}")
    return functional.interpolate(given[0], scale_factor=factors[2:], mode="nearest")


def _sliced(given: list[Tensor], about: _Attributes) -> Tensor:
    starts, ends = given[1].tolist(), given[2].tolist()
    axes = given[3].tolist() if len(given) > 3 else list(range(len(starts)))
    if len(given) > 4 and set(given[4].tolist()) != {1}:
        raise ValueError(f"expected slices of steps of 1, got {given[4].tolist()}")
    places = [slice(None)] * given[0].ndim
    for axis, start, end in zip(axes, starts, ends, strict=True):
        places[axis] = slice(start, end)
    return given[0][tuple(places)]


_OPERATIONS: dict[str, _Operation] = {
    "Add": lambda given, about: given[0] + given[1],
    "BatchNormalization": _normalised,
    "Clip": lambda given, about: given[0].clamp(*given[1:]),
    "Concat": lambda given, about: torch.cat(given, about["axis"]),
    "Constant": lambda given, about: about["value"],
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "Div": lambda given, about: given[0] / given[1],
    "Flatten": lambda given, about: given[0].flatten(about.get("axis", 1)),
    "Gemm": _gemm,
    "Identity": lambda given, about: given[0],
    "LeakyRelu": lambda given, about: functional.leaky_relu(given[0], about.get("alpha", 0.01)),
    "MatMul": lambda given, about: given[0] @ given[1],
    "Mod": lambda given, about: given[0] % given[1],
    "Mul": lambda given, about: given[0] * given[1],
    "Relu": lambda given, about: given[0].relu(),
    "Reshape": _reshaped,
    "Resize": _resized,
    "Shape": lambda given, about: torch.tensor(given[0].shape),
    "Sigmoid": lambda given, about: given[0].sigmoid(),
    "Slice": _sliced,
    "Sub": lambda given, about: given[0] - given[1],
    "Tanh": lambda given, about: given[0].tanh(),
}
