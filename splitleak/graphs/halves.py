"""Both halves of a network that is cut: each an ONNX graph of its own, with the nodes and weights that it needs."""

import math
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from splitleak.graphs.network import Array, Cut, Floats, Network, probing, same, value_info
from splitleak.graphs.prepared import IMAGES, OUTPUT
from splitleak.graphs.reading import needed_for, opset, reads
from splitleak.onnx_runtime import session_of

CROSSING = "features"
"""The name of what crosses a cut: the output of the edge's half and the input of the cloud's."""

TOLERANCE = 1e-4
"""Of both halves to the whole, relative to its largest output."""

_HALF = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
_TOLERANCE_OF_HALF = 1e-2  # where a cut ends what is computed at once, values are rounded that were not

_WRITTEN = "half."  # begins the names of tensors that were written here
_SLICE_BY_INPUT = 10  # the version since which a slice's limits are inputs
_SMALL = 4096  # values of a constant that depends on shapes alone


def edge_half(network: Network, cut: Cut) -> ModelProto:
    """Images to `CROSSING` ``(N, *cut.feature_shape)``, float32."""
    half = _Half(network, IMAGES, value_info(IMAGES, network.image_shape))
    for name in cut.tensors:
        half.take(name)
    sent = [half.cast(name, TensorProto.FLOAT) for name in cut.tensors]
    if len(sent) > 1:
        sent = [half.node("Flatten", [name], axis=1) for name in sent]
        sent = [half.node("Concat", sent, axis=1)]
    half.end(sent[0], CROSSING, cut.feature_shape)
    return half.model


def cloud_half(network: Network, cut: Cut) -> ModelProto:
    """`CROSSING` ``(N, *cut.feature_shape)`` to outputs ``(N, K)``, float32."""
    half = _Half(network, CROSSING, value_info(CROSSING, cut.feature_shape))
    if len(cut.tensors) == 1:
        half.give(cut.tensors[0], CROSSING, network.types[cut.tensors[0]])
    elif opset(network.model) < _SLICE_BY_INPUT:
        raise ValueError(f"expected operations of version {_SLICE_BY_INPUT} and above where several tensors cross")
    else:
        start = 0
        for name, shape in zip(cut.tensors, cut.shapes, strict=True):
            end = start + math.prod(shape)
            limits = [half.constant(np.array([place])) for place in (start, end, 1)]
            part = half.node("Slice", [CROSSING, *limits])
            part = half.node("Reshape", [part, half.constant(np.array([-1, *shape]))])
            half.give(name, part, network.types[name])
            start = end
    half.take(OUTPUT)
    half.end(OUTPUT, OUTPUT, (network.outputs,))
    return half.model


def check_halves(network: Network, edge: ModelProto, cloud: ModelProto, rows: Sequence[int] = (1, 3)) -> float:
    """The largest difference between both halves and the whole, relative to the whole's largest output.

    Pictures are noise, half black, and black: what a half took for a constant may be another of another picture.

    Raises:
        RuntimeError: A half cannot be computed, or the difference is above 1e-4, of half precision 1e-2.
    """
    tolerance = _TOLERANCE_OF_HALF if _HALF & {*network.types.values()} else TOLERANCE
    images = np.random.default_rng(1).random((max(rows), *network.image_shape), dtype=np.float32)
    batches = [images[:count] for count in (rows if network.batched else (1,))]
    batches += [*probing(3, network.image_shape)[1:, None]]
    wholes = [np.concatenate([each[OUTPUT] for each in network.forward(batch, [OUTPUT])]) for batch in batches]
    largest = max(float(np.abs(whole[np.isfinite(whole)]).max(initial=0.0)) for whole in wholes)
    worst = 0.0
    for whole, answer in zip(wholes, _answers(cloud, _answers(edge, batches)), strict=True):
        if answer.shape != whole.shape or not np.array_equal(np.isfinite(answer), np.isfinite(whole)):
            got = f"{answer.shape}" if answer.shape != whole.shape else "some that are not"
            raise RuntimeError(f"expected finite outputs {whole.shape} of both halves, got {got}")
        finite = np.isfinite(whole)
        worst = max(worst, float(np.abs(answer[finite] - whole[finite]).max(initial=0.0)) / max(largest, 1e-12))
    if worst > tolerance:
        raise RuntimeError(f"expected both halves to give the whole's answer within {tolerance:g}, got {worst:g}")
    return worst


def _answers(half: ModelProto, batches: Sequence[Floats]) -> list[Floats]:
    """What a half gives for each batch; its session, which holds the weights once more, ends here."""
    session = session_of(half.SerializeToString(), 1)
    return [session.run(None, {half.graph.input[0].name: batch})[0] for batch in batches]


