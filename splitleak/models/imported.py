"""ONNX import of a third-party generator as differentiable torch operations."""

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

    The graph has one input, the latents, and one output, images; its weights are frozen. ``config`` holds the shapes
    of latents and images; its width and kernel are unused. It has no ``blocks`` for attacks on intermediate features.
    """

    def __init__(self, path: Path, config: GeneratorConfig, *, signed: bool = False) -> None:
        """Reads an ONNX file.

        Args:
            path: The file.
            config: Shapes of the latents and images.
            signed: Its images are in [-1, 1], and are rescaled to [0, 1].

        Raises:
            ValueError: It is not an ONNX file, or has an unsupported operation; the message names it.
        """
        super().__init__()
        self.config, self.signed = config, signed
        try:
            graph = onnx.load(path).graph
        except (DecodeError, ValueError, OSError) as error:
            raise ValueError(f"{path}: expected an ONNX file, but {error}") from None
        self.weights = nn.ParameterDict()
        self._given: dict[str, str] = {}  # name of a graph tensor to its key in `weights`
        for index, tensor in enumerate(graph.initializer):
            value = torch.from_numpy(numpy_helper.to_array(tensor).copy())
            self.weights[str(index)] = nn.Parameter(value, requires_grad=False)
            self._given[tensor.name] = str(index)
        inputs = [node.name for node in graph.input if node.name not in self._given]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise ValueError(f"{path}: expected one input and one output, got {len(inputs)} and {len(graph.output)}")
        (self._input,), self._output = inputs, graph.output[0].name
        self._nodes = [(node.op_type, list(node.input), node.output[0], _attributes(node)) for node in graph.node]
        unsupported = sorted({kind for kind, *_ in self._nodes} - _OPERATIONS.keys())
        if unsupported:
            raise ValueError(f"{path}: expected operations of {', '.join(sorted(_OPERATIONS))}, got {unsupported}")
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
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if "value" in attributes and node.op_type == "Constant":
        attributes["value"] = torch.from_numpy(numpy_helper.to_array(attributes["value"]).copy())
    return attributes


def _gemm(inputs: list[Tensor], attributes: _Attributes) -> Tensor:
    left = inputs[0].mT if attributes.get("transA") else inputs[0]
    right = inputs[1].mT if attributes.get("transB") else inputs[1]
    product: Tensor = attributes.get("alpha", 1.0) * (left @ right)
    return product + attributes.get("beta", 1.0) * inputs[2] if len(inputs) > 2 else product


def _padding(attributes: _Attributes) -> list[int]:
    pads = list(attributes.get("pads", [0, 0, 0, 0]))
    if pads[:2] != pads[2:] or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise ValueError(f"expected a convolution padded alike on both sides, got {pads}")
    return pads[:2]


def _convolution(inputs: list[Tensor], attributes: _Attributes) -> Tensor:
    bias = inputs[2] if len(inputs) > 2 else None
    options = {
        "stride": attributes.get("strides", 1),
        "dilation": attributes.get("dilations", 1),
        "groups": attributes.get("group", 1),
    }
    return functional.conv2d(inputs[0], inputs[1], bias, padding=_padding(attributes), **options)


def _transposed(inputs: list[Tensor], attributes: _Attributes) -> Tensor:
    bias = inputs[2] if len(inputs) > 2 else None
    options = {
        "stride": attributes.get("strides", 1),
        "dilation": attributes.get("dilations", 1),
        "groups": attributes.get("group", 1),
    }
    extra = attributes.get("output_padding", 0)
    return functional.conv_transpose2d(
        inputs[0], inputs[1], bias, padding=_padding(attributes), output_padding=extra, **options
    )


def _normalised(inputs: list[Tensor], attributes: _Attributes) -> Tensor:
    values, scale, bias, mean, variance = inputs
    return functional.batch_norm(values, mean, variance, scale, bias, eps=attributes.get("epsilon", 1e-5))


def _reshaped(inputs: list[Tensor], attributes: _Attributes) -> Tensor:
    asked = inputs[1].tolist()
    return inputs[0].reshape([inputs[0].shape[place] if size == 0 else size for place, size in enumerate(asked)])


def _resized(inputs: list[Tensor], attributes: _Attributes) -> Tensor:
    if attributes.get("mode", b"nearest") != b"nearest" or not inputs[-1].is_floating_point():
        raise ValueError(f"expected images enlarged by factors, to the nearest value, got {attributes}")
    factors = inputs[-1].tolist()
    if any(factor != round(factor) for factor in factors):
        raise ValueError(f"expected images enlarged by whole factors, got {factors}")
    return functional.interpolate(inputs[0], scale_factor=factors[2:], mode="nearest")


def _sliced(inputs: list[Tensor], attributes: _Attributes) -> Tensor:
    starts, ends = inputs[1].tolist(), inputs[2].tolist()
    axes = inputs[3].tolist() if len(inputs) > 3 else list(range(len(starts)))
    if len(inputs) > 4 and set(inputs[4].tolist()) != {1}:
        raise ValueError(f"expected slices of steps of 1, got {inputs[4].tolist()}")
    places = [slice(None)] * inputs[0].ndim
    for axis, start, end in zip(axes, starts, ends, strict=True):
        places[axis] = slice(start, end)
    return inputs[0][tuple(places)]


_OPERATIONS: dict[str, _Operation] = {
    "Add": lambda inputs, attributes: inputs[0] + inputs[1],
    "BatchNormalization": _normalised,
    "Clip": lambda inputs, attributes: inputs[0].clamp(*inputs[1:]),
    "Concat": lambda inputs, attributes: torch.cat(inputs, attributes["axis"]),
    "Constant": lambda inputs, attributes: attributes["value"],
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "Div": lambda inputs, attributes: inputs[0] / inputs[1],
    "Flatten": lambda inputs, attributes: inputs[0].flatten(attributes.get("axis", 1)),
    "Gemm": _gemm,
    "Identity": lambda inputs, attributes: inputs[0],
    "LeakyRelu": lambda inputs, attributes: functional.leaky_relu(inputs[0], attributes.get("alpha", 0.01)),
    "MatMul": lambda inputs, attributes: inputs[0] @ inputs[1],
    "Mod": lambda inputs, attributes: inputs[0] % inputs[1],
    "Mul": lambda inputs, attributes: inputs[0] * inputs[1],
    "Relu": lambda inputs, attributes: inputs[0].relu(),
    "Reshape": _reshaped,
    "Resize": _resized,
    "Shape": lambda inputs, attributes: torch.tensor(inputs[0].shape),
    "Sigmoid": lambda inputs, attributes: inputs[0].sigmoid(),
    "Slice": _sliced,
    "Sub": lambda inputs, attributes: inputs[0] - inputs[1],
    "Tanh": lambda inputs, attributes: inputs[0].tanh(),
}
