"""A network's ONNX graph as a torch module that gradients pass through."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import torch
from onnx import ModelProto, NodeProto, helper
from torch import Tensor, nn

from splitleak.graphs.operations.node import Node, Operation, Run, tensor_of
from splitleak.graphs.operations.table import OPERATIONS

_STANDARD = ("", "ai.onnx")
_LARGEST_COMPUTED = 2**20  # elements that constants may make when the graph is read


class MissingOperations(ValueError):
    """A graph has operations that `GraphModule` does not reach: ``operations``, sorted."""

    def __init__(self, missing: Mapping[str, int]) -> None:
        counts = ", ".join(f"{name} ({count})" for name, count in sorted(missing.items()))
        super().__init__(f"expected operations of {', '.join(sorted(OPERATIONS))}, got {counts}")
        self.operations = sorted(missing)


class GraphModule(nn.Module):
    """Computes an ONNX graph by torch's operations; no code of the file is run.

    Weights are parameters, trained unless frozen: every array of floats that the graph computes with, however it is
    stored (initialiser, `Constant` node, int8 with its scale). What is no array of weights is not: single numbers,
    bounds, quantisation scales, and the running statistics of batch normalisation, which are buffers, as are index
    tables. `weight_key` says under which key of the state a tensor of the graph stands. Exporters write an `Identity`
    where two weights were equal; both are weights of their own here.

    In training mode, batch normalisation uses and updates its statistics and dropout drops, whatever mode the file was
    written in. What says a shape stays on the CPU, so that a module runs on any device, the meta device included.
    """

    def __init__(self, model: ModelProto) -> None:
        """Reads a model that is checked and has its data in memory.

        Raises:
            MissingOperations: It has operations that are not reached.
            ValueError: Its constants contradict each other; the message names them.
        """
        super().__init__()
        plan = _Plan(model)
        if plan.missing:
            raise MissingOperations(plan.missing)
        names = (*plan.inputs, *plan.constants, *(name for step in plan.steps for name in step.outputs if name))
        slots = {name: slot for slot, name in enumerate(dict.fromkeys(names))}
        self._inputs = [slots[name] for name in plan.inputs]
        self._outputs = [slots[name] for name in plan.outputs]
        # The last value stays empty: it is read where an input is left out, and written where an output is.
        self._values: list[Tensor | None] = [None] * (len(slots) + 1)
        self._weights: list[tuple[int, str]] = []
        self._tables: list[tuple[int, str]] = []
        for name in plan.read_constants():
            value, key = plan.constants[name], weight_key(name)
            if plan.is_weight(name):
                self.register_parameter(key, nn.Parameter(value))
                self._weights.append((slots[name], key))
            elif plan.is_table(name):
                self.register_buffer(key, value)
                self._tables.append((slots[name], key))
            else:
                self._values[slots[name]] = value
        self._steps = [
            _Step(
                step.run,
                [slots.get(name, -1) for name in step.inputs],
                plan.moves(step),
                step.operation.trains,
                [slots.get(name, -1) for name in step.outputs],
                [slots[name] for name in freed],
            )
            for step, freed in zip(plan.steps, plan.last_uses(), strict=True)
        ]

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The graph's outputs, in its order, for its inputs in theirs; one output comes by itself."""
        if len(inputs) != len(self._inputs):
            raise ValueError(f"expected {len(self._inputs)} inputs, got {len(inputs)}")
        values: list[Any] = self._values.copy()
        for slot, key in self._weights:
            values[slot] = self._parameters[key]
        for slot, key in self._tables:
            values[slot] = self._buffers[key]
        for slot, value in zip(self._inputs, inputs, strict=True):
            values[slot] = value
        training = self.training
        for run, sources, moves, trains, targets, freed in self._steps:
            arguments = [values[slot] for slot in sources]
            if moves:
                device = arguments[moves[0]].device
                for place in moves[1]:
                    arguments[place] = arguments[place].to(device)
            result = run(*arguments, training=training) if trains else run(*arguments)
            if isinstance(result, tuple):
                for slot, value in zip(targets, result, strict=False):
                    values[slot] = value
                values[-1] = None
            else:
                values[targets[0]] = result
            for slot in freed:
                values[slot] = None
        if len(self._outputs) == 1:
            output: Tensor = values[self._outputs[0]]
            return output
        return tuple(values[slot] for slot in self._outputs)


