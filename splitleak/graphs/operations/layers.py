"""Operations with weights, and the pools: convolutions, products, normalisations."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from splitleak.graphs.operations.node import Node, Operation, Run, places, sides

_AUTO = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")

_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}
_MAX_POOLS: dict[int, Callable[..., Tensor]] = {
    1: functional.max_pool1d,
    2: functional.max_pool2d,
    3: functional.max_pool3d,
}
_AVERAGE_POOLS: dict[int, Callable[..., Tensor]] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}

_Sides = list[tuple[int, int]]


def _spread(sides: _Sides) -> list[int]:
    """Padding of each axis in the order of `functional.pad`."""
    return [width for pair in reversed(sides) for width in pair]


def _same(total: int, upper: bool) -> tuple[int, int]:
    return (total // 2, total - total // 2) if upper else (total - total // 2, total // 2)


class _Window:
    """The window of a convolution or pool: its strides, dilations and padding, for inputs of any size."""

    def __init__(self, node: Node, dims: int | None) -> None:
        """Reads the attributes; ``dims`` is the number of spatial axes, None where only the weights tell."""
        self.kernel = node.integers("kernel_shape")
        self._strides, self._dilations = node.integers("strides"), node.integers("dilations")
        self.auto = node.text("auto_pad", "NOTSET", _AUTO)
        pads = node.integers("pads")
        lengths = {len(given) for given in (self._strides, self._dilations, self.kernel) if given is not None}
        if pads is not None:
            lengths.add(len(pads) // 2)
        if len(lengths) > 1 or (dims is not None and lengths - {dims}):
            raise ValueError(f"a window of {sorted(lengths)} axes")
        half = len(pads) // 2 if pads else 0
        self.pads = list(zip(pads[:half], pads[half:], strict=True)) if pads and self.auto == "NOTSET" else None

    def strides(self, dims: int) -> list[int]:
        return self._strides or [1] * dims

    def dilations(self, dims: int) -> list[int]:
        return self._dilations or [1] * dims

    def alike(self, dims: int) -> list[int] | None:
        """The padding where it is the same on both sides; None where it is not, or depends on the input's size."""
        if self.auto == "VALID" or (self.pads is None and self.auto == "NOTSET"):
            return [0] * dims
        if self.pads is None or any(before != after for before, after in self.pads):
            return None
        return [before for before, _ in self.pads]

    def sides(self, sizes: Sequence[int], kernel: Sequence[int]) -> _Sides:
        """The padding before and after each spatial axis of an input of ``sizes``."""
        if self.auto.startswith("SAME"):
            reach = zip(sizes, kernel, self.strides(len(sizes)), self.dilations(len(sizes)), strict=True)
            totals = [max((-(-size // step) - 1) * step + (k - 1) * far + 1 - size, 0) for size, k, step, far in reach]
            return [_same(total, self.auto == "SAME_UPPER") for total in totals]
        return self.pads or [(0, 0)] * len(sizes)


def _conv(node: Node) -> Run:
    window, groups = _Window(node, None), node.integer("group", 1)

    def convolve(value: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        dims = weight.ndim - 2
        padding = window.alike(dims)
        if padding is None:
            value = functional.pad(value, _spread(window.sides(sides(value), sides(weight))))
            padding = [0] * dims
        function = _CONVOLUTIONS[dims]
        return function(value, weight, bias, window.strides(dims), padding, window.dilations(dims), groups)

    return convolve


def _conv_transpose(node: Node) -> Run:
    window, groups = _Window(node, None), node.integer("group", 1)
    extra, shape = node.integers("output_padding"), node.integers("output_shape")

    def cropped(sizes: Sequence[int], whole: Sequence[int]) -> _Sides:
        """What to cut of an unpadded output of ``whole``, on both sides, for an input of ``sizes``."""
        if shape is None and not window.auto.startswith("SAME"):
            return window.sides(sizes, ())
        strides = window.strides(len(sizes))
        asked = shape or [size * stride for size, stride in zip(sizes, strides, strict=True)]
        totals = [is_size - size for is_size, size in zip(whole, asked[-len(sizes) :], strict=True)]
        return [_same(total, window.auto == "SAME_UPPER") for total in totals]

    def convolve(value: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        dims = weight.ndim - 2
        padding = window.alike(dims) if shape is None else None
        options = (window.strides(dims), padding or [0] * dims, extra or [0] * dims, groups, window.dilations(dims))
        result = _TRANSPOSED[dims](value, weight, bias, *options)
        if padding is not None:
            return result
        cut = cropped(sides(value), sides(result))
        return functional.pad(result, _spread([(-before, -after) for before, after in cut]))

    return convolve


def _filled(window: _Window, kernel: list[int], sizes: Sequence[int], rounds_up: bool) -> tuple[_Sides, _Sides]:
    """The padding asked for, and that by which windows of whole steps fill the input; the latter may crop."""
    dims = len(kernel)
    asked, filled = window.sides(sizes, kernel), []
    reach = zip(sizes, asked, kernel, window.strides(dims), window.dilations(dims), strict=True)
    for size, (before, after), k, step, far in reach:
        span = (k - 1) * far + 1
        free = size + before + after - span
        count = (-(-free // step) if rounds_up else free // step) + 1
        if rounds_up and (count - 1) * step >= size + before:
            count -= 1  # a window that would begin in the padding after the input
        filled.append((before, (count - 1) * step + span - size - before))
    return asked, filled


def _fits(padding: list[int] | None, kernel: list[int]) -> bool:
    """Whether torch's own pools take that padding."""
    return padding is not None and all(2 * width <= k for width, k in zip(padding, kernel, strict=True))


def _max_pool(node: Node) -> Run:
    node.only(1)
    node.ignore("storage_order")  # of the second output
    kernel = list(node.attributes.get("kernel_shape", []))
    dims, rounds_up = len(kernel), bool(node.integer("ceil_mode", 0))
    window = _Window(node, dims)
    function, strides, dilations = _MAX_POOLS[dims], window.strides(dims), window.dilations(dims)
    padding = window.alike(dims)
    if _fits(padding, kernel) and not rounds_up:
        return lambda value: function(value, kernel, strides, padding, dilations)

    def pool(value: Tensor) -> Tensor:
        _, filled = _filled(window, kernel, sides(value), rounds_up)
        least = -torch.inf if value.is_floating_point() else torch.iinfo(value.dtype).min
        return function(functional.pad(value, _spread(filled), value=least), kernel, strides, 0, dilations)

    return pool


def _average_pool(node: Node) -> Run:
    kernel = list(node.attributes.get("kernel_shape", []))
    dims, rounds_up = len(kernel), bool(node.integer("ceil_mode", 0))
    counts_padding = bool(node.integer("count_include_pad", 0))
    window = _Window(node, dims)
    if set(window.dilations(dims)) != {1}:
        raise ValueError(f"dilations={window.dilations(dims)}")
    function, strides, padding = _AVERAGE_POOLS[dims], window.strides(dims), window.alike(dims)
    if _fits(padding, kernel) and not rounds_up:
        return lambda value: function(value, kernel, strides, padding, False, counts_padding)

    def pool(value: Tensor) -> Tensor:
        asked, filled = _filled(window, kernel, sides(value), rounds_up)
        counted = torch.ones((1, 1, *sides(value)), dtype=value.dtype, device=value.device)
        if counts_padding:
            counted = functional.pad(counted, _spread(asked), value=1.0)
            more = [(0, after - own) for (_, own), (_, after) in zip(asked, filled, strict=True)]
        else:
            more = filled
        share = function(functional.pad(counted, _spread(more)), kernel, strides)
        return function(functional.pad(value, _spread(filled)), kernel, strides) / share

    return pool


def _gemm(node: Node) -> Run:
    node.ignore("broadcast")  # of versions before 7; it is what addmm does
    alpha, beta = node.number("alpha", 1.0), node.number("beta", 1.0)
    turns_left, turns_right = bool(node.integer("transA", 0)), bool(node.integer("transB", 0))

    def product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
        left, right = left.t() if turns_left else left, right.t() if turns_right else right
        if bias is not None:
            return torch.addmm(bias, left, right, alpha=alpha, beta=beta)
        return left @ right if alpha == 1 else alpha * (left @ right)

    return product


def _batch_norm(node: Node) -> Run:
    """By the statistics of the batch in training mode, by the running ones otherwise, whatever mode was written."""
    node.only(1)
    node.ignore("training_mode", "is_test", "consumed_inputs")
    node.refuse("spatial", 1)
    epsilon, momentum = node.number("epsilon", 1e-5), 1 - node.number("momentum", 0.9)

    def normalise(
        value: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, *, training: bool
    ) -> Tensor:
        return functional.batch_norm(value, mean, variance, scale, bias, training, momentum, epsilon)

    return normalise


def _instance_norm(node: Node) -> Run:
    epsilon = node.number("epsilon", 1e-5)
    return lambda value, scale, bias: functional.instance_norm(value, weight=scale, bias=bias, eps=epsilon)


def _layer_norm(node: Node) -> Run:
    node.ignore("stash_type")
    axis, epsilon, tells = node.integer("axis", -1), node.number("epsilon", 1e-5), node.used > 1

    def normalise(value: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        shape = [*map(int, value.shape[axis:])]
        if list(scale.shape) == shape and (bias is None or bias.shape == scale.shape):
            result = functional.layer_norm(value, shape, scale, bias, epsilon)
        else:
            result = functional.layer_norm(value, shape, eps=epsilon) * scale
            result = result if bias is None else result + bias
        if not tells:
            return result
        variance, mean = torch.var_mean(value, list(range(axis % value.ndim, value.ndim)), correction=0, keepdim=True)
        return result, mean, (variance + epsilon).rsqrt()

    return normalise


def _rms_norm(node: Node) -> Run:
    node.ignore("stash_type")
    axis, epsilon = node.integer("axis", -1), node.number("epsilon", 1e-5)

    def normalise(value: Tensor, scale: Tensor) -> Tensor:  # by parts, as no exporter of torch's writes its own
        axes = list(range(axis % value.ndim, value.ndim))
        return value * (value.square().mean(axes, keepdim=True) + epsilon).rsqrt() * scale

    return normalise


def _group_norm(node: Node) -> Run:
    node.ignore("stash_type")
    groups, epsilon = node.integer("num_groups", 1), node.number("epsilon", 1e-5)
    by_group = node.version < 21  # then one scale a group, since then one a channel

    def normalise(value: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        if by_group:
            each = value.shape[1] // groups
            scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
        return functional.group_norm(value, groups, scale, bias, epsilon)

    return normalise


def _local_norm(node: Node) -> Run:
    size = node.integer("size", 1)
    alpha, beta, bias = node.number("alpha", 1e-4), node.number("beta", 0.75), node.number("bias", 1.0)
    if size % 2 == 0:
        raise ValueError(f"size={size}")
    return lambda value: functional.local_response_norm(value, size, alpha, beta, bias)


def _einsum(node: Node) -> Run:
    equation = node.text("equation", "")
    return lambda *values: torch.einsum(equation, *values)


def _attention(node: Node) -> Run:
    """Scaled dot products of heads; without a cache of earlier keys."""
    node.only(1)
    if node.given & {4, 5, 6}:
        raise ValueError("past keys")
    node.refuse("qk_matmul_output_mode", 0)
    node.refuse("softmax_precision", 0, 1)
    if node.number("softcap", 0.0):
        raise ValueError("softcap")
    causal, scale = bool(node.integer("is_causal", 0)), node.number("scale", 0.0) or None
    heads, key_heads = node.integer("q_num_heads", 0), node.integer("kv_num_heads", 0)
    if causal and 3 in node.given:
        raise ValueError("is_causal=1 with a mask")

    def apart(value: Tensor, count: int) -> Tensor:
        return value.unflatten(-1, (count, -1)).transpose(1, 2) if value.ndim == 3 else value

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        parts = apart(query, heads), apart(key, key_heads), apart(value, key_heads)
        if mask is not None and mask.shape[-1] < parts[1].shape[-2]:
            least = False if mask.dtype == torch.bool else -torch.inf
            mask = functional.pad(mask, (0, parts[1].shape[-2] - mask.shape[-1]), value=least)
        grouped = parts[0].shape[1] != parts[1].shape[1]
        result = functional.scaled_dot_product_attention(
            *parts, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped
        )
        return result.transpose(1, 2).flatten(2) if query.ndim == 3 else result

    return attend


def _matmul(node: Node) -> Run:
    return torch.matmul


OPERATIONS: dict[str, Operation] = {
    "Attention": Operation(_attention, fixed=places(3)),
    "AveragePool": Operation(_average_pool),
    "BatchNormalization": Operation(_batch_norm, weights=places(1, 2), statistics=places(3, 4), trains=True),
    "Conv": Operation(_conv, weights=places(1, 2)),
    "ConvTranspose": Operation(_conv_transpose, weights=places(1, 2)),
    "Einsum": Operation(_einsum),
    "Gemm": Operation(_gemm, weights=places(1, 2)),
    "GroupNormalization": Operation(_group_norm, weights=places(1, 2)),
    "InstanceNormalization": Operation(_instance_norm, weights=places(1, 2)),
    "LRN": Operation(_local_norm),
    "LayerNormalization": Operation(_layer_norm, weights=places(1, 2)),
    "MatMul": Operation(_matmul, weights=places(1)),
    "MaxPool": Operation(_max_pool),
    "RMSNormalization": Operation(_rms_norm, weights=places(1)),
}
