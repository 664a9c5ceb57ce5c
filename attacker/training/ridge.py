"""Ridge regression from features to pictures, in closed form and streaming: what a linear map rebuilds of a feature."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from splitleak.attacker.training.layout import Layout, Shape
from splitleak.config import Config
from splitleak.measures.linkage.whitening import levels
from splitleak.seeding import generator

_Rows = tuple[Tensor, Tensor, Tensor]  # regressors (m, r), blocks (m, o), and the group (m,) of each

_PRIMAL = 1600  # regressors, at most: with more, the dual form
_PRIMAL_OF_MANY = 2560  # of more pictures than the dual form would be fitted to
_DUAL_ROWS, _DUAL_VALUES = 1500, 2**24  # at most, of the dual form
_LOCAL_PLACES = 36  # of a grid each of whose places has means of its own, at most
_ROWS = 30_000  # at most, of the primal form
_PRODUCT_ROWS = 1024  # that products are formed of at once
_HELD_OUT_ROWS = 512  # about so many choose the strength
_CONSTANT = 1e-6  # standard deviation beside the mean: less is rounding
_NOTHING = 1e-100  # less than the variance of any values of single precision
_BATCH = 64


class RidgeConfig(Config):
    """The size of a regression."""

    regressors: int = Field(default=1024, ge=1, description="values of a neighbourhood, at most, or it is one place")
    outputs: int = Field(default=3072, ge=1, description="values of a block of pixels, at most: a larger one is shrunk")
    work: float = Field(default=1.2e10, gt=0, description="multiply-accumulates of the sums: fewer places are drawn")
    held_out: float = Field(default=0.1, gt=0, lt=1, description="share of the pictures that choose the strength")


class LinearMap(nn.Module):
    """Features to pictures: the values around each place, by one matrix, to the block of pixels that it lies over."""

    def __init__(self, layout: Layout, image_shape: tuple[int, int, int], config: RidgeConfig) -> None:
        """A map to a constant, 0.

        Args:
            layout: Of the features.
            image_shape: ``(C, H, W)`` of the pictures.
            config: Bounds of the neighbourhood and of the block.
        """
        super().__init__()
        self.layout, self.image_shape = layout, image_shape
        channels, height, width = image_shape
        grid = (layout.height, layout.width)
        side = next((k for k in (5, 3) if layout.channels * k * k <= config.regressors), 1)
        self.kernel = tuple(min(side, 2 * along - 1) for along in grid)
        block = [math.ceil(pixels / places) for pixels, places in zip((height, width), grid, strict=True)]
        shrunk = min(1.0, math.sqrt(config.outputs / (channels * math.prod(block))))
        self.block = tuple(max(1, int(shrunk * along)) for along in block)
        self.regressors = layout.channels * math.prod(self.kernel) + layout.extra
        self.outputs = channels * math.prod(self.block)
        self.register_buffer("weight", torch.zeros(self.outputs, self.regressors))
        self.register_buffer("bias", torch.zeros(self.outputs, 1, 1))
        self.weight: Tensor
        self.bias: Tensor

    def forward(self, features: Tensor) -> Tensor:
        """Features ``(B, *shape)`` to pictures ``(B, C, H, W)`` in [0, 1]."""
        grid, extra = self.layout(features)
        near, far = self.weight.split([self.regressors - self.layout.extra, self.layout.extra], dim=1)
        kernel = near.view(self.outputs, self.layout.channels, *self.kernel)
        blocks = functional.conv2d(grid, kernel, padding=self._padding()) + self.bias
        blocks = (blocks + (extra @ far.T)[:, :, None, None]).unflatten(1, (self.image_shape[0], *self.block))
        pictures = blocks.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)
        return _resampled(pictures, self.image_shape[1:]).clamp(0, 1)

    @torch.no_grad()
    def predict(self, features: Tensor) -> Tensor:
        """The same in batches, for any number of features, on the CPU."""
        device = self.weight.device
        return torch.cat([self(batch.to(device)).cpu() for batch in features.split(_BATCH)])

    def rows(self, features: Tensor, images: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Regressors ``(B * m, r)`` and blocks of pixels ``(B * m, o)`` at the ``places`` ``(B, m)`` of each image."""
        grid, extra = self.layout(features)
        height, width = self.layout.height, self.layout.width
        image = torch.arange(len(grid), device=grid.device)[:, None].expand_as(places).flatten()
        row, column = places.flatten() // width, places.flatten() % width
        vertical, horizontal = self._padding()
        around = functional.pad(grid, (horizontal, horizontal, vertical, vertical))
        around = around.unfold(2, self.kernel[0], 1).unfold(3, self.kernel[1], 1)
        near = around[image, :, row, column].flatten(1)
        fine = _resampled(images, (height * self.block[0], width * self.block[1]))
        blocks = fine.unflatten(3, (width, self.block[1])).unflatten(2, (height, self.block[0]))
        return torch.cat([near, extra[image]], 1), blocks[image, :, row, :, column].flatten(1)

    def _padding(self) -> tuple[int, int]:
        return self.kernel[0] // 2, self.kernel[1] // 2