def missing_operations(model: ModelProto) -> tuple[str, ...]:
    """What `GraphModule` does not reach of a model, sorted: ``Loop``, or ``Resize with mode=area``; mostly nothing."""
    return tuple(sorted(_Plan(model).missing))


def weight_key(name: str) -> str:
    """The key in a `GraphModule`'s state of a tensor of the graph: readable, without dots, and no two alike.

    >>> weight_key("layer1.0.conv1.weight"), weight_key("onnx::Conv_193"), weight_key("W")
    ('layer1-0-conv1-weight', 'onnx%3A%3AConv_193', 'W%')
    """
    key = "".join(_escaped(sign) for sign in name)
    return key if set(key) & set("-%") else f"{key}%"  # so that none is the name of a module's own attribute


def _escaped(sign: str) -> str:
    if sign == ".":
        return "-"
    return f"%{ord(sign):02X}" if sign in "-~" else quote(sign, safe="")


class _Step(NamedTuple):
    run: Run
    sources: list[int]
    moves: tuple[int, list[int]] | None  # an input whose device the others are to be moved to
    trains: bool
    targets: list[int]
    freed: list[int]


class _Planned(NamedTuple):
    run: Run
    operation: Operation
    inputs: list[str]
    outputs: list[str]


class _Plan:
    """What a graph computes: the value of each constant, and the steps in their order; or what is missing."""

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self._version = next((each.version for each in model.opset_import if each.domain in _STANDARD), 1)
        self.missing: Counter[str] = Counter()
        self.constants: dict[str, Tensor] = {}
        self.steps: list[_Planned] = []
        given = {tensor.name for tensor in graph.initializer}
        self.inputs = [each.name for each in graph.input if each.name not in given]
        self.outputs = [each.name for each in graph.output]
        self._uses: dict[str, list[tuple[Operation, int]]] = {}
        self._read = set(self.outputs)
        for node in graph.node:
            self._read.update(node.input)
            if operation := _operation(node):
                for place, name in enumerate(node.input):
                    self._uses.setdefault(name, []).append((operation, place))
        self._on_cpu = _needed_on_cpu(graph.node)
        for tensor in graph.initializer:
            if tensor.name in self._read:
                try:
                    self.constants[tensor.name] = tensor_of(tensor)
                except ValueError as error:
                    self.missing[str(error)] += 1
        for node in graph.node:
            self._add(node)
        self._staying = self._stay_on_cpu()

    def is_weight(self, name: str) -> bool:
        """Whether a constant is trained."""
        value, uses = self.constants[name], self._uses.get(name, [])
        if name in self._on_cpu or not value.is_floating_point() or self._is_statistic(name):
            return False
        if any(place in operation.weights for operation, place in uses):
            return True
        return value.numel() > 1 and any(place not in operation.fixed for operation, place in uses)

    def is_table(self, name: str) -> bool:
        """Whether a constant that is not trained goes to the device, with the weights."""
        return self._is_statistic(name) or (name not in self._on_cpu and self.constants[name].ndim > 0)

    def read_constants(self) -> list[str]:
        """Names of the constants that a step reads, or that are an output, in the order of the steps."""
        names = (name for names in (*(step.inputs for step in self.steps), self.outputs) for name in names)
        return [name for name in dict.fromkeys(names) if name in self.constants]

    def moves(self, step: _Planned) -> tuple[int, list[int]] | None:
        """Which inputs of a step are on the CPU and go to the device of another; None where all stay."""
        places = [place for place, name in enumerate(step.inputs) if name]
        leader = next((place for place in places if step.inputs[place] not in self._staying), None)
        if leader is None:
            return None
        moved = [place for place in places if self._must_move(step, place)]
        return (leader, moved) if moved else None

    def last_uses(self) -> Iterable[list[str]]:
        """For each step, names of the values that nothing reads after it."""
        last: dict[str, int] = {}
        for index, step in enumerate(self.steps):
            last.update({name: index for name in (*step.inputs, *step.outputs)})
        freed: list[list[str]] = [[] for _ in self.steps]
        for name, index in last.items():
            if name and name not in self.outputs:
                freed[index].append(name)
        return freed

    def _must_move(self, step: _Planned, place: int) -> bool:
        name, operation = step.inputs[place], step.operation
        if name not in self._staying or place in operation.on_cpu:
            return False
        return not (operation.scalars and name in self.constants and self.constants[name].ndim == 0)

    def _is_statistic(self, name: str) -> bool:
        return any(place in operation.statistics for operation, place in self._uses.get(name, []))

    def _stay_on_cpu(self) -> set[str]:
        """Names of the values that are on the CPU wherever the module is."""
        staying = {name for name in self.constants if not self.is_weight(name) and not self.is_table(name)}
        for step in self.steps:
            if step.operation.tells_shape or all(name in staying for name in step.inputs if name):
                staying.update(step.outputs)
        return staying

    def _add(self, node: NodeProto) -> None:
        """Takes a node on: its value where it is constant, a step otherwise, its name where it is not reached."""
        standard = node.domain in _STANDARD
        operation = _operation(node)
        if operation is None and not (standard and node.op_type == "Constant"):
            self.missing[node.op_type if standard else f"{node.domain}.{node.op_type}"] += 1
            return
        try:
            if operation is None:
                self.constants[node.output[0]] = _constant(node)
            else:
                self._plan(_Planned(self._built(node, operation), operation, list(node.input), list(node.output)))
        except ValueError as error:
            self.missing[f"{node.op_type} with {error}"] += 1

    def _built(self, node: NodeProto, operation: Operation) -> Run:
        """The function of a node.

        Raises:
            ValueError: It has an attribute or a mode that is not reached; the message is that, in a few words.
        """
        read = [place for place, name in enumerate(node.output) if name in self._read]
        described = Node(
            version=self._version,
            attributes={each.name: helper.get_attribute_value(each) for each in node.attribute},
            given=frozenset(place for place, name in enumerate(node.input) if name),
            constants={place: self.constants[name] for place, name in enumerate(node.input) if self._is_set(name)},
            outputs=len(node.output),
            used=max(read, default=-1) + 1,
        )
        run = operation.build(described)
        if left := described.left_over():
            raise ValueError(", ".join(left))
        return run

    def _plan(self, step: _Planned) -> None:
        names = [name for name in step.inputs if name]
        operation = step.operation
        if names and all(name in self.constants for name in names):
            if operation is OPERATIONS["Identity"]:
                self.constants[step.outputs[0]] = self.constants[names[0]].clone()
                return
            limit = _LARGEST_COMPUTED if operation.size == "product" else math.inf
            small = math.prod(self.constants[name].numel() for name in names) <= limit
            trained = any(self.is_weight(name) or self._is_statistic(name) for name in names)
            if small and not trained and not operation.trains and operation.size != "any":
                self._compute(step)
                return
        self.steps.append(step)

    def _compute(self, step: _Planned) -> None:
        """Makes the outputs of a step constants."""
        try:
            with torch.no_grad():
                result = step.run(*(self.constants[name] if name else None for name in step.inputs))
        except (RuntimeError, IndexError, TypeError) as error:
            raise ValueError(f"inputs that contradict each other ({error})") from None
        for name, value in zip(step.outputs, result if isinstance(result, tuple) else (result,), strict=False):
            self.constants[name] = value.contiguous()

    def _is_set(self, name: str) -> bool:
        """Whether a value is the same for ever: neither computed, nor part of a module's state."""
        return name in self.constants and not self.is_weight(name) and not self.is_table(name)


def _operation(node: NodeProto) -> Operation | None:
    return OPERATIONS.get(node.op_type) if node.domain in _STANDARD else None


def _needed_on_cpu(nodes: Sequence[NodeProto]) -> set[str]:
    """Names of the values that a shape, axes or a count is made of."""
    needed: set[str] = set()
    for node in reversed(nodes):
        operation = _operation(node)
        if operation is None or operation.tells_shape:
            continue
        all_of_it = not needed.isdisjoint(node.output)
        needed.update(name for place, name in enumerate(node.input) if all_of_it or place in operation.on_cpu)
    return needed


def _constant(node: NodeProto) -> Tensor:
    """The value of a `Constant` node."""
    (attribute,) = node.attribute
    value = helper.get_attribute_value(attribute)
    match attribute.name:
        case "value":
            return tensor_of(value)
        case "value_float" | "value_floats":
            return torch.tensor(value, dtype=torch.float32, device="cpu")
        case "value_int" | "value_ints":
            return torch.tensor(value, dtype=torch.int64, device="cpu")
    raise ValueError(attribute.name)
