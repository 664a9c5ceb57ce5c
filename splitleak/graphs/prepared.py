"""One input and one output for any network: images ``(N, C, H, W)`` in [0, 1] to outputs ``(N, K)``, as one graph."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from pydantic import Field, model_validator

from splitleak.config import Config
from splitleak.graphs.reading import every_node, inputs_of, needed_for, opset, reads

IMAGES, OUTPUT = "images", "logits"
OURS = "splitleak:"
"""Begins the names of the nodes written here: what comes before the first of the network's own, and after the last."""

_SPLIT_BY_INPUT = 13  # the version since which a split's sizes are an input
_QUANTIZES = 10  # the version since which there is an operation that rounds, which gradients pass straight through
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_WHOLE: dict[int, tuple[int, int]] = {
    TensorProto.UINT8: (0, 2**8 - 1),
    TensorProto.INT8: (-(2**7), 2**7 - 1),
    TensorProto.UINT16: (0, 2**16 - 1),
    TensorProto.INT16: (-(2**15), 2**15 - 1),
    TensorProto.UINT32: (0, 2**32 - 1),
    TensorProto.INT32: (-(2**31), 2**31 - 1),
    TensorProto.UINT64: (0, 2**64 - 1),
    TensorProto.INT64: (-(2**63), 2**63 - 1),
}
"""By type of whole numbers, the least and the largest."""
_LEAST_LEVELS = 16  # between black and white, of whole numbers: fewer are no picture any more
_HANDS_ON = frozenset({"Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
"""Operations that give the values of their first input as they are."""


class Preprocessing(Config):
    """What a network does to an image in [0, 1] before its first layer: ``(image * range - mean) / deviation``.

    Mean and deviation are of the channels in the order in which the network takes them.

    An input of whole numbers is given this rounded, with a range of 255: one of 1 would leave black and white alone.
    """

    mean: tuple[float, ...] = Field(default=(0.0,), description="per channel, in units of the range; one for all")
    deviation: tuple[float, ...] = Field(default=(1.0,), description="per channel, in units of the range; one for all")
    range: float = Field(default=1.0, description="value of white before mean and deviation: 1 or 255")
    order: Literal["rgb", "bgr"] = Field(default="rgb", description="of the channels, as the network takes them")
    layout: Literal["chw", "hwc"] = Field(default="chw", description="of an image, as the network takes it")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not all(value > 0 for value in self.deviation):
            raise ValueError(f"expected deviations above 0, got {self.deviation}")
        if self.range not in (1, 255):
            raise ValueError(f"expected a range of 1 or 255, got {self.range:g}; a deviation gives any other scale")
        if len(self.mean) > 1 and len(self.deviation) > 1 and len(self.mean) != len(self.deviation):
            raise ValueError(f"expected as many means as deviations, got {self.mean} and {self.deviation}")
        return self

    def factors(self, channels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """``(scale, shift)``, each ``(C, 1, 1)``: the network is given ``image * scale + shift``.

        Raises:
            ValueError: There are neither one nor ``channels`` means or deviations.
        """
        for name, values in (("means", self.mean), ("deviations", self.deviation)):
            if len(values) not in (1, channels):
                raise ValueError(f"expected one or {channels} {name}, as there are channels, got {len(values)}")
        mean, deviation = (np.resize(np.array(values, np.float32), channels) for values in (self.mean, self.deviation))
        scale = (np.float32(self.range) / deviation).reshape(-1, 1, 1)
        return scale, (-mean / deviation).reshape(-1, 1, 1)

    def whole_factors(self, channels: int, kind: int, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """`factors` of the input ``name`` of whole numbers: of a range of 255, unless the deviation gives the levels.

        Raises:
            ValueError: The type does not hold them, there are hardly any levels, or see `factors`.
        """
        scale, shift = self.factors(channels)
        if float(scale.min()) < _LEAST_LEVELS - 1:
            scale, shift = self.model_copy(update={"range": 255.0}).factors(channels)
        lowest, highest = (int(np.rint(each)) for each in (shift.min(), (shift + scale).max()))
        least, largest = _WHOLE[kind]
        if lowest < least or highest > largest or float(scale.min()) < _LEAST_LEVELS - 1:
            got = f"{lowest} to {highest}, in {float(scale.min()):g} steps from black to white"
            expected = f"whole numbers in {least} to {largest} and at least {_LEAST_LEVELS} of them for input {name!r}"
            raise ValueError(f"expected {expected}, got {got}; see preprocessing.mean and .deviation")
        return scale, shift


def input_shapes(model: ModelProto, layout: str = "chw") -> dict[str, tuple[int | None, ...]]:
    """The shapes that a file tells of its inputs, without the batch axis; images as ``(C, H, W)``. None is any."""
    shapes = {}
    for each in inputs_of(model.graph):
        dims = each.type.tensor_type.shape.dim
        shape = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in dims)[1:]
        shapes[each.name] = (shape[2], *shape[:2]) if layout == "hwc" and len(shape) == 3 else shape
    return shapes


def prepare(
    model: ModelProto,
    preprocessing: Preprocessing,
    shapes: Mapping[str, tuple[int, ...]],
    fixed: Mapping[str, NDArray[np.float32]],
    output: str | None,
    *,
    logits: bool = True,
) -> ModelProto:
    """The network as one of images in [0, 1], with its preprocessing as its first nodes.

    Several inputs that are images are channels of one: the first input's first. Others have a fixed value. What only
    other outputs are computed from is left out: it is no part of the network that gives the answer. Probabilities, as
    the answer of a softmax, become their logarithms, which are logits: whoever takes the softmax of an answer, as
    services, trainings and attacks do, then has the probabilities that the network gives.

    Args:
        model: As `splitleak.graphs.reading.read_graph` gives it; it is changed.
        preprocessing: Of each input that is an image.
        shapes: ``(C, H, W)`` of each of these, by input. All have one height and width.
        fixed: What the other inputs are given with every image, without batch axis.
        output: Name of the output that is the answer; None: the only one.
        logits: Whether the answer is read as logits. A vector that is compared with others is left as it is.

    Raises:
        ValueError: Inputs without shape or value, or outputs, are left; or they do not fit the network.
    """
    graph = model.graph
    model.ir_version = max(model.ir_version, 8)  # since 4, weights are no inputs
    inputs = {each.name: each for each in inputs_of(graph)}
    if unknown := {*shapes, *fixed} - {*inputs}:
        raise ValueError(f"expected inputs among {', '.join(inputs)}, got {sorted(unknown)[0]!r}")
    if left := {*inputs} - {*shapes, *fixed}:
        given = "a shape (an image) or a fixed value for every input"
        raise ValueError(f"expected {given}, got none for {', '.join(sorted(left))}")
    if not shapes:
        raise ValueError(f"expected an input that is an image, got a fixed value for {', '.join(fixed)}, and no other")
    if len({shape[1:] for shape in shapes.values()}) > 1:
        raise ValueError(f"expected images of one height and width, got {dict(shapes)}")
    taken = {IMAGES, OUTPUT} & {name for node in every_node(graph) for name in (*node.input, *node.output)}
    rename = {name: f"{name}.of-network" for name in taken}
    answer = _answer(graph, output)
    if logits:
        _take_logarithms(graph, answer.name)
    _rename(graph, rename)
    before: list[NodeProto] = []
    sizes = [shapes[name][0] for name in inputs if name in shapes]
    parts = [f"{IMAGES}.{index}" for index in range(len(sizes))]
    if len(sizes) == 1:
        parts = [IMAGES]
    elif opset(model) < _SPLIT_BY_INPUT:
        before.append(helper.make_node("Split", [IMAGES], parts, axis=1, split=sizes))
    else:
        before.append(
            helper.make_node("Split", [IMAGES, _constant(graph, "split.sizes", np.array(sizes))], parts, axis=1)
        )
    for part, name in zip(parts, (name for name in inputs if name in shapes), strict=True):
        before += _image(model, preprocessing, shapes[name], part, inputs[name], rename.get(name, name))
    for name, value in fixed.items():
        before += _fixed(graph, inputs[name], rename.get(name, name), value)
    after = _flattened(answer)
    for node in (*before, *after):
        node.name = f"{OURS}{node.output[0]}"
    every = [*before, *graph.node, *after]
    kept = needed_for(OUTPUT, every)
    _forget(graph, every, kept)
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in kept]
    channels, (height, width) = sum(sizes), next(iter(shapes.values()))[1:]
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.input.append(helper.make_tensor_value_info(IMAGES, TensorProto.FLOAT, ["rows", channels, height, width]))
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["rows", None]))
    return model