def _resampled(images: Tensor, size: tuple[int, int]) -> Tensor:
    if images.shape[2:] == size:
        return images
    return functional.interpolate(images, size, mode="bilinear", antialias=True)


@dataclass
class _Sums:
    """What a regression needs to know of its rows: counts and sums of each group that has a mean, and products."""

    counts: Tensor  # (G,)
    regressors: Tensor  # (G, r)
    outputs: Tensor  # (G, o)
    gram: Tensor | None  # (r, r); None: the rows are kept, for the dual form
    cross: Tensor | None  # (r, o)
    kept: list[tuple[Tensor, ...]] = field(default_factory=list)

    def add(self, *rows: Tensor) -> None:
        """Takes rows (see `_Rows`); products are formed of many at once."""
        self.kept.append(rows)
        if self.gram is not None and sum(len(groups) for _, _, groups in self.kept) >= _PRODUCT_ROWS:
            self.flush()

    def flush(self) -> None:
        """Adds the rows that are kept to the sums; in the dual form they are kept nevertheless."""
        if not self.kept:
            return
        rows, blocks, groups = (torch.cat(parts) for parts in zip(*self.kept, strict=True))
        self.kept = []
        if self.gram is None:
            self.kept = [(rows, blocks, groups)]
            for sums in (self.counts, self.regressors, self.outputs):
                sums.zero_()  # they are of all that is kept
        rows, blocks = rows.double(), blocks.double()
        self.counts.index_add_(0, groups, torch.ones_like(groups, dtype=torch.float64))
        self.regressors.index_add_(0, groups, rows)
        self.outputs.index_add_(0, groups, blocks)
        if self.gram is not None and self.cross is not None:
            self.gram += rows.T @ rows
            self.cross += rows.T @ blocks


class _Centred:
    """The normal equations of sums, each row less its group's mean and at its `_levels`; or of rows, the dual form."""

    def __init__(self, sums: _Sums, shift: Tensor) -> None:
        counts = sums.counts.clamp_min(1)[:, None]
        self.mean, self.mean_block = sums.regressors / counts, sums.outputs / counts
        centre = self.mean.mean(0) + shift
        self.dual: Tensor | None = None
        if sums.gram is not None and sums.cross is not None:
            gram = sums.gram - self.mean.T @ sums.regressors
            self.scale = _levels(gram.diagonal() / sums.counts.sum(), centre)
            self.kernel = gram.div_(self.scale[:, None]).div_(self.scale)
            self.cross = (sums.cross - self.mean.T @ sums.outputs).div_(self.scale[:, None])
        else:
            rows, blocks, groups = sums.kept[0]
            self.dual = rows.double() - self.mean[groups]
            self.scale = _levels(self.dual.square().mean(0), centre)
            self.dual /= self.scale
            self.kernel, self.cross = self.dual @ self.dual.T, blocks.double() - self.mean_block[groups]

    @property
    def unit(self) -> float:
        """What strengths are told in: the mean eigenvalue of the primal form."""
        return float(self.kernel.trace().clamp_min(_NOTHING)) / len(self.scale)

    def solved(self, strength: float) -> Tensor:
        """The weights ``(r, o)`` of the regression of a strength."""
        penalty = torch.full_like(self.kernel[0], strength * self.unit).diag()
        weight: Tensor = torch.linalg.solve(self.kernel + penalty, self.cross)
        return (weight if self.dual is None else self.dual.T @ weight) / self.scale[:, None]


