"""Features of any shape brought to a grid of channels: maps are resampled, tokens laid out, vectors spread."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitleak.models.architecture import scaled

Map = tuple[int, int, int]
"""Shape ``(c, h, w)`` of a feature map."""

EXTRA_TOKENS = (0, 1, 2, 5)
"""How many tokens may stand before those of the picture's patches: class and register tokens."""

_MOST_WEIGHTS = 4_000_000  # of one linear map
_LARGEST_SPREAD = 64  # positions of the grid that a vector is spread over
_ODDEST_ASPECT = 1.5  # of tokens' grid to the picture's; beyond it, positions are learned
_EXACT = 1e-9  # of an aspect's logarithm
_LARGEST_STEP = 32  # pixels between positions that no power of two is: more would make layers too wide
_TELLING = math.log(1.25)  # how much nearer the picture's aspect is, where axes that lie over no picture tell


class ToMap(nn.Module):
    """Features ``(N, *shape)`` to a map ``(N, *map_shape)``; itself, of a map as it is."""

    def __init__(self, map_shape: Map) -> None:
        super().__init__()
        self.map_shape = map_shape

    def forward(self, features: Tensor) -> Tensor:
        return features


class Unflattened(ToMap):
    """Vectors ``(N, D)`` to the map that those of a shape are brought to ``(N, *map_shape)``."""

    def __init__(self, shape: tuple[int, ...], to_map: ToMap) -> None:
        super().__init__(to_map.map_shape)
        self.shape, self.to_map = shape, to_map

    def forward(self, features: Tensor) -> Tensor:
        placed: Tensor = self.to_map(features.unflatten(1, self.shape))
        return placed


class FirstChannels(ToMap):
    """Maps ``(N, h, w, c)`` to ``(N, c, h, w)``."""

    def __init__(self, shape: Map) -> None:
        high, wide, channels = shape
        super().__init__((channels, high, wide))

    def forward(self, features: Tensor) -> Tensor:
        return features.permute(0, 3, 1, 2)