def _forget(graph: GraphProto, nodes: Sequence[NodeProto], kept: Sequence[NodeProto]) -> None:
    """Lets go the weights that are read by some of ``nodes``, and by none that are ``kept``."""
    gone = {name for node in nodes for name in reads(node)} - {name for node in kept for name in reads(node)}
    for place in reversed(range(len(graph.initializer))):
        if graph.initializer[place].name in gone:
            del graph.initializer[place]


def _answer(graph: GraphProto, output: str | None) -> onnx.ValueInfoProto:
    names = [each.name for each in graph.output]
    if output is None and len(names) > 1:
        raise ValueError(f"expected the name of the output that is the answer, got several: {', '.join(names)}")
    if output is not None and output not in names:
        raise ValueError(f"expected an output among {', '.join(names)}, got {output!r}")
    return next(each for each in graph.output if output in (None, each.name))


def _take_logarithms(graph: GraphProto, answer: str) -> None:
    """Makes the softmax that an answer ends in, if it does, a logarithmic one.

    Whatever else reads it leads to another output, and is nothing to the answer.
    """
    node = last_operation(graph, answer)
    if node is not None and node.op_type == "Softmax" and node.domain in ("", "ai.onnx"):
        node.op_type = "LogSoftmax"


def last_operation(graph: GraphProto, answer: str) -> NodeProto | None:
    """What gives the values of an answer, which may be put in another shape or type after it; None: nothing does."""
    made = {name: node for node in graph.node for name in node.output}
    node = made.get(answer)
    while node is not None and node.op_type in _HANDS_ON:
        node = made.get(node.input[0])
    return node


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    if not names:
        return
    for node in every_node(graph):
        for place in (node.input, node.output):
            place[:] = [names.get(name, name) for name in place]
    for each in (*graph.input, *graph.output):
        each.name = names.get(each.name, each.name)
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)


