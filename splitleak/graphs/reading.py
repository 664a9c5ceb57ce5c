"""Reads a stranger's ONNX file into one checked graph, with bounded memory; nothing is computed."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data
from onnx.inliner import inline_local_functions

from splitleak.errors import first_line

MAX_BYTES = 2**31 - 1
"""Of a file with the weights beside it: protobuf's own limit for one message."""

_LEAST_OPSET = 7  # ONNX Runtime computes nothing older
_RUNTIME_DOMAINS = ("", "ai.onnx", "com.microsoft")  # the last is what ONNX Runtime's own optimiser writes


def read_graph(path: Path) -> ModelProto:
    """The network of an ONNX file: nodes in the order of their computation, and weights in memory.

    Weights beside the file (external data) are read from its own folder alone. Functions of the model are expanded.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no ONNX file, or one that cannot be computed here: broken, cyclic, of operations or a version
            that nobody knows, or with weights that are not where, or not as large as, it says.
    """
    if not path.is_file():
        raise FileNotFoundError(f"expected an ONNX file at {path}, got {'a folder' if path.is_dir() else 'nothing'}")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{path}: expected an ONNX file of at most {MAX_BYTES:,} bytes, got {size:,}")
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError, OSError, RuntimeError) as error:
        raise ValueError(f"{path}: expected an ONNX file, but {first_line(error)}") from None
    try:
        _check_versions(model)
        if model.functions:
            model = inline_local_functions(model)
        _check_names(model.graph)
        _load_weights(model.graph, path.parent)
        sort_nodes(model.graph)
        _check_operations(model)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    except Exception as error:  # of onnx's own C++, on a file that contradicts itself
        raise ValueError(f"{path}: expected an ONNX file, but {first_line(error)}") from None
    return model


def opset(model: ModelProto) -> int:
    """The version of ONNX's own operations that a model is written in; 0 where it tells none."""
    return next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)


def inputs_of(graph: GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs of a graph without those that have a value of their own."""
    given = {tensor.name for tensor in graph.initializer}
    return [each for each in graph.input if each.name not in given]


def reads(node: NodeProto) -> list[str]:
    """The tensors a node reads, those that its subgraphs take from around it included."""
    names = [name for name in node.input if name]
    for graph in subgraphs(node):
        own = _given(graph)
        for inner in graph.node:
            names += [name for name in reads(inner) if name not in own]
            own.update(inner.output)
        names += [each.name for each in graph.output if each.name not in own]
    return names


def _given(graph: GraphProto) -> set[str]:
    return {each.name for each in graph.input} | {tensor.name for tensor in graph.initializer}


def subgraphs(node: NodeProto) -> list[GraphProto]:
    """The bodies of a node that branches or loops."""
    found = [each.g for each in node.attribute if each.type == AttributeProto.GRAPH]
    return found + [graph for each in node.attribute if each.type == AttributeProto.GRAPHS for graph in each.graphs]


def every_node(graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes of a graph and of all bodies in it."""
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from every_node(inner)


def needed_for(output: str, nodes: Iterable[NodeProto]) -> list[NodeProto]:
    """Those of ``nodes`` that a tensor is computed from, in their order."""
    given = list(nodes)
    producers = {name: node for node in given for name in node.output if name}
    needed, places = set[str](), [output]
    while places:
        name = places.pop()
        if name in producers and name not in needed:
            needed.update(filter(None, producers[name].output))
            places += reads(producers[name])
    return [node for node in given if needed & {*node.output}]


def sort_nodes(graph: GraphProto) -> None:
    """Brings the nodes into an order in which each comes after what it reads, as near to theirs as can be.

    Raises:
        ValueError: Nodes read each other in a circle, read what nothing gives, or two give the same tensor.
    """
    known = _given(graph)
    made = [name for node in graph.node for name in node.output if name]
    produced = {*made}
    if len(produced) < len(made) or known & produced:
        counts = Counter(made)
        twice = sorted(name for name, count in counts.items() if count > 1 or name in known)
        raise ValueError(f"expected each tensor to be given once, got {twice[0]!r} twice")
    waiting: dict[str, list[int]] = {}
    missing, order = [], []
    for place, node in enumerate(graph.node):
        lacking = {name for name in reads(node) if name not in known}
        if unknown := lacking - produced:
            raise ValueError(f"expected a node or a weight that gives {sorted(unknown)[0]!r}, got none")
        for name in lacking:
            waiting.setdefault(name, []).append(place)
        missing.append(len(lacking))
    ready = [place for place in reversed(range(len(missing))) if not missing[place]]
    while ready:
        place = ready.pop()
        order.append(place)
        freed = []
        for name in graph.node[place].output:
            for other in waiting.get(name, ()):
                missing[other] -= 1
                if not missing[other]:
                    freed.append(other)
        ready += sorted(freed, reverse=True)
    if len(order) < len(missing):
        stuck = next(node for place, node in enumerate(graph.node) if missing[place])
        raise ValueError(f"expected nodes without a circle, got {stuck.op_type} {stuck.name!r} that waits for itself")
    if order != sorted(order):
        nodes = [graph.node[place] for place in order]
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)
    for each in graph.output:
        if each.name not in known and each.name not in produced:
            raise ValueError(f"expected a node that gives output {each.name!r}, got none")