class FoldedMap(ToMap):
    """Maps with further axes before their height and width, ``(N, a, b, h, w)``, to ``(N, a b, h, w)``."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        *channels, high, wide = shape
        super().__init__((math.prod(channels), high, wide))

    def forward(self, features: Tensor) -> Tensor:
        return features.flatten(1, -3)


class TokenMap(ToMap):
    """Tokens ``(N, n, d)``, or ``(N, d, n)``, to a map ``(N, (1 + k) d, gh, gw)``, by `token_grid`.

    The k leading extra tokens stand at every position, as channels of their own, which the next layer adds up. Where
    there is no grid of the picture's aspect, a linear map over the tokens makes one.
    """

    def __init__(self, shape: tuple[int, int], image_shape: Map) -> None:
        self.last = tokens_last(shape, image_shape[1:])
        tokens, depth = shape[::-1] if self.last else shape
        found = token_grid(tokens, image_shape)
        extra, sides = found or (0, _coarse(image_shape, min(tokens, _LARGEST_SPREAD)))
        super().__init__(((1 + extra) * depth, *sides))
        self.extra = extra
        self.positions = None if found else _linear(tokens, math.prod(sides))

    def forward(self, features: Tensor) -> Tensor:
        if self.last:
            features = features.transpose(1, 2)
        if self.positions is not None:
            learned: Tensor = self.positions(features.transpose(1, 2))
            return learned.reshape(-1, *self.map_shape)
        laid = features[:, self.extra :].transpose(1, 2)
        everywhere = features[:, : self.extra].flatten(1)[:, :, None].expand(-1, -1, laid.shape[2])
        return torch.cat([laid, everywhere], 1).reshape(-1, *self.map_shape)


class VectorMap(ToMap):
    """Vectors ``(N, d)`` to a map ``(N, c, gh, gw)`` of at most 64 positions and ``channels``, by a linear map.

    Further axes are flattened. Of normalised values: those of a vector may lie far from 0 and from each other.

    With fewer channels, or through a narrower layer, where it would have more than four million weights.
    """

    def __init__(self, values: int, image_shape: Map, channels: int) -> None:
        high, wide = _coarse(image_shape, _LARGEST_SPREAD)
        fitting = max(min(channels, scaled(channels, 0.25)), _MOST_WEIGHTS // (values * high * wide))
        super().__init__((min(channels, fitting), high, wide))
        self.normalised = nn.BatchNorm1d(values, affine=False)
        self.spread = _linear(values, math.prod(self.map_shape))

    def forward(self, features: Tensor) -> Tensor:
        spread: Tensor = self.spread(self.normalised(features.flatten(1)))
        return spread.reshape(-1, *self.map_shape)


def to_map(shape: tuple[int, ...], image_shape: Map, width: int) -> ToMap:
    """The `ToMap` of one tensor of features; those of a single place are a vector, as nothing in them is anywhere.

    Args:
        shape: ``(c, h, w)`` or ``(h, w, c)``, see `channels_last`; with further axes before them, which are channels;
            ``(n, d)`` or ``(d, n)``, see `tokens_last`; or ``(d,)``.
        image_shape: ``(C, H, W)`` of the picture behind them.
        width: Channels that a vector is spread to.

    Raises:
        ValueError: The features have no axes, or an empty one.
    """
    if min(shape, default=0) < 1:
        raise ValueError(f"expected features (c, h, w), (n, d) or (d,), got {shape}")
    if len(shape) > 1:
        placed = TokenMap((shape[0], shape[1]), image_shape) if len(shape) == 2 else laid_map(shape, image_shape)
        if math.prod(placed.map_shape[1:]) > 1:
            return placed
    return VectorMap(math.prod(shape), image_shape, width)


def laid_map(shape: tuple[int, ...], image_shape: tuple[int, ...]) -> ToMap:
    """The `ToMap` of features of three axes or more, which says where their channels are; it computes nothing.

    Raises:
        ValueError: The features have fewer axes, or an empty one.
    """
    if len(shape) < 3 or len(image_shape) != 3 or min(*shape, *image_shape) < 1:
        raise ValueError(f"expected features (c, h, w) and images (C, H, W), got {shape} and {image_shape}")
    *before, high, wide = shape
    if len(before) > 1:
        return FoldedMap(shape)
    (first,), (_, *sides) = before, image_shape
    last = channels_last(shape, (sides[0], sides[1]))
    return FirstChannels((first, high, wide)) if last else ToMap((first, high, wide))


def channels_last(shape: tuple[int, ...], picture: tuple[int, int]) -> bool:
    """Whether a map is ``(h, w, c)`` and not ``(c, h, w)``, by the height and width of the picture behind it.

    So it is where the first two axes have the picture's aspect and the last two do not, but for what rounding makes of
    it. Where neither do, the nearer must be a quarter nearer, else it is ``(c, h, w)``.

    >>> [channels_last(shape, (62, 47)) for shape in ((16, 12, 64), (64, 16, 12), (8, 6, 5))]
    [True, False, False]
    """
    if len(shape) != 3 or _lies(shape[1:], picture):
        return False
    nearer = _oddity(shape[1:], picture) - _oddity(shape[:2], picture)
    return nearer > (0 if _lies(shape[:2], picture) else _TELLING)


def tokens_last(shape: tuple[int, ...], picture: tuple[int, int]) -> bool:
    """Whether tokens are ``(d, n)`` and not ``(n, d)``: a grid of exactly the picture's aspect has n tokens, none d.

    >>> [tokens_last(shape, (224, 224)) for shape in ((768, 196), (196, 768), (256, 196), (10, 7))]
    [True, False, False, False]
    """
    if len(shape) != 2:
        return False
    (oddity, extra, _), (other, _, _) = (_nearest_grid(axis, picture) for axis in shape[::-1])
    return oddity < _EXACT <= other and extra == 0


def channels_of(shapes: tuple[tuple[int, ...], ...], image_shape: Map) -> tuple[int, ...]:
    """The shape of a value for each channel of features, with an axis of 1 for each along which their places lie.

    Of several tensors, which come packed, and of a vector each value is a channel.

    >>> [channels_of(shapes, (3, 32, 32)) for shapes in (((64, 8, 8),), ((65, 48),), ((9,), (4, 2)))]
    [(64, 1, 1), (1, 48), (17,)]
    """
    shape = shapes[0]
    if len(shapes) > 1:
        return (sum(map(math.prod, shapes)),)
    if len(shape) == 2:
        return (shape[0], 1) if tokens_last(shape, image_shape[1:]) else (1, shape[1])
    if channels_last(shape, image_shape[1:]):
        return (1, 1, shape[2])
    return (*shape[:-2], 1, 1) if len(shape) > 2 else shape


class Resample(ToMap):
    """A map ``(N, c, h, w)`` to a grid, whose positions stand ``spacing`` pixels of the picture apart.

    Bilinear, by the place in the picture: the map covers it whole. Where the map is finer than the grid, it is brought
    to a multiple of the grid, at least as fine, whose cells become channels: nothing is averaged away.
    """

    def __init__(self, shape: Map, image_shape: Map, spacing: int) -> None:
        channels, *sides = shape
        target = grid(image_shape, spacing)
        cells = [math.ceil(side / positions) for side, positions in zip(sides, target, strict=True)]
        super().__init__((channels * math.prod(cells), *target))
        self.cells, self.as_it_is = cells, tuple(sides) == target
        rows, columns = (
            _bilinear(side, positions * parts, spacing * side / (pixels * parts))
            for side, positions, parts, pixels in zip(sides, target, cells, image_shape[1:], strict=True)
        )
        self.rows: Tensor
        self.columns: Tensor
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        if self.as_it_is:
            return features
        fine: Tensor = self.rows @ features @ self.columns.T
        (cells_down, cells_across), (high, wide) = self.cells, self.map_shape[1:]
        split = fine.reshape(len(features), -1, high, cells_down, wide, cells_across)
        return split.permute(0, 1, 3, 5, 2, 4).reshape(-1, *self.map_shape)


class ToGrid(ToMap):
    """Features of one or several tensors to one grid ``(N, c, gh, gw)`` over the picture; their channels side by side.

    Positions are ``spacing`` pixels apart, by that of the finest map, see `spacing_of`.

    Args:
        shapes: Of the tensors, see `to_map`; several come packed, one after another, as vectors ``(N, D)``; one may.
        image_shape: ``(C, H, W)``.
        width: Channels that a vector is spread to.
        most: Positions; the spacing is doubled until there are no more.
        doubled: Whether the spacing must be a power of two.

    Raises:
        ValueError: Features have no axes, or an empty one.
    """

    def __init__(
        self,
        shapes: tuple[tuple[int, ...], ...],
        image_shape: Map,
        *,
        width: int,
        most: int | None = None,
        doubled: bool = False,
    ) -> None:
        maps = [to_map(shape, image_shape, width) for shape in shapes]
        finest = max(maps, key=lambda each: math.prod(each.map_shape[1:]))
        spacing = spacing_of(finest.map_shape, image_shape, doubled=doubled)
        while most is not None and math.prod(grid(image_shape, spacing)) > most:
            spacing *= 2
        resampled = [Resample(each.map_shape, image_shape, spacing) for each in maps]
        super().__init__((sum(each.map_shape[0] for each in resampled), *grid(image_shape, spacing)))
        self.shapes, self.spacing = shapes, spacing
        self.maps = nn.ModuleList(nn.Sequential(*pair) for pair in zip(maps, resampled, strict=True))

    def forward(self, features: Tensor) -> Tensor:
        if len(self.shapes) == 1:
            only: Tensor = self.maps[0](features.reshape(-1, *self.shapes[0]))
            return only
        tensors = unpacked(features, self.shapes)
        return torch.cat([to_grid(tensor) for to_grid, tensor in zip(self.maps, tensors, strict=True)], 1)


class Crop(nn.Module):
    """Pictures ``(N, C, H, W)`` cut to the height and width of ``image_shape``, at the bottom and the right."""

    def __init__(self, image_shape: Map) -> None:
        super().__init__()
        self.sides = image_shape[1:]

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures[:, :, : self.sides[0], : self.sides[1]]


def check_parts(feature_shape: tuple[int, ...], parts: tuple[tuple[int, ...], ...]) -> None:
    """Checks that flat features hold tensors of the shapes ``parts``.

    Raises:
        ValueError: They do not.
    """
    if feature_shape != (sum(map(math.prod, parts)),):
        raise ValueError(f"expected features ({sum(map(math.prod, parts))},), which pack {parts}, got {feature_shape}")


def unpacked(features: Tensor, parts: tuple[tuple[int, ...], ...]) -> list[Tensor]:
    """The tensors ``(N, *shape)`` that vectors ``(N, D)`` pack."""
    pieces = features.split([math.prod(shape) for shape in parts], 1)
    return [piece.reshape(-1, *shape) for piece, shape in zip(pieces, parts, strict=True)]


def grid(image_shape: Map, spacing: int) -> tuple[int, int]:
    """The sides of a picture's grid whose positions stand ``spacing`` pixels apart.

    >>> grid((3, 224, 30), 4)
    (56, 8)
    """
    return -(-image_shape[1] // spacing), -(-image_shape[2] // spacing)


def spacing_of(shape: Map, image_shape: Map, *, doubled: bool = False) -> int:
    """How many pixels the positions of a map are apart in the picture; 1 where it is finer than that.

    Patches of 14 × 14 pixels are 14 apart. Where no number of pixels is that of a map both ways, or it has an odd
    factor above 32, and wherever it must be ``doubled``, it is the nearest power of two.

    >>> spacing_of((64, 56, 56), (3, 224, 224)), spacing_of((8, 4, 4), (3, 56, 56)), spacing_of((8, 7, 5), (3, 20, 28))
    (4, 14, 4)
    """
    sides, pixels = shape[1:], image_shape[1:]
    exact = pixels[0] // sides[0]
    if exact and not doubled and (sides[0] * exact, sides[1] * exact) == pixels and odd_part(exact) <= _LARGEST_STEP:
        return exact
    ratios = [math.log2(picture / side) for side, picture in zip(sides, pixels, strict=True)]
    return 1 << max(0, round(sum(ratios) / 2))


def odd_part(number: int) -> int:
    """The largest odd factor.

    >>> odd_part(14), odd_part(16)
    (7, 1)
    """
    return number // (number & -number)


def token_grid(tokens: int, image_shape: Map) -> tuple[int, tuple[int, int]] | None:
    """How many leading tokens are extra, and the grid ``(gh, gw)`` of the others.

    Its aspect is the nearest to the picture's, with as few extra tokens as there can be; None where that of every grid
    is half as long again as the picture's, or half as wide.

    >>> token_grid(197, (3, 224, 224)), token_grid(13, (3, 20, 28)), token_grid(23, (3, 32, 32))
    ((1, (14, 14)), (1, (3, 4)), None)
    """
    oddity, extra, sides = _nearest_grid(tokens, image_shape[1:])
    return (extra, sides) if oddity <= math.log(_ODDEST_ASPECT) + _EXACT else None


def _nearest_grid(tokens: int, picture: tuple[int, int]) -> tuple[float, int, tuple[int, int]]:
    """How far the aspect is from the picture's, see `_oddity`; the extra tokens; and the sides: see `token_grid`."""
    wanted = math.log(picture[0] / picture[1])
    return min(
        (abs(math.log(high * high / (tokens - extra)) - wanted), extra, (high, (tokens - extra) // high))
        for extra in EXTRA_TOKENS
        for high in range(1, tokens - extra + 1)
        if (tokens - extra) % high == 0
    )


def _oddity(sides: tuple[int, ...], picture: tuple[int, int]) -> float:
    """How far the aspect of a grid is from the picture's, as the logarithm of their ratio; 0 where they are equal."""
    return abs(math.log(sides[0] * picture[1] / (sides[1] * picture[0])))


def _lies(sides: tuple[int, ...], picture: tuple[int, int]) -> bool:
    """Whether a grid may be all of a picture, made smaller: a position more or less is what rounding makes of it.

    That of a square picture is square.
    """
    (high, wide), aspect = sides, picture[0] / picture[1]
    return min(abs(high - wide * aspect), abs(wide - high / aspect)) <= (1 if aspect != 1 else 0)


def _coarse(image_shape: Map, positions: int) -> tuple[int, int]:
    """The finest grid of a picture with at most so many positions, a power of two apart."""
    spacing = 1
    while math.prod(grid(image_shape, spacing)) > positions:
        spacing *= 2
    return grid(image_shape, spacing)


def _linear(values: int, outputs: int) -> nn.Module:
    """A linear map, through a narrower layer where it would have more than four million weights."""
    if values * outputs <= _MOST_WEIGHTS:
        return nn.Linear(values, outputs)
    narrow = max(1, _MOST_WEIGHTS // (values + outputs))
    return nn.Sequential(nn.Linear(values, narrow, bias=False), nn.Linear(narrow, outputs))


def _bilinear(side: int, positions: int, spacing: float) -> Tensor:
    """Weights ``(positions, side)`` of the values around each position, ``spacing`` apart; at the border its value."""
    places = ((torch.arange(positions, dtype=torch.float64) + 0.5) * spacing - 0.5).clamp(0, side - 1)
    weights = 1 - (places[:, None] - torch.arange(side, dtype=torch.float64)).abs()
    return functional.relu(weights).float()