class RidgeGauge:
    r"""Fits a `LinearMap` to features and pictures by ridge regression, batch by batch: nothing has to be stored.

    .. math:: \min_{W} \sum_i \lVert y_i - W x_i \rVert^2 + \lambda \lVert W \rVert^2

    with :math:`x_i` the values around a place, see `_levels`, and :math:`y_i` the block of pixels that lies under it,
    each less its mean: that of the place where a grid is small, else of all places. On pictures held out of the sums,
    one eigendecomposition chooses :math:`\lambda` from a grid of thirteen powers of ten; then the map is fitted to
    these, too. Where a place has more regressors than `_PRIMAL`, of many pictures `_PRIMAL_OF_MANY`, the dual form is
    solved, on as many rows as bounded memory allows, of pictures drawn from all.

    Hoerl and Kennard, "Ridge regression: biased estimation for nonorthogonal problems", Technometrics 1970. Its use as
    a gauge is ours.
    """

    def __init__(
        self,
        shapes: Sequence[Shape],
        image_shape: tuple[int, int, int],
        images: int,
        *,
        seed: int = 0,
        config: RidgeConfig | None = None,
        grids: Collection[tuple[int, int]] = (),
        groups: Tensor | None = None,
        device: torch.device | None = None,
    ) -> None:
        """An empty regression.

        Args:
            shapes: Of the tensors of one image's features.
            image_shape: ``(C, H, W)`` of the pictures.
            images: How many pictures there are. Of more that are added, as of other draws of noise, each stands for
                the same picture as that ``images`` before it, and is held out with it.
            seed: Of the places that are drawn, and of the pictures held out.
            config: The regression's size.
            grids: See `Layout`.
            groups: ``(images,)`` int64, the folder or the photograph that each is of: those of one are alike, and are
                held out together, where there are enough of them. None: unknown.
            device: Where the sums are.

        Raises:
            ValueError: There are fewer than three pictures, or not one group for each.
        """
        if images < 3:
            raise ValueError(f"expected at least 3 pictures to fit a linear map to, got {images}")
        config = config or RidgeConfig()
        self.map = LinearMap(Layout(shapes, image_shape[1:], grids), image_shape, config).to(device)
        self.images, self._seen, device = images, 0, self.map.weight.device
        regressors, outputs = self.map.regressors, self.map.outputs
        self._draw = generator(seed, "ridge")
        self._held_out = _held_out(images, config.held_out, groups, self._draw)
        held_out = int(self._held_out.sum())
        dual_rows = max(2, min(_DUAL_ROWS, _DUAL_VALUES // regressors))
        primal = regressors <= (_PRIMAL_OF_MANY if images - held_out > dual_rows else _PRIMAL)
        if primal:
            self._rows = min(_ROWS, int(config.work / (regressors * (regressors + outputs))))
        else:
            self._rows = dual_rows
        self._grid = self.map.layout.height * self.map.layout.width
        self._drawn = min(self._grid, max(1, self._rows // (images - held_out)))
        self._local = self._grid <= _LOCAL_PLACES and (primal or self._drawn == self._grid)
        if self._local:
            self._drawn = self._grid
        self._fitted_to = ~self._held_out
        if not primal and (most := self._rows // self._drawn) < images - held_out:
            others = self._fitted_to.nonzero().flatten()
            self._fitted_to[others[torch.randperm(len(others), generator=self._draw)[most:]]] = False
        self._drawn_held_out = min(self._grid, max(1, _HELD_OUT_ROWS // held_out))
        places = self._grid if self._local else 1

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        self._sums = _Sums(
            zeros(places),
            zeros(places, regressors),
            zeros(places, outputs),
            zeros(regressors, regressors) if primal else None,
            zeros(regressors, outputs) if primal else None,
        )
        self._choosing: list[_Rows] = []
        self._shift: tuple[Tensor, Tensor] | None = None
        self.findings: dict[str, object] = {}

    @classmethod
    def fitted(
        cls,
        features: Tensor,
        images: Tensor,
        *,
        shapes: Sequence[Shape] | None = None,
        seed: int = 0,
        config: RidgeConfig | None = None,
    ) -> "RidgeGauge":
        """The regression solved on features ``(N, *shape)`` and images ``(N, C, H, W)`` in [0, 1]: `map`, `findings`.

        Args:
            features: Of the images.
            images: The pictures.
            shapes: Where several tensors are packed as ``(N, d)``: theirs.
            seed: Of what is drawn.
            config: The regression's size.
        """
        channels, height, width = images.shape[1:]
        shapes = shapes or [tuple(features.shape[1:])]
        gauge = cls(shapes, (channels, height, width), len(images), seed=seed, config=config)
        for batch in torch.arange(len(images)).split(_BATCH):
            gauge.add(features[batch], images[batch])
        gauge.solve()
        return gauge

    @property
    def bytes(self) -> int:
        """About what the sums take in memory."""
        regressors, outputs = self.map.regressors, self.map.outputs
        rows = regressors if self._sums.gram is not None else self._rows // 2
        return 8 * rows * (regressors + outputs) + 4 * _HELD_OUT_ROWS * (regressors + outputs)

    def add(self, features: Tensor, images: Tensor) -> None:
        """Takes a batch of features ``(B, *shape)`` and the images ``(B, C, H, W)`` in [0, 1] that they are of."""
        index = torch.arange(self._seen, self._seen + len(images)) % self.images
        self._seen += len(images)
        # one draw an image, so that batches of any size give the same
        places = torch.stack([self._places() for _ in index])
        held_out, fitted_to = self._held_out[index], self._fitted_to[index]
        if bool(fitted_to.any()):
            rows = self._taken(features, images, places[:, : self._drawn], fitted_to)
            if self._sums.gram is not None or sum(len(each[2]) for each in self._sums.kept) < self._rows:
                self._sums.add(*rows)
        if bool(held_out.any()):
            self._choosing.append(self._taken(features, images, places[:, : self._drawn_held_out], held_out))

    def _taken(self, features: Tensor, images: Tensor, places: Tensor, chosen: Tensor) -> _Rows:
        """The rows of the ``chosen`` images: regressors, blocks, and the group of each, whose means it is less."""
        device = self.map.weight.device
        drawn = places[chosen].to(device)
        rows, blocks = self.map.rows(features[chosen].to(device), images[chosen].to(device), drawn)
        if self._shift is None:
            self._shift = rows.mean(0), blocks.mean(0)  # sums about the mean lose no digits
        groups = drawn.flatten() if self._local else torch.zeros_like(drawn.flatten())
        return rows - self._shift[0], blocks - self._shift[1], groups

    def _places(self) -> Tensor:
        """The places of the next image: all of a small grid, in any order; else drawn."""
        most = max(self._drawn, self._drawn_held_out)
        if 4 * most >= self._grid:
            return torch.randperm(self._grid, generator=self._draw)[:most]
        return torch.randint(self._grid, (most,), generator=self._draw)

    @torch.no_grad()
    def solve(self) -> LinearMap:
        """The map; the sums are let go. What was found stands in ``findings``.

        Returns:
            `LinearMap`, of the strength that does best on the held-out pictures.

        Raises:
            ValueError: No picture was added, or none that is held out.
        """
        sums = self._sums
        sums.flush()
        if not self._choosing or not bool(sums.counts.any()) or self._shift is None:
            raise ValueError(f"expected features of {self.images} pictures, got {self._seen}")
        fitted = _Centred(sums, self._shift[0])
        values, vectors = torch.linalg.eigh(fitted.kernel)
        rotated = vectors.T @ fitted.cross
        rows, blocks, groups = (torch.cat(parts) for parts in zip(*self._choosing, strict=True))
        apart = (rows.double() - fitted.mean[groups]) / fitted.scale
        unlike = blocks.double() - fitted.mean_block[groups]
        basis = (apart if fitted.dual is None else apart @ fitted.dual.T) @ vectors
        strength, error = _chosen(values, rotated, basis, unlike, fitted.unit)
        sums.add(rows, blocks, groups)
        sums.flush()
        whole = _Centred(sums, self._shift[0])
        weight = whole.solved(strength)
        bias = whole.mean_block + self._shift[1] - (whole.mean + self._shift[0]) @ weight
        grid = (self.map.layout.height, self.map.layout.width) if self._local else (1, 1)
        self.map.weight = weight.T.float().contiguous()
        self.map.bias = bias.T.float().reshape(-1, *grid).contiguous()
        self.findings = {
            "held_out_mse": error / unlike.numel(),
            "mean_image_mse": float(unlike.square().mean()),
            "strength": strength,
            "neighbourhood": list(self.map.kernel),
            "regressors": self.map.regressors,
            "rows": int(sums.counts.sum()),
            "parameters": self.map.weight.numel() + self.map.bias.numel(),
        }
        del self._sums, self._choosing
        return self.map


def _held_out(images: int, share: float, groups: Tensor | None, draw: torch.Generator) -> Tensor:
    """Which pictures choose the strength, ``(images,)``: whole groups if a share of them can be, else any."""
    wanted = max(1, round(share * images))
    chosen = torch.zeros(images, dtype=torch.bool)
    if groups is not None:
        if groups.shape != (images,):
            raise ValueError(f"expected a group for each of {images} pictures, got {tuple(groups.shape)}")
        names = groups.unique()
        if len(names) * share >= 1 and len(names) < images:
            for name in names[torch.randperm(len(names), generator=draw)]:
                more = chosen | (groups == name)
                if int(chosen.sum()) < wanted and 2 * int(more.sum()) <= images:
                    chosen = more
    if not bool(chosen.any()):
        chosen[torch.randperm(images, generator=draw)[:wanted]] = True
    return chosen


def _chosen(values: Tensor, rotated: Tensor, basis: Tensor, blocks: Tensor, unit: float) -> tuple[float, float]:
    """The strength, a power of ten in units of ``unit``, with the least squared error on held-out rows; and that error.

    Args:
        values: The kernel's eigenvalues ``(k,)``.
        rotated: The answers ``(k, o)`` in the eigenvectors' coordinates.
        basis: The held-out rows ``(t, k)`` there.
        blocks: What they should give, ``(t, o)``.
        unit: See `_Centred.unit`.
    """
    own, between, pull = basis.T @ basis, rotated @ rotated.T, (rotated * (basis.T @ blocks)).sum(1)
    energy, errors = float(blocks.square().sum()), {}
    for strength in (10.0**power for power in range(-9, 4)):
        factor = 1 / (values.clamp_min(0) + strength * unit)
        errors[strength] = energy + float(factor @ (own * between) @ factor - 2 * factor @ pull)
    best = min(errors, key=lambda strength: errors[strength])
    return best, max(errors[best], 0.0)


def _levels(variances: Tensor, means: Tensor) -> Tensor:
    """The `levels` that values are divided by; of what is constant to single precision infinity, which leaves it out.

    So a channel of huge ones hides nothing of what the others tell, and what hardly varies is not made much of.
    """
    deviations = variances.clamp_min(0).sqrt()
    return levels(deviations, means).where(deviations > _CONSTANT * means.abs(), torch.inf)
