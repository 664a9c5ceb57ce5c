"""Operations on each element by itself: functions of one value, of two, comparisons, casts and quantisation."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from splitleak.graphs.operations.node import Build, Node, Operation, Run, dtype_of, places

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": functional.hardswish,
    "Identity": lambda value: value,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": functional.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": functional.softplus,
    "Softsign": functional.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}


def _div(left: Tensor, right: Tensor) -> Tensor:
    if left.is_floating_point() or right.is_floating_point():
        return left / right
    return torch.div(left, right, rounding_mode="trunc")


_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "Div": _div,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}

_VARIADIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Max": torch.maximum,
    "Min": torch.minimum,
    "Sum": torch.add,
}


def _plain(function: Run) -> Build:
    """The builder of an operation without attributes."""

    def build(node: Node) -> Run:
        node.ignore("consumed_inputs")  # of opset 1, which computed in place
        return function

    return build


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Run:
    return lambda *values: functools.reduce(function, values)


def _mean(*values: Tensor) -> Tensor:
    return functools.reduce(torch.add, values) / len(values)


def _mod(node: Node) -> Run:
    return torch.fmod if node.integer("fmod", 0) else torch.remainder


def _pow(node: Node) -> Run:
    exponent = node.scalar(1)
    if exponent is not None:
        return lambda base, _: torch.pow(base, exponent).to(base.dtype)
    return lambda base, power: torch.pow(base, power).to(base.dtype)


def _celu(node: Node) -> Run:
    alpha = node.number("alpha", 1.0)
    return lambda value: functional.celu(value, alpha)


def _elu(node: Node) -> Run:
    alpha = node.number("alpha", 1.0)
    return lambda value: functional.elu(value, alpha)


def _selu(node: Node) -> Run:
    alpha, gamma = node.number("alpha", 1.67326319217681884765625), node.number("gamma", 1.05070102214813232421875)
    return lambda value: gamma * functional.elu(value, alpha)


def _leaky_relu(node: Node) -> Run:
    alpha = node.number("alpha", 0.01)
    return lambda value: functional.leaky_relu(value, alpha)


def _thresholded_relu(node: Node) -> Run:
    alpha = node.number("alpha", 1.0)
    return lambda value: torch.where(value > alpha, value, 0.0)


def _hard_sigmoid(node: Node) -> Run:
    alpha, beta = node.number("alpha", 0.2), node.number("beta", 0.5)
    return lambda value: (alpha * value + beta).clamp(0, 1)


def _swish(node: Node) -> Run:
    alpha = node.number("alpha", 1.0)
    return lambda value: value * torch.sigmoid(alpha * value)


def _gelu(node: Node) -> Run:
    approximate = node.text("approximate", "none", ("none", "tanh"))
    return lambda value: functional.gelu(value, approximate=approximate)


def _prelu(value: Tensor, slope: Tensor) -> Tensor:
    return torch.where(value < 0, slope * value, value)


def _clip(node: Node) -> Run:
    if node.version < 11:
        least, most = node.attributes.get("min"), node.attributes.get("max")
        node.ignore("min", "max")
        return lambda value: value if least is None and most is None else value.clamp(least, most)
    bounds = [node.scalar(position) for position in (1, 2)]
    if all(bound is not None or place not in node.given for place, bound in enumerate(bounds, start=1)):
        if bounds == [None, None]:
            return lambda value, *_: value
        return lambda value, *_: value.clamp(*bounds)

    def clip(value: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
        value = value if low is None else torch.maximum(value, low)
        return value if high is None else torch.minimum(value, high)

    return clip


def _cast(node: Node) -> Run:
    node.ignore("saturate", "round_mode")  # of elements that are not reached
    dtype = dtype_of(node.integer("to", 0))
    return lambda value: value.to(dtype)


def _cast_like(node: Node) -> Run:
    node.ignore("saturate", "round_mode")
    return lambda value, like: value.to(like.dtype)


def _is_inf(node: Node) -> Run:
    negative, positive = node.integer("detect_negative", 1), node.integer("detect_positive", 1)
    if negative and positive:
        return torch.isinf
    if negative or positive:
        return torch.isneginf if negative else torch.isposinf
    return lambda value: torch.zeros_like(value, dtype=torch.bool)


def _dropout(node: Node) -> Run:
    """With its ratio in training mode, nothing otherwise, whatever mode the file was written in."""
    node.only(1)
    node.ignore("seed", "is_test")
    given = node.number("ratio", 0.5)
    constant = node.scalar(1)
    if constant is None and 1 in node.given:
        raise ValueError("a computed ratio")
    ratio = given if constant is None else constant
    return lambda value, *_, training: functional.dropout(value, ratio, training=training)


def _along(value: Tensor, axis: int, like: Tensor) -> Tensor:
    """One number an index of ``axis``, in the shape that goes with ``like``."""
    if value.numel() == 1 and value.ndim <= 1:
        return value.reshape(())
    if value.ndim != 1:
        return value
    shape = [1] * like.ndim
    shape[axis] = -1
    return value.reshape(shape)


def _quantize(node: Node) -> Run:
    """The whole numbers as floats, so that a gradient goes straight through the rounding."""
    node.refuse("block_size", 0)
    node.refuse("precision", 0, 1)
    node.ignore("saturate")
    axis, asked = node.integer("axis", 1), node.integer("output_dtype", 0)
    default = dtype_of(asked) if asked else torch.uint8
    for dtype in {value.dtype for place, value in node.constants.items() if place == 2} | {default}:
        if dtype.is_floating_point:
            raise ValueError(f"output_dtype={dtype}")

    def quantize(value: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        bounds = torch.iinfo(default if zero is None else zero.dtype)
        scaled = value / _along(scale, axis, value)
        rounded = scaled + (scaled.round() - scaled).detach()
        moved = rounded if zero is None else rounded + _along(zero, axis, value)
        return moved.clamp(bounds.min, bounds.max)

    return quantize


def _dequantize(node: Node) -> Run:
    node.refuse("block_size", 0)
    axis, asked = node.integer("axis", 1), node.integer("output_dtype", 0)
    dtype = dtype_of(asked) if asked else None

    def dequantize(value: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        value = value.to(dtype or scale.dtype)
        moved = value if zero is None else value - _along(zero, axis, value).to(value.dtype)
        return moved * _along(scale, axis, value)

    return dequantize


OPERATIONS: dict[str, Operation] = {
    **{name: Operation(_plain(function)) for name, function in _UNARY.items()},
    **{name: Operation(_plain(function), scalars=True) for name, function in _BINARY.items()},
    **{name: Operation(_plain(_variadic(function)), scalars=True) for name, function in _VARIADIC.items()},
    "Cast": Operation(_cast, size="first"),
    "CastLike": Operation(_cast_like, fixed=places(1), scalars=True),
    "Celu": Operation(_celu),
    "Clip": Operation(_clip, fixed=places(1, 2), scalars=True),
    "DequantizeLinear": Operation(_dequantize, fixed=places(1, 2), scalars=True, size="first"),
    "Dropout": Operation(_dropout, fixed=places(1, 2), scalars=True, trains=True),
    "Elu": Operation(_elu),
    "Gelu": Operation(_gelu),
    "HardSigmoid": Operation(_hard_sigmoid),
    "IsInf": Operation(_is_inf),
    "LeakyRelu": Operation(_leaky_relu),
    "Mean": Operation(_plain(_mean), scalars=True),
    "Mod": Operation(_mod, scalars=True),
    "PRelu": Operation(_plain(_prelu), weights=places(1)),
    "Pow": Operation(_pow, fixed=places(1), scalars=True),
    "QuantizeLinear": Operation(_quantize, fixed=places(1, 2), scalars=True),
    "Selu": Operation(_selu),
    "Swish": Operation(_swish),
    "ThresholdedRelu": Operation(_thresholded_relu),
    "Where": Operation(_plain(torch.where), scalars=True),
}
