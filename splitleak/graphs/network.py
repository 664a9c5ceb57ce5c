"""A prepared network: the places where it can be cut, what lies on either side of each, and both halves."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from splitleak.errors import first_line
from splitleak.graphs.prepared import IMAGES, OURS, OUTPUT
from splitleak.graphs.reading import every_node, reads, subgraphs
from splitleak.onnx_runtime import MEMORY, most_memory, session_of
from splitleak.tables import nearest

Array = NDArray[Any]
Floats = NDArray[np.float32]

_DRAWING = frozenset(
    {
        "Bernoulli",
        "Dropout",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
_SELECTING = frozenset({"Compress", "NonMaxSuppression", "NonZero", "Range", "Unique"})
"""Operations that give as many values as their inputs' values say."""
_SIZED: dict[str, tuple[int, ...]] = {
    "AffineGrid": (1,),
    "CenterCropPad": (1,),
    "ConstantOfShape": (0,),
    "DFT": (1,),
    "Expand": (1,),
    "If": (0,),
    "Loop": (0, 1),
    "MaxUnpool": (2,),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "SplitToSequence": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}
"""By operation, the inputs that say how many values it gives."""
_CONVOLUTIONS = {
    "Conv": 1,
    "ConvInteger": 1,
    "ConvTranspose": 1,
    "DeformConv": 1,
    "FusedConv": 1,
    "NhwcConv": 1,
    "NhwcFusedConv": 1,
    "QLinearConv": 3,
}
"""By operation, which input holds the kernels."""
_PRODUCTS = frozenset(
    {
        "DynamicQuantizeMatMul",
        "FusedGemm",
        "FusedMatMul",
        "Gemm",
        "MatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QGemm",
        "QLinearMatMul",
    }
)
_RECURRENT = frozenset({"DynamicQuantizeLSTM", "GRU", "LSTM", "RNN"})
_ATTENTIONS = frozenset({"Attention", "MultiHeadAttention", "QAttention"})
_RUNTIMES = "com.microsoft"  # the domain of ONNX Runtime's own operations
_ROWS = (1, 2, 3)  # batches that tell how shapes and sizes follow from the batch
MIXED = 0.02
"""Of the largest value: what the rest of a batch changes by less is rounding, as of int8."""

_BYTES: dict[int, int] = {
    TensorProto.FLOAT: 4,
    TensorProto.FLOAT16: 2,
    TensorProto.BFLOAT16: 2,
    TensorProto.DOUBLE: 8,
    TensorProto.UINT8: 1,
    TensorProto.INT8: 1,
}
_SMALL = 4096  # elements of a constant that may tell a shape
_CHUNK_BYTES = 2**28  # of the outputs of one forward pass


@dataclass(frozen=True)
class Cut:
    """A place where a network can be cut: the tensors that cross there, and what lies before and after it.

    Parameters that both sides need count on both. MACs are the multiply-accumulates of convolutions and matrix products
    for one image. Bytes are those of the tensors as the network computes them, without a codec.
    """

    tensors: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]  # of one image
    after: str  # the operation that gives the last of them
    bytes: int
    device_parameters: int
    device_macs: int
    cloud_parameters: int
    cloud_macs: int

    @property
    def name(self) -> str:
        """The tensors' names, joined by ``+``."""
        return "+".join(self.tensors)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """What is sent of one image: the tensor's shape, or ``(d,)`` of all values where several tensors cross."""
        return self.shapes[0] if len(self.shapes) == 1 else (sum(math.prod(shape) for shape in self.shapes),)


class _Probe(NamedTuple):
    """What one pass tells: shapes of what depends on images, values of what depends on shapes alone, and the answer."""

    shapes: dict[str, tuple[int, ...]]
    values: dict[str, Array]
    answer: Array


