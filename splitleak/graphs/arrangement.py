"""Where the values of a tensor lay before they were reshaped, put in another order or changed one by one."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from splitleak.graphs.network import Array, Network
from splitleak.graphs.reading import needed_for, reads
from splitleak.onnx_runtime import session_of

_RESHAPES = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
_IN_PLACE = frozenset(
    {
        *("Abs", "Add", "BatchNormalization", "BiasGelu", "Cast", "Ceil", "Celu", "Clip", "DequantizeLinear", "Div"),
        *("Dropout", "Elu", "Erf", "Exp", "FastGelu", "Floor", "Gelu", "GroupNormalization", "HardSigmoid"),
        *("HardSwish", "Identity", "InstanceNormalization", "LayerNormalization", "LeakyRelu", "Log", "LogSoftmax"),
        *("LpNormalization", "Max", "MeanVarianceNormalization", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow"),
        *("QuantizeLinear", "QuickGelu", "RMSNormalization", "Reciprocal", "Relu", "Round", "Selu", "Shrink"),
        *("Sigmoid", "Sign", "SimplifiedLayerNormalization", "Softmax", "Softplus", "Softsign", "Sqrt", "Sub", "Sum"),
        *("Swish", "Tanh", "ThresholdedRelu", "Where"),
    }
)
"""Operations that leave each value where it is."""
_MOVES = frozenset({"Concat", "DepthToSpace", "Gather", "Slice", "SpaceToDepth", "Split"})
"""Operations that compute no value: one, or several together, may put those of a tensor in another order."""
_MOST_MOVES, _MOST_VALUES = 16, 2**24  # operations of one rearrangement; whole numbers that float32 holds
_MOST = 3  # arrangements of a tensor: its own, and those of the first and of the last that it was made of


class Arrangement(NamedTuple):
    """How the values of a tensor may be laid out: as ``shape`` of one image, once they are put in ``order``."""

    shape: tuple[int, ...]
    order: Array | None  # of the tensor's values, flattened; None: as they are


def arrangements(network: Network, names: Sequence[str]) -> list[tuple[tuple[tuple[int, ...], ...], Array | None]]:
    """Shapes that tensors may be laid out in, and the order of their values, one after the other, for each.

    The first are their own. The others are those of the tensors that they are rearrangements of: who flattens a map
    does not hide where its values lay.

    Args:
        network: The network.
        names: Tensors that cross together.
    """
    found = [_of(network, name) for name in names]
    made = []
    for index in range(max(map(len, found))):
        chosen = [each[min(index, len(each) - 1)] for each in found]
        start, orders = 0, []
        for arrangement in chosen:
            size = int(np.prod(arrangement.shape))
            orders.append(start + (np.arange(size) if arrangement.order is None else arrangement.order))
            start += size
        moved = any(arrangement.order is not None for arrangement in chosen)
        made.append((tuple(each.shape for each in chosen), np.concatenate(orders) if moved else None))
    return made


def _of(network: Network, name: str) -> list[Arrangement]:
    """The arrangements of one tensor, each once."""
    shapes = network.shapes[1]
    found = [Arrangement(shapes[name][1:], None)]
    # By the tensor's values, the places of those that they were: `order` at first.
    places = np.arange(int(np.prod(shapes[name]))).reshape(shapes[name])
    while name in network.producers:
        node = network.nodes[network.producers[name]]
        given = next((each for each in node.input if np.prod(shapes.get(each, (0,))) == places.size), None)
        if node.op_type in _MOVES:
            if (origin := _moved(network, name)) is None:
                break
            given, origins = origin
            before = np.empty_like(places.flatten())
            before[origins] = places.flatten()
            places = before.reshape(shapes[given])
        elif given is None:
            break
        elif node.op_type in _RESHAPES:
            places = places.reshape(shapes[given])
        elif node.op_type == "Transpose":
            turned = next((list(each.ints) for each in node.attribute if each.name == "perm"), None)
            places = places.transpose(None if turned is None else np.argsort(turned))
        elif node.op_type not in _IN_PLACE or shapes[given] != shapes[name]:
            break
        name, order = given, places.flatten()
        as_they_are = bool((np.diff(order) == 1).all())
        arrangement = Arrangement(shapes[name][1:], None if as_they_are else order)
        if not any(_alike(arrangement, each) for each in found):
            found.append(arrangement)
    return found if len(found) <= _MOST else [found[0], found[1], found[-1]]


def _moved(network: Network, name: str) -> tuple[str, Array] | None:
    """The tensor whose values ``name`` has in another order, and at which place of it each was; None: there is none."""
    shapes, size = network.shapes[1], int(np.prod(network.shapes[1][name]))
    moving, places, sources = set[int](), [name], set[str]()
    while places:
        place = network.producers.get(places.pop())
        if place is None or network.nodes[place].op_type not in _MOVES or len(moving) >= _MOST_MOVES:
            return None
        moving.add(place)
        for given in (each for each in network.nodes[place].input if each in shapes):
            if np.prod(shapes[given]) == size:
                sources.add(given)
            else:
                places.append(given)
    if len(sources) != 1 or size > _MOST_VALUES:
        return None
    [source] = sources
    numbers = np.arange(size, dtype=np.float32).reshape(shapes[source])
    [made] = session_of(_part(network, moving, source, name), 1).run([name], {source: numbers})
    origins = made.flatten().astype(np.int64)
    return (source, origins) if np.array_equal(np.sort(origins), np.arange(size)) else None


def _part(network: Network, moving: Collection[int], source: str, name: str) -> bytes:
    """The graph of some nodes, from ``source`` to ``name``, with the constants that they read."""
    part = ModelProto(ir_version=network.model.ir_version, opset_import=network.model.opset_import)
    graph = part.graph
    graph.name = name
    graph.input.append(helper.make_tensor_value_info(source, TensorProto.FLOAT, None))
    graph.output.append(helper.make_empty_tensor_value_info(name))
    known = network.values[1]
    made = {*network.shapes[1], *known}
    nodes = [node for at, node in enumerate(network.nodes) if at in moving or not made & {*node.output}]
    graph.node.extend(needed_for(name, nodes))
    for each in sorted({each for node in graph.node for each in reads(node)}):
        if each in network.weights:
            graph.initializer.append(network.weights[each])
        elif each in known:
            graph.initializer.append(numpy_helper.from_array(known[each], each))
    return part.SerializeToString()


def _alike(left: Arrangement, right: Arrangement) -> bool:
    shapes = [each.shape[:1] if set(each.shape[1:]) == {1} else each.shape for each in (left, right)]  # of one place
    if shapes[0] != shapes[1] or (left.order is None) != (right.order is None):
        return False
    return left.order is None or right.order is None or bool((left.order == right.order).all())
