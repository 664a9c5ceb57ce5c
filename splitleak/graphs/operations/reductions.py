"""Operations over whole axes: sums, extremes, norms, softmax, ranking."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from splitleak.graphs.operations.node import Build, Node, Operation, Run, places

_Axes = tuple[int, ...]
_Reduction = Callable[[Tensor, _Axes, bool], Tensor]


def _prod(value: Tensor, axes: _Axes, keeps: bool) -> Tensor:
    for axis in sorted((axis % value.ndim for axis in axes), reverse=True):
        value = value.prod(axis, keepdim=keeps)
    return value


def _mean(value: Tensor, axes: _Axes, keeps: bool) -> Tensor:
    if value.is_floating_point():
        return value.mean(axes, keepdim=keeps)
    return value.sum(axes, keepdim=keeps) // math.prod(value.shape[axis] for axis in axes)


def _sum(value: Tensor, axes: _Axes, keeps: bool) -> Tensor:
    return value.sum(axes, keepdim=keeps, dtype=value.dtype)


_REDUCTIONS: dict[str, _Reduction] = {
    "ReduceL1": lambda value, axes, keeps: _sum(value.abs(), axes, keeps),
    "ReduceL2": lambda value, axes, keeps: torch.linalg.vector_norm(value, dim=axes, keepdim=keeps),
    "ReduceLogSum": lambda value, axes, keeps: _sum(value, axes, keeps).log(),
    "ReduceLogSumExp": lambda value, axes, keeps: torch.logsumexp(value, axes, keepdim=keeps),
    "ReduceMax": lambda value, axes, keeps: value.amax(axes, keepdim=keeps),
    "ReduceMean": _mean,
    "ReduceMin": lambda value, axes, keeps: value.amin(axes, keepdim=keeps),
    "ReduceProd": _prod,
    "ReduceSum": _sum,
    "ReduceSumSquare": lambda value, axes, keeps: _sum(value.square(), axes, keeps),
}


def _reduction(function: _Reduction) -> Build:
    """The builder of a reduction; its axes are an attribute in older versions and an input in newer ones."""

    def build(node: Node) -> Run:
        keeps, none_is_none = bool(node.integer("keepdims", 1)), bool(node.integer("noop_with_empty_axes", 0))
        fixed = node.integers("axes")

        def reduce(value: Tensor, axes: Tensor | None = None) -> Tensor:
            along = (fixed or []) if axes is None else axes.tolist()
            if along:
                return function(value, tuple(along), keeps)
            return value if none_is_none or value.ndim == 0 else function(value, tuple(range(value.ndim)), keeps)

        return reduce

    return build


def _arg(function: Callable[..., Tensor]) -> Build:
    def build(node: Node) -> Run:
        axis, keeps = node.integer("axis", 0), bool(node.integer("keepdims", 1))
        last = bool(node.integer("select_last_index", 0))

        def place(value: Tensor) -> Tensor:
            if last:
                return value.shape[axis] - 1 - function(value.flip(axis), axis, keepdim=keeps)
            return function(value, axis, keepdim=keeps)

        return place

    return build


def _softmax(function: Callable[[Tensor, int], Tensor]) -> Build:
    """The builder of a softmax: over one axis since opset 13, over that and all after it before."""

    def build(node: Node) -> Run:
        if node.version >= 13:
            axis = node.integer("axis", -1)
            return lambda value: function(value, axis)
        start = node.integer("axis", 1)
        return lambda value: function(value.flatten(start), -1).reshape(value.shape)

    return build


def _top_k(node: Node) -> Run:
    axis, largest, ordered = node.integer("axis", -1), bool(node.integer("largest", 1)), bool(node.integer("sorted", 1))
    if node.version < 10:
        fixed = node.integer("k", 1)
        return lambda value: tuple(torch.topk(value, fixed, axis))
    return lambda value, count: tuple(torch.topk(value, int(count), axis, largest, ordered))


def _cum_sum(node: Node) -> Run:
    exclusive, backwards = bool(node.integer("exclusive", 0)), bool(node.integer("reverse", 0))

    def cum_sum(value: Tensor, along: Tensor) -> Tensor:
        axis = int(along)
        value = value.flip(axis) if backwards else value
        total = value.cumsum(axis, dtype=value.dtype)
        total = total - value if exclusive else total
        return total.flip(axis) if backwards else total

    return cum_sum


def _global_average(value: Tensor) -> Tensor:
    return value.mean(tuple(range(2, value.ndim)), keepdim=True)


def _global_max(value: Tensor) -> Tensor:
    return value.amax(tuple(range(2, value.ndim)), keepdim=True)


OPERATIONS: dict[str, Operation] = {
    **{name: Operation(_reduction(function), on_cpu=places(1)) for name, function in _REDUCTIONS.items()},
    "ArgMax": Operation(_arg(torch.argmax)),
    "ArgMin": Operation(_arg(torch.argmin)),
    "CumSum": Operation(_cum_sum, on_cpu=places(1)),
    "GlobalAveragePool": Operation(lambda _: _global_average),
    "GlobalMaxPool": Operation(lambda _: _global_max),
    "LogSoftmax": Operation(_softmax(torch.log_softmax)),
    "Softmax": Operation(_softmax(torch.softmax)),
    "TopK": Operation(_top_k, on_cpu=places(1)),
}