def _image(
    model: ModelProto,
    preprocessing: Preprocessing,
    shape: tuple[int, ...],
    part: str,
    given: onnx.ValueInfoProto,
    name: str,
) -> list[NodeProto]:
    """The nodes from images ``part`` to the network's own input ``name``."""
    graph = model.graph
    channels, kind = shape[0], given.type.tensor_type.elem_type
    if kind not in (*_FLOATS, *_WHOLE):
        raise ValueError(f"expected input {given.name!r} to take floats or whole numbers, got {_described(given)}")
    if kind in _WHOLE:
        scale, shift = preprocessing.whole_factors(channels, kind, given.name)
    else:
        scale, shift = preprocessing.factors(channels)
    steps: list[tuple[str, Sequence[str], dict[str, Any]]] = []
    if preprocessing.order == "bgr":
        if channels != 3:
            raise ValueError(f"expected 3 channels to put in the order BGR, got {channels}")
        steps.append(("Gather", [_constant(graph, f"{part}.bgr", np.array([2, 1, 0]))], {"axis": 1}))
    if (scale != 1).any():
        steps.append(("Mul", [_constant(graph, f"{part}.scale", scale[None])], {}))
    if (shift != 0).any():
        steps.append(("Add", [_constant(graph, f"{part}.shift", shift[None])], {}))
    if preprocessing.layout == "hwc":
        steps.append(("Transpose", [], {"perm": [0, 2, 3, 1]}))
    if len(given.type.tensor_type.shape.dim) not in (0, len(shape) + 1):
        raise ValueError(f"expected input {given.name!r} to take images (N, C, H, W), got {_described(given)}")
    if kind in (TensorProto.UINT8, TensorProto.INT8) and opset(model) >= _QUANTIZES:
        zero = _constant(graph, f"{part}.zero", np.array(0, helper.tensor_dtype_to_np_dtype(kind)))
        steps.append(("QuantizeLinear", [_constant(graph, f"{part}.one", np.array(1, np.float32)), zero], {}))
    elif kind in _WHOLE:  # a cast alone would cut the fraction off
        steps.append(("Add", [_constant(graph, f"{part}.half", np.array(0.5, np.float32))], {}))
        steps += [("Floor", [], {}), ("Cast", [], {"to": kind})]
    elif kind != TensorProto.FLOAT or not steps:
        steps.append(("Cast", [], {"to": kind}))
    nodes, last = [], part
    for index, (operation, others, attributes) in enumerate(steps):
        made = name if index == len(steps) - 1 else f"{part}.step{index}"
        nodes.append(helper.make_node(operation, [last, *others], [made], **attributes))
        last = made
    return nodes


def _fixed(graph: GraphProto, given: onnx.ValueInfoProto, name: str, value: NDArray[np.float32]) -> list[NodeProto]:
    """The nodes that repeat a value for each image of a batch."""
    kind = given.type.tensor_type.elem_type
    if kind in _WHOLE and (value != np.rint(value)).any():
        raise ValueError(
            f"expected whole numbers as fixed.{given.name}, as the network takes them, got {value.tolist()}"
        )
    row = _constant(graph, f"{name}.row", value[None].astype(helper.tensor_dtype_to_np_dtype(kind)))
    ones = _constant(graph, f"{name}.ones", np.ones(value.ndim, np.int64))
    start = _constant(graph, f"{name}.start", np.array([0]))
    return [
        helper.make_node("Shape", [IMAGES], [f"{name}.shape"]),
        helper.make_node("Gather", [f"{name}.shape", start], [f"{name}.rows"], axis=0),
        helper.make_node("Concat", [f"{name}.rows", ones], [f"{name}.repeats"], axis=0),
        helper.make_node("Tile", [row, f"{name}.repeats"], [name]),
    ]


def _flattened(answer: onnx.ValueInfoProto) -> list[NodeProto]:
    kind = answer.type.tensor_type.elem_type
    if kind in (TensorProto.STRING, TensorProto.UNDEFINED):
        raise ValueError(f"expected numbers as the output, got {_described(answer)}")
    flat = helper.make_node("Flatten", [answer.name], [f"{OUTPUT}.flat"], axis=1)
    return [flat, helper.make_node("Cast", [f"{OUTPUT}.flat"], [OUTPUT], to=TensorProto.FLOAT)]


def _constant(graph: GraphProto, name: str, value: NDArray[Any]) -> str:
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    return name


def _described(given: onnx.ValueInfoProto) -> str:
    dims = [dim.dim_value or dim.dim_param or "?" for dim in given.type.tensor_type.shape.dim]
    return f"{TensorProto.DataType.Name(given.type.tensor_type.elem_type).lower()} {dims}"
