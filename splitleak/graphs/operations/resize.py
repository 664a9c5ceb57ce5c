"""Resize: every interpolation of ONNX, one axis after another, as a product with its weights."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from splitleak.graphs.operations.node import Node, Operation, Run, places

_COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")
_ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "round_prefer_floor": lambda at: (at - 0.5).ceil(),
    "round_prefer_ceil": lambda at: (at + 0.5).floor(),
    "floor": torch.floor,
    "ceil": torch.ceil,
}


@dataclass(frozen=True)
class _Rule:
    mode: str  # nearest, linear or cubic
    coordinates: str
    rounding: str
    cubic: float
    exclude_outside: bool
    antialias: bool

    def positions(self, size: int, result: int, scale: float, device: torch.device) -> Tensor:
        """Where each element of an axis of ``result`` stands in one of ``size``.

        In single precision, as ONNX Runtime has it: half-way between two elements, that decides which one is nearest.
        """
        at = torch.arange(result, dtype=torch.float32, device=device)
        if self.coordinates == "align_corners":
            return at * (size - 1) / (result - 1) if result > 1 else torch.zeros_like(at)
        if self.coordinates == "asymmetric":
            return at / scale
        if self.coordinates == "pytorch_half_pixel" and result == 1:
            return torch.zeros_like(at)
        moved = (at + 0.5) / scale - 0.5
        if self.coordinates == "half_pixel_symmetric":
            moved = moved + size / 2 * (1 - result / (scale * size))
        return moved

    def chosen(self, size: int, result: int, scale: float, device: torch.device) -> Tensor:
        """The element that is nearest, for each of ``result``."""
        return _ROUNDINGS[self.rounding](self.positions(size, result, scale, device)).clamp(0, size - 1).long()

    def weights(self, size: int, result: int, scale: float, device: torch.device) -> Tensor:
        """The share of each element of an axis in each of the result, ``(result, size)``."""
        at = self.positions(size, result, scale, device).double()
        shrink = min(scale, 1.0) if self.antialias else 1.0
        reach = math.ceil((2 if self.mode == "cubic" else 1) / shrink)
        near = at.floor().long()[:, None] + torch.arange(1 - reach, reach + 1, device=device)
        shares = self._kernel((at[:, None] - near).abs() * shrink)
        outside = (near < 0) | (near >= size)
        if self.exclude_outside:
            shares = torch.where(outside, 0.0, shares)
        if self.exclude_outside or self.antialias:
            shares = shares / shares.sum(1, keepdim=True)
        table = torch.zeros(result, size, dtype=torch.float64, device=device)
        return table.scatter_add(1, near.clamp(0, size - 1), shares)

    def _kernel(self, far: Tensor) -> Tensor:
        if self.mode == "linear":
            return (1 - far).clamp(min=0)
        a = self.cubic
        inner = ((a + 2) * far - (a + 3)) * far**2 + 1
        outer = a * (((far - 5) * far + 8) * far - 4)
        return torch.where(far <= 1, inner, torch.where(far < 2, outer, 0.0))


def _result_sizes(sizes: list[int], scales: list[float], policy: str) -> tuple[list[int], list[float]]:
    """Sizes and scales where the proportions are kept."""
    scale = min(scales) if policy == "not_larger" else max(scales)
    return [math.floor(scale * size + 0.5) for size in sizes], [scale] * len(sizes)


def _resize(node: Node) -> Run:
    rule = _Rule(
        mode=node.text("mode", "nearest", ("nearest", "linear", "cubic")),
        coordinates=node.text(
            "coordinate_transformation_mode", "half_pixel" if node.version > 10 else "asymmetric", _COORDINATES
        ),
        rounding=node.text("nearest_mode", "round_prefer_floor" if node.version > 10 else "floor", tuple(_ROUNDINGS)),
        cubic=node.number("cubic_coeff_a", -0.75),
        exclude_outside=bool(node.integer("exclude_outside", 0)),
        antialias=bool(node.integer("antialias", 0)),
    )
    node.ignore("extrapolation_value")  # of coordinates outside, which no mode reached has
    policy = node.text("keep_aspect_ratio_policy", "stretch", ("stretch", "not_larger", "not_smaller"))
    axes, fixed_scales = node.integers("axes"), node.numbers("scales")
    place_of_scales = 2 if node.version > 10 else 1

    def resize(value: Tensor, *inputs: Tensor | None) -> Tensor:
        given = inputs[place_of_scales - 1] if len(inputs) >= place_of_scales else None
        along = [axis % value.ndim for axis in axes] if axes is not None else list(range(value.ndim))
        before = [int(value.shape[axis]) for axis in along]
        if fixed_scales is not None or (given is not None and given.numel()):
            scales = fixed_scales or [float(scale) for scale in (() if given is None else given.tolist())]
            after = [math.floor(size * scale) for size, scale in zip(before, scales, strict=True)]
        else:
            asked = inputs[2]
            after = [] if asked is None else asked.tolist()
            scales = [size / old for size, old in zip(after, before, strict=True)]
            if policy != "stretch":
                after, scales = _result_sizes(before, scales, policy)
        changed = [row for row in zip(along, before, after, scales, strict=True) if row[1] != row[2] or row[3] != 1]
        return _by_torch(value, rule, changed) if _torch_has(value, rule, changed) else _by_axis(value, rule, changed)

    return resize


_Changes = list[tuple[int, int, int, float]]  # of an axis: its number, its size before and after, the scale


def _torch_has(value: Tensor, rule: _Rule, changed: _Changes) -> bool:
    exact = all(axis >= value.ndim - 2 and abs(before * scale - after) < 1e-6 for axis, before, after, scale in changed)
    if not exact or value.ndim != 4 or not value.is_floating_point() or rule.antialias:
        return False
    if rule.mode == "nearest":
        return (rule.coordinates, rule.rounding) == ("asymmetric", "floor")
    if rule.mode != "linear":
        return False
    return rule.coordinates in ("half_pixel", "align_corners") or (
        rule.coordinates == "pytorch_half_pixel" and all(after > 1 for _, _, after, _ in changed)
    )


def _by_torch(value: Tensor, rule: _Rule, changed: _Changes) -> Tensor:
    sizes = list(value.shape)
    for axis, _, after, _ in changed:
        sizes[axis] = after
    if rule.mode == "nearest":
        return functional.interpolate(value, sizes[2:], mode="nearest")
    corners = rule.coordinates == "align_corners"
    return functional.interpolate(value, sizes[2:], mode="bilinear", align_corners=corners)


def _by_axis(value: Tensor, rule: _Rule, changed: _Changes) -> Tensor:
    # A GPU divides by a number by multiplying with its inverse, which is another one half-way between two elements.
    device = value.device if value.is_meta else torch.device("cpu")
    for axis, before, after, scale in changed:
        if rule.mode == "nearest":
            value = value.index_select(axis, rule.chosen(before, after, scale, device).to(value.device))
        else:
            weights = rule.weights(before, after, scale, device).to(value.dtype).to(value.device)
            value = (value.transpose(axis, -1) @ weights.T).transpose(axis, -1)
    return value


OPERATIONS: dict[str, Operation] = {
    "Resize": Operation(_resize, on_cpu=places(1, 2, 3), size="any"),
    "Upsample": Operation(_resize, on_cpu=places(1), size="any"),
}