def joined(edge: ModelProto, cloud: ModelProto) -> ModelProto:
    """The network that both halves are of, its tensors under their own names; what was written to cut it is left out.

    Raises:
        ValueError: They are no halves of one network.
    """
    ports = [each.name for half in (edge, cloud) for each in (*half.graph.input, *half.graph.output)]
    if ports != [IMAGES, CROSSING, CROSSING, OUTPUT] or opset(edge) != opset(cloud):
        raise ValueError("expected both halves of one network, as `splitleak import` writes them, got others")
    whole = ModelProto()
    whole.CopyFrom(edge)
    graph = whole.graph
    del graph.output[:]
    graph.output.extend(cloud.graph.output)
    known = {tensor.name for tensor in graph.initializer} | {name for node in graph.node for name in node.output}
    for tensor in cloud.graph.initializer:
        if (name := _of_cloud(tensor.name)) not in known:
            graph.initializer.append(tensor)
            graph.initializer[-1].name = name
    for node in cloud.graph.node:
        outputs = [_of_cloud(name) for name in node.output]
        if not {*outputs} <= known:  # else it gives what the edge's half has: what crosses, or a size
            graph.node.append(node)
            graph.node[-1].output[:] = outputs
            counts = node.op_type == "Shape"  # of the rows, of which there are as many images
            graph.node[-1].input[:] = [
                IMAGES if counts and name == CROSSING else _of_cloud(name) for name in node.input
            ]
    kept = [NodeProto.FromString(node.SerializeToString()) for node in needed_for(OUTPUT, graph.node)]
    del graph.node[:]
    graph.node.extend(kept)
    return whole


def _of_cloud(name: str) -> str:
    """A name of the cloud's half in the whole; the edge's has names of its own for what was written to cut."""
    return f"cloud.{name}" if name.startswith(_WRITTEN) else name


class _Half:
    """One half as it is put together, from what it is to give back to what it is given."""

    def __init__(self, network: Network, given: str, info: onnx.ValueInfoProto) -> None:
        self._network, self._given = network, given
        self._known = {given}
        self._count = 0
        self._own: list[NodeProto] = []  # written here, before the network's
        self._last: list[NodeProto] = []  # written here, after them
        self._wanted: set[int] = set()
        self._constants: dict[str, TensorProto] = {}
        self._rows: str | None = None
        whole = network.model
        self.model = ModelProto(ir_version=whole.ir_version, opset_import=whole.opset_import)
        self.model.producer_name, self.model.producer_version = whole.producer_name, whole.producer_version
        self.model.graph.name = whole.graph.name
        self.model.graph.input.append(info)

    def take(self, name: str) -> None:
        """Adds all that a tensor is computed from."""
        network, stack = self._network, [name]
        while stack:
            wanted = stack.pop()
            if wanted in self._known:
                continue
            self._known.add(wanted)
            if wanted in network.weights:
                self._constants[wanted] = network.weights[wanted]
            elif not self._from_batch(wanted):
                place = network.producers[wanted]
                self._wanted.add(place)
                stack += reads(network.nodes[place])

    def _from_batch(self, name: str) -> bool:
        """Replaces a tensor that depends on shapes alone by a constant, or by a linear function of the batch."""
        by_rows = [values[name] for values in self._network.values.values() if name in values]
        if not by_rows:
            return False
        if all(same(value, by_rows[0]) for value in by_rows):
            if by_rows[0].size > _SMALL:
                return False
            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(by_rows[0]), name)
            return True
        one, two, three = by_rows
        if one.shape != two.shape or one.dtype.kind != "i" or not np.array_equal(three - two, two - one):
            return False
        if self._rows is None:
            shape = self.node("Shape", [self._given], first=True)
            self._rows = self.node("Gather", [shape, self.constant(np.array(0))], first=True, axis=0)
        slope, rest = (two - one).astype(np.int64), (2 * one - two).astype(np.int64)
        product = self.node("Mul", [self._rows, self.constant(slope)], first=True)
        total = self.node("Add", [product, self.constant(rest)], first=True)
        kind = helper.np_dtype_to_tensor_dtype(one.dtype)
        self._own.append(helper.make_node("Cast", [total], [name], to=kind))
        return True

    def give(self, name: str, made: str, kind: int) -> None:
        """Makes a tensor of the network out of what this half was given."""
        self._known.add(name)
        self._own.append(helper.make_node("Cast", [made], [name], to=kind))

    def cast(self, name: str, kind: int) -> str:
        """The tensor in another type, if it has another."""
        return name if self._network.types[name] == kind else self.node("Cast", [name], to=kind)

    def node(self, operation: str, inputs: Sequence[str], *, first: bool = False, **attributes: int) -> str:
        """Writes a node, and returns the name of its output; it comes ``first`` where it needs only what is given."""
        self._count += 1
        made = f"{_WRITTEN}{self._count}"
        written = helper.make_node(operation, inputs, [made])
        written.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        early = first or self._given == CROSSING
        (self._own if early else self._last).append(written)
        return made

    def constant(self, value: Array) -> str:
        """Writes a constant, and returns its name."""
        name = f"{_WRITTEN}constant{len(self._constants)}"
        self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
        return name

    def end(self, made: str, name: str, shape: tuple[int, ...]) -> None:
        """Names the output and completes the model."""
        graph, network = self.model.graph, self._network
        nodes = [network.nodes[place] for place in sorted(self._wanted)]
        graph.node.extend([*self._own, *nodes, *self._last])
        if made != name:
            graph.node.append(helper.make_node("Identity", [made], [name]))
        graph.initializer.extend(self._constants.values())
        graph.output.append(value_info(name, shape))
