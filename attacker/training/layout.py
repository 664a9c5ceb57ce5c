"""How features of any shape lie over a picture: told from their shapes alone."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from splitleak.models.grids import EXTRA_TOKENS, channels_last, token_grid, tokens_last
from splitleak.seeding import generator

Shape = tuple[int, ...]

_MOST_VALUES = 8192  # of one place: more are summed into so many, each with a random sign
_LARGEST = 1e6  # larger values, and infinite ones, are taken as that


class Layout:
    """How features lie over a picture: as channels ``(c, h, w)`` on a grid, and as values that have no place.

    ``(c, h, w)`` is such a grid, also with the channels last, see `channels_last`; further axes before it are channels.
    Tokens ``(n, d)``, or ``(d, n)``, see `tokens_last`, are one, after a few that have no place, where a grid is known
    that has so many, or as `token_grid` says; else they are columns of the picture (rows, of a tall one). A vector is
    one place; a long one is summed, with random signs, into 8,192 values, which keeps inner products on average (count
    sketch). Of several tensors, which come as one vector, the finest grid is taken, and the others are enlarged to it.

    >>> Layout([(197, 768)], (224, 224))
    Layout(channels=768, height=14, width=14, extra=768)
    """

    def __init__(
        self, shapes: Sequence[Shape], picture: tuple[int, int], grids: Collection[tuple[int, int]] = ()
    ) -> None:
        """Finds the grid.

        Args:
            shapes: Of the tensors for one image.
            picture: Height and width of the images.
            grids: Heights and widths of features of the same network, which tokens may be from.
        """
        self.shapes = tuple(shapes)
        self._parts = [_part(shape, picture, grids) for shape in shapes]
        finest = max(self._parts, key=lambda part: part.height * part.width)
        self.height, self.width = finest.height, finest.width
        self.channels = sum(part.channels for part in self._parts)
        self.extra = sum(part.extra * part.channels for part in self._parts)
        self._sketched: tuple[Tensor, Tensor] | None = None
        if self.height * self.width == 1 and self.channels > _MOST_VALUES:
            draw = generator(0, "count sketch")
            signs = torch.randint(2, (self.channels,), generator=draw) * 2.0 - 1
            self._sketched = torch.randint(_MOST_VALUES, (self.channels,), generator=draw), signs
            self.channels = _MOST_VALUES

    def __repr__(self) -> str:
        sizes = f"channels={self.channels}, height={self.height}, width={self.width}, extra={self.extra}"
        return f"Layout({sizes})"

    def __call__(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``(B, *shape)``, or ``(B, d)``, as several tensors are, as ``(B, c, h, w)`` and ``(B, extra)``.

        Raises:
            ValueError: They have another shape.
        """
        flat = (sum(map(math.prod, self.shapes)),)
        shape = self.shapes[0] if len(self.shapes) == 1 else flat
        if tuple(features.shape[1:]) not in (shape, flat):
            raise ValueError(f"expected features {shape}, got {tuple(features.shape[1:])}")
        sizes = [math.prod(part.shape) for part in self._parts]
        pieces = features.float().flatten(1).nan_to_num(0, _LARGEST, -_LARGEST).split(sizes, dim=1)
        split = [part(piece) for part, piece in zip(self._parts, pieces, strict=True)]
        size = (self.height, self.width)
        grids = [grid if grid.shape[2:] == size else functional.interpolate(grid, size) for grid, _ in split]
        grid, extra = torch.cat(grids, 1), torch.cat([extra for _, extra in split], 1)
        if self._sketched is not None:
            places, signs = (each.to(grid.device) for each in self._sketched)
            grid = grid.new_zeros(len(grid), _MOST_VALUES, 1, 1).index_add_(1, places, grid * signs[:, None, None])
        return grid, extra


@dataclass(frozen=True)
class _Part:
    """The grid of one tensor."""

    shape: Shape
    channels: int
    height: int
    width: int
    extra: int = 0  # tokens without a place, the first
    channels_last: bool = False

    def __call__(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        rows, places = len(flat), self.height * self.width
        extra, rest = flat.split([self.extra * self.channels, places * self.channels], dim=1)
        if self.channels_last:
            rest = rest.view(rows, places, self.channels).transpose(1, 2)
        return rest.reshape(rows, self.channels, self.height, self.width), extra


def _part(shape: Shape, picture: tuple[int, int], grids: Collection[tuple[int, int]]) -> _Part:
    if len(shape) < 2:
        return _Part(shape, math.prod(shape), 1, 1)
    if len(shape) > 2:
        *first, height, width = shape
        if channels_last(shape, picture):
            return _Part(shape, width, shape[0], height, channels_last=True)
        return _Part(shape, math.prod(first), height, width)
    tokens, width = shape
    known = {math.prod(grid): grid for grid in grids}
    if width in known and tokens not in known:
        return _Part(shape, tokens, *known[width])
    told = [(extra, known[tokens - extra]) for extra in EXTRA_TOKENS if tokens - extra in known]
    last = not told and tokens_last(shape, picture)
    found = next(iter(told), None) or token_grid(width if last else tokens, (1, *picture))
    if found and last:
        return _Part(shape, tokens, *found[1])
    if found:
        return _Part(shape, width, *found[1], found[0], channels_last=True)
    place = (1, tokens) if picture[1] >= picture[0] else (tokens, 1)
    return _Part(shape, width, *place, channels_last=True)
