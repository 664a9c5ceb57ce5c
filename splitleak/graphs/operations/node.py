"""What an operation is built from (a node of the graph), and what it is built into (a function of tensors)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor

Run = Callable[..., Any]
"""Input tensors, None for those left out, to a tensor or, for several outputs, a tuple."""

DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}


def dtype_of(kind: int) -> torch.dtype:
    """The torch type of an ONNX element type.

    Raises:
        ValueError: Torch computes with no such elements; the message names it.
    """
    if kind not in DTYPES:
        raise ValueError(f"elements {TensorProto.DataType.Name(kind)}")
    return DTYPES[kind]


def tensor_of(value: TensorProto) -> Tensor:
    """The value of an ONNX tensor whose data is in memory, copied.

    Raises:
        ValueError: Torch has no such elements.
    """
    dtype = dtype_of(value.data_type)
    array = numpy_helper.to_array(value)
    if dtype is torch.bfloat16:
        return torch.from_numpy(array.astype("float32")).to(dtype)
    return torch.from_numpy(array.copy())


@dataclass
class Node:
    """One node of a graph, as the builder of its operation reads it.

    A builder takes each attribute that it honours; one that is left over is an attribute that is not reached. What it
    does not reach otherwise, it raises a ValueError for that says the mode in a few words.
    """

    version: int  # the model's opset
    attributes: Mapping[str, Any]
    given: frozenset[int]  # positions of the inputs that are not left out
    constants: Mapping[int, Tensor]  # by position, the inputs that never change
    outputs: int  # how many it names
    used: int  # how many of them, up to the last that something reads
    taken: set[str] = field(default_factory=set)

    def ignore(self, *names: str) -> None:
        """Takes attributes that change nothing here."""
        self.taken.update(names)

    def integer(self, name: str, default: int) -> int:
        return int(self._take(name, default))

    def number(self, name: str, default: float) -> float:
        return float(self._take(name, default))

    def text(self, name: str, default: str, among: tuple[str, ...] = ()) -> str:
        """A word, one of ``among``.

        Raises:
            ValueError: It is none of them.
        """
        value = self._take(name, default.encode()).decode(errors="replace")
        if among and value not in among:
            raise ValueError(f"{name}={value}")
        return str(value)

    def integers(self, name: str) -> list[int] | None:
        value = self._take(name, None)
        return None if value is None else [int(number) for number in value]

    def numbers(self, name: str) -> list[float] | None:
        value = self._take(name, None)
        return None if value is None else [float(number) for number in value]

    def tensor(self, name: str) -> Tensor | None:
        value = self._take(name, None)
        return None if value is None else tensor_of(value)

    def scalar(self, position: int) -> float | None:
        """The number that an input always has; None where it is computed, or holds several."""
        value = self.constants.get(position)
        return value.item() if value is not None and value.numel() == 1 else None

    def refuse(self, name: str, *defaults: int) -> None:
        """Takes an attribute that is reached at its default only.

        Raises:
            ValueError: It has another value.
        """
        if (value := self.integer(name, defaults[0])) not in defaults:
            raise ValueError(f"{name}={value}")

    def only(self, outputs: int) -> None:
        """Raises ValueError where more than the first ``outputs`` are used."""
        if self.used > outputs:
            raise ValueError(f"output {outputs + 1}")

    def left_over(self) -> list[str]:
        """Names of the attributes that nothing took."""
        return sorted(self.attributes.keys() - self.taken)

    def _take(self, name: str, default: Any) -> Any:  # noqa: ANN401 -- an attribute is a number, a word, a tensor...
        self.taken.add(name)
        return self.attributes.get(name, default)


def sides(value: Tensor) -> list[int]:
    """The sizes of the axes after the first two, as plain numbers in an export, too: only batches vary."""
    return [*map(int, value.shape[2:])]


Build = Callable[[Node], Run]


@dataclass(frozen=True)
class Operation:
    """How to build a node's function, and what its inputs are to it, by position.

    Inputs that say a shape, axes or a count stay on the CPU (``on_cpu``). ``weights`` are trained whatever their size,
    ``statistics`` are updated in training, ``fixed`` are not trained. ``scalars``: takes a number on the CPU beside
    tensors on another device. ``trains``: behaves otherwise in training mode, and is called with ``training``.
    ``tells_shape``: reads no element. ``size``: an output is at most as large as the first input, as the product of
    all inputs' sizes, or of any size.
    """

    build: Build
    on_cpu: frozenset[int] = frozenset()
    weights: frozenset[int] = frozenset()
    statistics: frozenset[int] = frozenset()
    fixed: frozenset[int] = frozenset()
    scalars: bool = False
    trains: bool = False
    tells_shape: bool = False
    size: Literal["first", "product", "any"] = "product"


def places(*positions: int) -> frozenset[int]:
    """Positions of inputs."""
    return frozenset(positions)
