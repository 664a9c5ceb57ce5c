"""Operations that move elements and compute none: reshaping, cutting, joining, looking up, padding."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from splitleak.graphs.operations.node import Node, Operation, Run, places


def _sizes(shape: Tensor) -> list[Any]:
    """The numbers that a tensor of sizes holds; in an export, such as follow from what the graph is given."""
    return [*shape.unbind()] if torch.onnx.is_in_onnx_export() else shape.tolist()


def _reshape(node: Node) -> Run:
    keeps_zeros = bool(node.integer("allowzero", 0))

    def reshape(value: Tensor, shape: Tensor) -> Tensor:
        sizes = _sizes(shape)
        if not keeps_zeros:
            sizes = [value.shape[place] if size == 0 else size for place, size in enumerate(sizes)]
        return value.reshape(sizes)

    return reshape


def _flatten(node: Node) -> Run:
    axis = node.integer("axis", 1)

    def flatten(value: Tensor) -> Tensor:
        return value.reshape(math.prod(value.shape[:axis]), math.prod(value.shape[axis:]))

    return flatten


def _transpose(node: Node) -> Run:
    order = node.integers("perm")
    if order is None:
        return lambda value: value.permute(*reversed(range(value.ndim)))
    return lambda value: value.permute(order)


def _squeeze(node: Node) -> Run:
    fixed = node.integers("axes") if node.version < 13 else None

    def squeeze(value: Tensor, axes: Tensor | None = None) -> Tensor:
        gone = fixed if axes is None else axes.tolist()
        return value.squeeze() if gone is None else value.squeeze(tuple(gone))

    return squeeze


def _unsqueeze(node: Node) -> Run:
    fixed = (node.integers("axes") if node.version < 13 else None) or []

    def unsqueeze(value: Tensor, axes: Tensor | None = None) -> Tensor:
        new = fixed if axes is None else axes.tolist()
        ndim = value.ndim + len(new)
        for axis in sorted(axis % ndim for axis in new):
            value = value.unsqueeze(axis)
        return value

    return unsqueeze


def _concat(node: Node) -> Run:
    axis = node.integer("axis", 1)
    return lambda *values: torch.cat(values, axis)


def _split(node: Node) -> Run:
    axis, count = node.integer("axis", 0), node.outputs
    fixed = node.integers("split") if node.version < 13 else None
    node.ignore("num_outputs")  # the outputs themselves say as much

    def split(value: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        parts = fixed if sizes is None else sizes.tolist()
        if parts is None:
            whole = int(value.shape[axis])
            each = -(-whole // count)
            parts = [min(each, max(whole - each * place, 0)) for place in range(count)]
        return torch.split(value, parts, axis)

    return split


def _cut(value: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    kept = range(*slice(start, end, step).indices(value.shape[axis]))
    if step == 1 or not kept:
        return value.narrow(axis, kept.start if kept else 0, len(kept))
    if step > 0:
        return value[(slice(None),) * (axis % value.ndim) + (slice(kept.start, kept.stop, step),)]
    return value.index_select(axis, torch.arange(kept.start, kept.stop, step, device=value.device))


def _slice(node: Node) -> Run:
    if node.version < 10:
        starts, ends, fixed = node.integers("starts") or [], node.integers("ends") or [], node.integers("axes")
        along = list(range(len(starts))) if fixed is None else fixed

        def slice_of(value: Tensor) -> Tensor:
            for axis, start, end in zip(along, starts, ends, strict=True):
                value = _cut(value, axis, start, end, 1)
            return value

        return slice_of

    def slice_by(
        value: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
    ) -> Tensor:
        first, last = starts.tolist(), ends.tolist()
        along = range(len(first)) if axes is None else axes.tolist()
        strides = [1] * len(first) if steps is None else steps.tolist()
        for axis, start, end, step in zip(along, first, last, strides, strict=True):
            value = _cut(value, axis, start, end, step)
        return value

    return slice_by


def _counted(indices: Tensor, size: int) -> Tensor:
    """Indices from the end as those from the start."""
    return torch.where(indices < 0, indices + size, indices)


def _gather(node: Node) -> Run:
    axis, constant = node.integer("axis", 0), node.constants.get(1)
    if constant is not None and constant.ndim == 0:
        place = int(constant)
        return lambda value, _: value.select(axis, place)

    def gather(value: Tensor, indices: Tensor) -> Tensor:
        at = axis % value.ndim
        chosen = value.index_select(at, _counted(indices, value.shape[at]).reshape(-1))
        return chosen.reshape(*value.shape[:at], *indices.shape, *value.shape[at + 1 :])

    return gather


def _gather_elements(node: Node) -> Run:
    axis = node.integer("axis", 0)
    return lambda value, indices: value.gather(axis, _counted(indices, value.shape[axis]).long())


def _gather_nd(node: Node) -> Run:
    batch = node.integer("batch_dims", 0)

    def gather(value: Tensor, indices: Tensor) -> Tensor:
        lead = indices.ndim - 1
        first = [
            torch.arange(value.shape[axis], device=value.device).reshape(
                [-1 if at == axis else 1 for at in range(lead)]
            )
            for axis in range(batch)
        ]
        return value[(*first, *indices.unbind(-1))]

    return gather


def _scatter_elements(node: Node) -> Run:
    axis = node.integer("axis", 0)
    reduction = node.text("reduction", "none", ("none", "add", "mul", "max", "min"))
    kinds = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}

    def scatter(value: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        at, updates = _counted(indices, value.shape[axis]).long(), updates.to(value.dtype)
        if reduction == "none":
            return value.scatter(axis, at, updates)
        return value.scatter_reduce(axis, at, updates, kinds[reduction])

    return scatter


def _scatter_nd(node: Node) -> Run:
    adds = node.text("reduction", "none", ("none", "add")) == "add"

    def scatter(value: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        return value.index_put(indices.unbind(-1), updates.to(value.dtype), accumulate=adds)

    return scatter


def _expand(node: Node) -> Run:
    def expand(value: Tensor, shape: Tensor) -> Tensor:
        sizes = _sizes(shape)
        new = len(sizes) - value.ndim  # axes that it adds; below 0, leading axes that it says nothing of
        wanted = (size if place < new or size != 1 else -1 for place, size in enumerate(sizes))
        return value.expand(*[-1] * -new, *wanted)

    return expand


def _tile(node: Node) -> Run:
    return lambda value, times: value.repeat(_sizes(times))


def _shape(node: Node) -> Run:
    start, end = node.integer("start", 0), node.integer("end", 2**31)

    def shape(value: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            return torch._shape_as_tensor(value)[start:end]
        return torch.tensor(value.shape[start:end], dtype=torch.int64, device="cpu")

    return shape


def _size(node: Node) -> Run:
    def size(value: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            return torch._shape_as_tensor(value).prod()
        return torch.tensor(value.numel(), dtype=torch.int64, device="cpu")

    return size


def _constant_of_shape(node: Node) -> Run:
    given = node.tensor("value")
    value = torch.zeros((), device="cpu") if given is None else given.reshape(())
    return lambda shape: value.expand(_sizes(shape))


def _range(node: Node) -> Run:
    def numbers(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
        count = max(math.ceil((limit.item() - start.item()) / delta.item()), 0)
        return start + delta * torch.arange(count, device="cpu").to(start.dtype)

    return numbers


def _trilu(node: Node) -> Run:
    keep = torch.triu if node.integer("upper", 1) else torch.tril
    return lambda value, diagonal=None: keep(value, 0 if diagonal is None else int(diagonal))


def _depth_to_space(node: Node) -> Run:
    block, rows_first = node.integer("blocksize", 1), node.text("mode", "DCR", ("DCR", "CRD")) == "CRD"

    def spread(value: Tensor) -> Tensor:
        if rows_first:
            return functional.pixel_shuffle(value, block)
        count, depth, height, width = value.shape
        parts = value.reshape(count, block, block, depth // block**2, height, width).permute(0, 3, 4, 1, 5, 2)
        return parts.reshape(count, depth // block**2, height * block, width * block)

    return spread


def _space_to_depth(node: Node) -> Run:
    block, rows_first = node.integer("blocksize", 1), node.text("mode", "DCR", ("DCR", "CRD")) == "CRD"

    def stack(value: Tensor) -> Tensor:
        if rows_first:
            return functional.pixel_unshuffle(value, block)
        count, depth, height, width = value.shape
        parts = value.reshape(count, depth, height // block, block, width // block, block).permute(0, 3, 5, 1, 2, 4)
        return parts.reshape(count, depth * block**2, height // block, width // block)

    return stack


def _border(mode: str, before: int, after: int, size: int, device: torch.device) -> Tensor:
    """Which element stands where along an axis that is padded by what is there."""
    at = torch.arange(-before, size + after, device=device)
    if mode == "edge":
        return at.clamp(0, size - 1)
    if mode == "wrap":
        return at % size
    period = max(2 * (size - 1), 1)
    return (at % period - (size - 1)).abs().neg() + (size - 1)


def _padded(value: Tensor, pads: Sequence[int], axes: Sequence[int], mode: str, fill: float) -> Tensor:
    half = len(axes)
    widths = {axis % value.ndim: (pads[place], pads[place + half]) for place, axis in enumerate(axes)}
    if mode == "constant":
        sides = [side for axis in reversed(range(value.ndim)) for side in widths.get(axis, (0, 0))]
        return functional.pad(value, sides, value=fill)
    for axis, (before, after) in widths.items():
        if before or after:
            value = value.index_select(axis, _border(mode, before, after, value.shape[axis], value.device))
    return value


def _pad(node: Node) -> Run:
    mode = node.text("mode", "constant", ("constant", "reflect", "edge", "wrap"))
    if node.version < 11:
        fixed, filling = node.integers("pads") or [], node.number("value", 0.0)
        return lambda value: _padded(value, fixed, range(value.ndim), mode, filling)

    def pad(value: Tensor, pads: Tensor, fill: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
        along = range(value.ndim) if axes is None else axes.tolist()
        return _padded(value, pads.tolist(), along, mode, 0.0 if fill is None else fill.item())

    return pad


OPERATIONS: dict[str, Operation] = {
    "Concat": Operation(_concat),
    "ConstantOfShape": Operation(_constant_of_shape, on_cpu=places(0), size="any"),
    "DepthToSpace": Operation(_depth_to_space),
    "Expand": Operation(_expand, on_cpu=places(1), size="any"),
    "Flatten": Operation(_flatten, size="first"),
    "Gather": Operation(_gather),
    "GatherElements": Operation(_gather_elements),
    "GatherND": Operation(_gather_nd),
    "Pad": Operation(_pad, on_cpu=places(1, 2, 3), size="any"),
    "Range": Operation(_range, on_cpu=places(0, 1, 2), size="any"),
    "Reshape": Operation(_reshape, on_cpu=places(1), size="first"),
    "ScatterElements": Operation(_scatter_elements),
    "ScatterND": Operation(_scatter_nd),
    "Shape": Operation(_shape, tells_shape=True),
    "Size": Operation(_size, tells_shape=True),
    "Slice": Operation(_slice, on_cpu=places(1, 2, 3, 4)),
    "SpaceToDepth": Operation(_space_to_depth),
    "Split": Operation(_split, on_cpu=places(1)),
    "Squeeze": Operation(_squeeze, on_cpu=places(1), size="first"),
    "Tile": Operation(_tile, on_cpu=places(1), size="any"),
    "Transpose": Operation(_transpose, size="first"),
    "Trilu": Operation(_trilu, on_cpu=places(1)),
    "Unsqueeze": Operation(_unsqueeze, on_cpu=places(1), size="first"),
}