class Network:
    """A network as `splitleak.graphs.prepared.prepare` gives it, computed by ONNX Runtime on the CPU.

    Tensors are of three kinds: those that depend on the images' values, those that depend on shapes alone (as the sizes
    a reshape is given, which follow from the batch), and constants. Only the first can leak, and only they cross.
    """

    def __init__(self, model: ModelProto) -> None:
        """Measures all shapes, by forward passes of one to three images that differ.

        Raises:
            ValueError: The network cannot be computed, gives no numbers, another number of them for another picture,
                or draws some at random.
        """
        self.model = model
        self.graph = model.graph
        kinds, self._selected = _kinds(self.graph)
        self._data = {name for name, kind in kinds.items() if kind == "data"}
        self._shaped = {name for name, kind in kinds.items() if kind == "shape"}
        self.nodes = list(self.graph.node)
        self.producers = {name: place for place, node in enumerate(self.nodes) for name in node.output if name}
        self.weights = {tensor.name: tensor for tensor in self.graph.initializer}
        self.types, self._told = _inferred(model)
        if OUTPUT not in self._data:
            raise ValueError("expected an output that depends on the images, got one that does not")
        self.mixes = False
        """Whether an image's answer depends on the others of its batch; then images are computed one at a time."""
        self.batched, self.shapes, self.values = self._measure()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        channels, height, width = (dim.dim_value for dim in self.graph.input[0].type.tensor_type.shape.dim[1:])
        return channels, height, width

    @property
    def rounds(self) -> bool:
        """Whether it takes whole numbers, which pictures are rounded to."""
        return any(node.name.startswith(OURS) and node.op_type in ("QuantizeLinear", "Floor") for node in self.nodes)

    @property
    def scales_by_batch(self) -> bool:
        """Whether it quantises by the largest value of a whole batch, which makes answers depend on it a little."""
        return any(node.op_type.startswith("DynamicQuantize") for node in every_node(self.graph))

    @property
    def notes(self) -> list[str]:
        """What is to be known of how it is computed, in words."""
        notes = ["the network takes whole numbers: pictures are rounded, on a range of 255"] if self.rounds else []
        if self.mixes or (self.scales_by_batch and not self.batched):
            notes.append(
                "an image's answer depends on the rest of its batch: images are computed one at a time, and what leaks "
                "in batches was not measured and may be more"
            )
        elif not self.batched:
            notes.append("the network takes one image at a time; batches are computed row by row")
        return notes

    @cached_property
    def outputs(self) -> int:
        """Numbers that the network gives for one image."""
        return self.shapes[1][OUTPUT][1]

    def cuts(self, tensors: int = 1) -> list[Cut]:
        """Every place where at most ``tensors`` tensors cross, from the images to the output, in the nodes' order.

        On either side of each is at least one of the network's own operations.
        """
        waiting = dict.fromkeys(self._data, 0)
        for node in self._data_nodes:
            for name in {*reads(node)} & self._data:
                waiting[name] += 1
        waiting[OUTPUT] += 1
        live, found = {IMAGES: None}, []
        parameters, macs, seen = 0, 0, set[str]()
        after = self._parameters_after()
        own = sum(not node.name.startswith(OURS) for node in self._data_nodes)
        passed = 0
        for place, node in enumerate(self._data_nodes):
            passed += not node.name.startswith(OURS)
            parameters += self._parameters(node, seen)
            macs += self._macs(node)
            live |= {name: None for name in node.output if waiting.get(name)}
            for name in {*reads(node)} & self._data:
                waiting[name] -= 1
                if not waiting[name]:
                    del live[name]
            if 0 < passed < own and len(live) <= tensors and all(self._can_cross(name) for name in live):
                shapes = tuple(self.shapes[1][name][1:] for name in live)
                size = sum(math.prod(self.shapes[1][name]) * _BYTES[self.types[name]] for name in live)
                found.append(Cut((*live,), shapes, node.op_type, size, parameters, macs, after[place], 0))
        return [replace(cut, cloud_macs=macs - cut.device_macs) for cut in found]

    @cached_property
    def parameters(self) -> int:
        """Weights of the whole, each once."""
        seen = set[str]()
        return sum(self._parameters(node, seen) for node in self._data_nodes)

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of the whole for one image, as far as they are counted."""
        return sum(self._macs(node) for node in self._data_nodes)

    def cut(self, name: str, tensors: int = 8) -> Cut:
        """The cut called ``name``: a tensor, or several joined by ``+``.

        Raises:
            ValueError: There is no such place; the error names the nearest.
        """
        found = {cut.name: cut for cut in self.cuts(max(tensors, name.count("+") + 1))}
        if name not in found:
            raise ValueError(f"expected a place that `splitleak cuts` lists, got {name!r}{nearest(name, found)}")
        return found[name]

    def forward(
        self, images: Floats, names: Sequence[str], threads: int = 1, most_bytes: int = _CHUNK_BYTES
    ) -> Iterator[dict[str, Floats]]:
        """The tensors ``names`` for images ``(N, C, H, W)``, by one pass of each batch; their first axis is its rows.

        Batches are as large as tensors of ``most_bytes`` allow.

        Raises:
            ValueError: The network cannot be computed for some of the images, or gives another number of values.
        """
        each = sum(4 * math.prod(self.shapes[1][name]) for name in names) + 1
        rows = max(1, min(64, most_bytes // each)) if self.batched else 1
        session = session_of(_with_outputs(self.model, names), threads)
        for start in range(0, len(images), rows):
            batch = images[start : start + rows]
            try:
                values = session.run(list(names), {IMAGES: batch})
            except Exception as error:  # ONNX Runtime's errors have no base of their own
                said = f"{first_line(error)} (images {start} to {start + len(batch) - 1})"
                raise ValueError(f"expected a network that can be computed for every image, but {said}") from None
            for name, value in zip(names, values, strict=True):
                if value.shape != (expected := (len(batch), *self.shapes[1][name][1:])):
                    raise ValueError(f"expected {expected} of {len(batch)} images at {name!r}, got {value.shape}")
            yield {name: np.asarray(value, np.float32) for name, value in zip(names, values, strict=True)}

    @cached_property
    def _data_nodes(self) -> list[NodeProto]:
        return [node for node in self.nodes if self._data & {*node.output}]

    def _can_cross(self, name: str) -> bool:
        """Whether a tensor is of numbers that a message can hold, with a row for each image."""
        if name in self._selected:
            return False
        shapes = [self.shapes[rows].get(name, ()) for rows in (_ROWS if self.batched else (1,))]
        if self.types.get(name) not in _BYTES or not all(len(shape) > 1 and math.prod(shape) for shape in shapes):
            return False
        return len({shape[1:] for shape in shapes}) == 1 and [shape[0] for shape in shapes] == [*_ROWS[: len(shapes)]]

    def _measure(self) -> tuple[bool, dict[int, dict[str, tuple[int, ...]]], dict[int, dict[str, Array]]]:
        """Shapes of all tensors and values of those that depend on shapes alone, by batch."""
        data, shaped = sorted(self._data), sorted(self._shaped)
        probes = {name: f"{name}.shape-of" for name in data}
        measured = [helper.make_node("Shape", [name], [made]) for name, made in probes.items()]
        wanted = [*probes.values(), *shaped, OUTPUT]
        session = session_of(_with_outputs(self.model, wanted, measured), threads=1)

        def probe(batch: Floats) -> _Probe:
            made = session.run(wanted, {IMAGES: batch})
            shapes = {name: tuple(map(int, shape)) for name, shape in zip(data, made, strict=False)}
            return _Probe(shapes, dict(zip(shaped, made[len(data) :], strict=False)), made[-1])

        images = probing(_ROWS[-1], self.image_shape)
        try:
            first = probe(images[:1])
        except Exception as error:  # ONNX Runtime's errors have no base of their own
            raise ValueError(f"expected a network for images {self.image_shape}, but {first_line(error)}") from None
        self._check_answer(first.answer, session.run([OUTPUT], {IMAGES: images[:1]})[0])
        found, alone = {1: first}, [first.answer]
        try:
            for place in range(1, len(images)):
                other = probe(images[place : place + 1])
                self._compare(first, other)
                alone.append(other.answer)
            for rows in _ROWS[1:]:
                found[rows] = probe(images[:rows])
        except ValueError:
            raise
        except Exception:  # it takes no batch, or not every picture
            found = {1: first}
        for rows in tuple(found)[1:]:
            together, apart = found[rows].answer, np.concatenate(alone[:rows])
            if not same(together, apart):
                self.mixes = together.shape == apart.shape and difference(together, apart) > MIXED
                found = {1: first}
                break
        shapes = {rows: each.shapes for rows, each in found.items()}
        return len(found) > 1, shapes, {rows: each.values for rows, each in found.items()}

    def _check_answer(self, answer: Array, again: Array) -> None:
        """Refuses an answer that has not one row an image, or is another the second time."""
        if len(answer) != 1:
            expected = "an output whose first axis is that of the images (output=NAME chooses one)"
            raise ValueError(f"expected {expected}, got {len(answer)} rows of one image")
        if not same(again, answer):
            drawn = sorted({node.op_type for node in every_node(self.graph)} & _DRAWING)
            raise ValueError(
                "expected a network that gives an image the same answer twice, got one that draws at random "
                f"({', '.join(drawn) or 'unknown where'}); export it in evaluation mode (`.eval()`), or with what "
                "it draws as an input, which --set fixed.NAME=VALUE gives a value"
            )

    def _compare(self, first: "_Probe", other: "_Probe") -> None:
        """Keeps tensors from crossing whose size is another for another picture; refuses such an answer."""
        if first.answer.shape != other.answer.shape:
            got = f"{first.answer.shape[1]} of one image and {other.answer.shape[1]} of another"
            raise ValueError(f"expected an output of as many numbers for every image, got {got}")
        if wrong := next((name for name, value in first.values.items() if not same(value, other.values[name])), None):
            raise ValueError(f"expected sizes that are the same for every image, got others at {wrong!r}")
        self._selected |= {name for name, shape in first.shapes.items() if shape != other.shapes[name]}

    def _parameters_after(self) -> list[int]:
        """By the place of a node, the weights that those after it need, though some before it may need them too."""
        count, seen, after = 0, set[str](), list[int]()
        for node in reversed(self._data_nodes):
            after.append(count)
            count += self._parameters(node, seen)
        return after[::-1]

    def _parameters(self, node: NodeProto, seen: set[str]) -> int:
        """The weights that a node reads, or that what it reads is computed from, each once.

        Preprocessing and the values of fixed inputs are none. Exporters write an ``Identity`` where two weights were
        equal, as those of fresh normalisations are.
        """
        if node.name.startswith(OURS):
            return 0
        given = node.input[:3] if node.op_type == "BatchNormalization" else reads(node)  # its statistics are none
        count, places = 0, [*given]
        while places:
            name = places.pop()
            if not name or name in seen or name in self._data:
                continue
            seen.add(name)
            made = self.nodes[self.producers[name]] if name in self.producers else None
            if made is not None and made.name.startswith(OURS):
                continue
            equal = made.input[0] if made is not None and made.op_type == "Identity" else name
            if equal in self.weights:
                tensor = self.weights[equal]
                count += math.prod(tensor.dims) if tensor.data_type in _BYTES else 0
            elif made is not None and made.op_type == "Constant":
                value = made.attribute[0].t
                count += math.prod(value.dims) if value.dims and value.data_type in _BYTES else 0
            elif made is not None:
                places += reads(made)
        return count

    def _macs(self, node: NodeProto) -> int:
        """Multiply-accumulates of a convolution, a matrix product, a recurrent layer or attention, for one image."""
        shapes = self.shapes[1]
        if node.op_type in _CONVOLUTIONS:
            weight = self._dims(node.input[_CONVOLUTIONS[node.op_type]])
            moved = shapes[node.output[0] if node.op_type != "ConvTranspose" else node.input[0]]
            return math.prod(moved) * math.prod(weight[1:])
        if node.op_type in _PRODUCTS:
            left = self._dims(node.input[0])
            flipped = any(each.name == "transA" and each.i for each in node.attribute)
            return math.prod(shapes[node.output[0]]) * left[0 if flipped else -1]
        if node.op_type in _RECURRENT:  # for each step, the weights of what comes in and of the state
            steps = math.prod(self._dims(node.input[0])[:2])
            return steps * sum(math.prod(self._dims(name)) for name in node.input[1:3])
        if node.op_type == "Einsum":
            return self._einsum_macs(node)
        if node.op_type in _ATTENTIONS:
            return self._attention_macs(node)
        return 0

    def _attention_macs(self, node: NodeProto) -> int:
        """Of each query with each key, and of their shares with values; of what makes these, where it does."""
        given, made = self._dims(node.input[0]), math.prod(self.shapes[1][node.output[0]])
        if node.domain != _RUNTIMES or node.op_type == "MultiHeadAttention":
            return self._dims(node.input[1])[-2] * (math.prod(given) + made)
        rows, (inner, outer) = math.prod(given[:-1]), self._dims(node.input[1])  # one matrix gives all three
        return rows * inner * outer + given[-2] * ((rows * outer - made) // 2 + made)

    def _einsum_macs(self, node: NodeProto) -> int:
        """Of each further operand, a product for every index there is: those of the answer, and those summed over."""
        equation = next(each.s.decode() for each in node.attribute if each.name == "equation").replace(" ", "")
        given, _, told = equation.partition("->")
        sides: dict[str, int] = {}
        for labels, name in zip(given.split(","), node.input, strict=True):
            dims, plain = self._dims(name), labels.replace("...", "")
            kept = labels.partition("...")[0] if "..." in labels else plain
            ends = dims[len(dims) - len(plain) + len(kept) :]
            sides |= dict(zip(plain, (*dims[: len(kept)], *ends), strict=True))
        letters = {letter for letter in given if letter.isalpha()}
        summed = letters - {*told} if told else {letter for letter in letters if given.count(letter) > 1}
        indices = math.prod(self.shapes[1][node.output[0]]) * math.prod(sides[letter] for letter in summed)
        return indices * (len(node.input) - 1)

    def _dims(self, name: str) -> tuple[int, ...]:
        if name in self.weights:
            return tuple(self.weights[name].dims)
        if name in self._data:
            return self.shapes[1][name]
        if name in self.values[1]:
            return self.values[1][name].shape
        if name in self._told:  # of a weight that is computed from others, as one that is transposed
            return self._told[name]
        made = self.nodes[self.producers[name]]
        return tuple(made.attribute[0].t.dims) if made.op_type == "Constant" else self._dims(reads(made)[0])


def _kinds(graph: onnx.GraphProto) -> tuple[dict[str, str], set[str]]:
    """Of each tensor, whether it depends on the images' values (data), on shapes alone (shape), or on neither.

    The second are those whose size depends on the images' values too, as that of the places where a feature is not 0:
    what counts their values is data.
    """
    kinds, selected = {IMAGES: "data"}, set[str]()
    for node in graph.node:
        given = {kinds.get(name) for name in reads(node)}
        kind = "data" if "data" in given else "shape" if "shape" in given else None
        counts = node.op_type in ("Shape", "Size")
        if counts and kind == "data" and node.input[0] not in selected:
            kind = "shape"
        if kind is not None:
            kinds |= {name: kind for name in node.output if name}
        if kind == "data" and not counts and (selected & {*reads(node)} or _selects(node, kinds)):
            selected |= {name for name in node.output if name}
    return kinds, selected


def _selects(node: NodeProto, kinds: dict[str, str]) -> bool:
    """Whether the values of images say how many values a node gives."""
    if any(each.op_type in _SELECTING for graph in subgraphs(node) for each in every_node(graph)):
        return True
    told = range(len(node.input)) if node.op_type in _SELECTING else _SIZED.get(node.op_type, ())
    if any(kinds.get(node.input[place]) == "data" for place in told if place < len(node.input)):
        return True
    return node.op_type == "Loop" and not _counts_alone(subgraphs(node)[0])


def _counts_alone(body: onnx.GraphProto) -> bool:
    """Whether a loop goes on as long as its count says: its own condition is handed on, or constant."""
    makers = {name: made for made in body.node for name in made.output}
    name = body.output[0].name
    while name in makers and makers[name].op_type in ("Cast", "Identity"):
        name = makers[name].input[0]
    return name not in makers or makers[name].op_type == "Constant"


def _inferred(model: ModelProto) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """The element type of every tensor, and the shape of every one, that can be told without computing it.

    Raises:
        ValueError: One of them is too large to be computed.
    """
    given = model.graph
    without = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = without.graph
    graph.name = given.name
    graph.node.extend(given.node)
    graph.input.extend(given.input)
    graph.output.extend(given.output)
    for tensor in given.initializer:  # a copy of large ones is not needed, and there would be several
        if math.prod(tensor.dims) > _SMALL:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        else:
            graph.initializer.append(tensor)
    graph = onnx.shape_inference.infer_shapes(without, data_prop=True).graph
    _check_sizes(graph)
    told = {each.name: each.type.tensor_type for each in (*graph.input, *graph.value_info, *graph.output)}
    types = {name: each.elem_type for name, each in told.items()}
    types |= {tensor.name: tensor.data_type for tensor in given.initializer}
    known = {name: each.shape.dim for name, each in told.items() if each.HasField("shape")}
    return types, {
        name: tuple(dim.dim_value for dim in dims)
        for name, dims in known.items()
        if all(dim.HasField("dim_value") for dim in dims)
    }


def value_info(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", *shape])


def _with_outputs(model: ModelProto, names: Sequence[str], nodes: Sequence[NodeProto] = ()) -> bytes:
    """The file of a model with other outputs, and ``nodes`` after its own; the weights are not copied for it."""
    graph = model.graph
    count, outputs = len(graph.node), [*graph.output]
    try:
        graph.node.extend(nodes)
        del graph.output[:]
        graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
        return model.SerializeToString()
    finally:
        del graph.node[count:], graph.output[:]
        graph.output.extend(outputs)


def _check_sizes(graph: onnx.GraphProto) -> None:
    """Refuses a graph that says of itself that it needs more memory than is given."""
    most = most_memory()
    for each in graph.value_info:
        dims = [dim.dim_value for dim in each.type.tensor_type.shape.dim if dim.HasField("dim_value")]
        if math.prod(dims) * 4 > most or any(dim < 0 for dim in dims):
            raise ValueError(f"expected tensors of at most {most:,} bytes ({MEMORY}), got {each.name!r} of {dims}")


def probing(count: int, image_shape: tuple[int, int, int]) -> Floats:
    """Images ``(count, C, H, W)`` in [0, 1] as different as can be: noise, half black, black, noise of half the light.

    What depends on their values, or on the others of a batch, shows on one of them.
    """
    images = np.random.default_rng(0).random((count, *image_shape), dtype=np.float32)
    images[1::4, :, image_shape[1] // 2 :] = 0
    images[2::4] = 0
    images[3::4] /= 2
    return images


def difference(values: Array, expected: Array) -> float:
    """The largest difference where both are finite, relative to the largest expected value.

    >>> difference(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    0.5
    """
    finite = np.isfinite(values) & np.isfinite(expected)
    largest = float(np.abs(expected[finite]).max(initial=0.0))
    return float(np.abs(values[finite] - expected[finite]).max(initial=0.0)) / max(largest, 1e-12)


def same(left: Array, right: Array) -> bool:
    if left.shape != right.shape:
        return False
    if left.dtype.kind in "iub":
        return bool(np.array_equal(left, right))
    spread = float(np.abs(right[np.isfinite(right)]).max(initial=0.0))
    return bool(np.allclose(left, right, rtol=1e-4, atol=1e-4 * spread, equal_nan=True))