def _check_versions(model: ModelProto) -> None:
    if not model.HasField("graph") or not model.graph.node or not model.graph.output:
        raise ValueError("expected an ONNX file with a graph, nodes and an output, got none")
    version, newest = opset(model), onnx.defs.onnx_opset_version()
    if not _LEAST_OPSET <= version <= newest:
        raise ValueError(f"expected operations of version {_LEAST_OPSET} to {newest}, got {version or 'none'}")
    if not 3 <= model.ir_version <= onnx.IR_VERSION:
        raise ValueError(f"expected a file of ONNX IR version 3 to {onnx.IR_VERSION}, got {model.ir_version}")
    if model.graph.sparse_initializer:
        raise ValueError(f"expected dense weights, got {len(model.graph.sparse_initializer)} sparse ones")


def _check_names(graph: GraphProto) -> None:
    """Refuses names that are no text, which protobuf gives as bytes."""
    names = [each.name for each in (*graph.input, *graph.output, *graph.value_info)]
    names += [tensor.name for tensor in _tensors(graph)]
    for node in every_node(graph):
        names += [node.name, node.op_type, node.domain, *node.input, *node.output]
    if wrong := next((name for name in names if not isinstance(name, str)), None):
        raise ValueError(f"expected names in UTF-8, got {wrong!r}")


def _check_operations(model: ModelProto) -> None:
    version = opset(model)
    unknown = set()
    for node in every_node(model.graph):
        if node.domain not in _RUNTIME_DOMAINS:
            unknown.add(f"{node.domain}::{node.op_type}")
        elif node.domain != "com.microsoft" and not onnx.defs.has(node.op_type, max_inclusive_version=version):
            unknown.add(node.op_type or "an operation without a name")
    if unknown:
        names = ", ".join(name if name.isprintable() else repr(name) for name in sorted(unknown))
        raise ValueError(f"expected ONNX's own operations of version {version}, got {names}")


def _load_weights(graph: GraphProto, folder: Path) -> None:
    """Checks every constant's size against its data, and reads what lies beside the file."""
    total = 0
    for tensor in _tensors(graph):
        if any(dim < 0 for dim in tensor.dims):
            raise ValueError(f"expected sizes of 0 and above in {tensor.name!r}, got {list(tensor.dims)}")
        if tensor.data_type in (TensorProto.UNDEFINED, TensorProto.STRING):
            continue
        try:
            width = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        except KeyError:
            raise ValueError(f"expected a known type in {tensor.name!r}, got number {tensor.data_type}") from None
        expected = math.prod(tensor.dims) * width
        total += expected
        if total > MAX_BYTES:
            raise ValueError(f"expected at most {MAX_BYTES:,} bytes of weights, got more with {tensor.name!r}")
        if uses_external_data(tensor):
            _load_beside(tensor, folder, expected)
        if tensor.HasField("raw_data") and len(tensor.raw_data) != expected and tensor.data_type < TensorProto.UINT4:
            got = f"{len(tensor.raw_data):,} of {list(tensor.dims)}"
            raise ValueError(f"expected {expected:,} bytes in {tensor.name!r}, got {got}")


def _load_beside(tensor: TensorProto, folder: Path, expected: int) -> None:
    fields = {entry.key: entry.value for entry in tensor.external_data}
    place = folder / fields.get("location", "")
    if not place.resolve().is_relative_to(folder.resolve()) or Path(fields.get("location", "")).is_absolute():
        raise ValueError(f"expected weights in the folder of the file, got {fields.get('location')!r}")
    if not place.is_file() or place.is_symlink():
        raise ValueError(f"expected the weights of {tensor.name!r} in {place}, got no such file")
    try:
        start, length = int(fields.get("offset", 0)), int(fields.get("length", expected))
    except ValueError:
        raise ValueError(f"expected numbers as offset and length of {tensor.name!r}, got {fields}") from None
    if length != expected or start < 0 or start + length > place.stat().st_size:
        got = f"{length:,} at {start:,} of {place.stat().st_size:,}"
        raise ValueError(f"expected {expected:,} bytes of {tensor.name!r} in {place}, got {got}")
    load_external_data_for_tensor(tensor, str(folder))
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """All constants, those in attributes and bodies included."""
    yield from graph.initializer
    for node in every_node(graph):
        for each in node.attribute:
            if each.type == AttributeProto.TENSOR:
                yield each.t
            yield from each.tensors
        for inner in subgraphs(node):
            yield from inner.initializer
