"""The residual decoders from features to images: the attacker's inverse network, and the adversary of some defenses."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitleak.measures.linkage.whitening import drowning
from splitleak.models.grids import Crop, Map, ToGrid, Unflattened, channels_of, check_parts, grid, laid_map

LARGE = 64 * 64
"""Pixels; a larger picture is drawn from a grid of at most so many positions, and its decoder follows memory."""

_NARROWEST = 16  # channels of a sub-pixel decoder at the picture's resolution, at least
_HIDDEN, _SPREAD = 256, 16  # of its fully connected layers: units, and channels of what they give
_MOST_WEIGHTS = 4_000_000
_MOST_WIDENING = 4
_MOST_DIRECT = (2048, 4_000_000)  # values that the linear decoder sees for a position, and its weights
_POSITIONS_A_VALUE = 64  # of the pairs, that its least squares are over
_RIDGES = (1e-4, 1e-3, 1e-2, 0.1, 1.0)  # strengths, in units of the values' mean variance
_PARTS = 10  # of the pairs, of which one chooses the strength
_CORRECTION = 0.05  # scale of what corrects the linear decoder: a first step of training must not drown it
_LINEAR = (0.85, 0.95)  # of what held-out pixels vary by: from there on a decoder starts at what a linear one finds,
_FEW_PAIRS = 500  # of fewer than so many pairs, and of more
_MARGIN = 0.01  # from 0 and 1, of pixels that are corrected by their logits
_CHUNK = 8  # pairs whose neighbourhoods are in memory at once
_USUAL = (1e-3, 10.0)  # variances of features that are taken as they are; the epsilon of batch normalisation is 1e-5


class ResidualBlock(nn.Module):
    """Pre-activation residual block: twice (batch normalisation, ReLU, 3×3 convolution), plus a shortcut.

    The shortcut is the identity, or a 1×1 convolution without bias and batch normalisation where the number of
    channels changes. ``(N, channels, H, W)`` to ``(N, wide, H, W)``.
    """

    def __init__(self, channels: int, wide: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(True),
            nn.Conv2d(channels, wide, 3, padding=1),
            nn.BatchNorm2d(wide),
            nn.ReLU(True),
            nn.Conv2d(wide, wide, 3, padding=1),
        )
        self.shortcut: nn.Module = nn.Identity()
        if channels != wide:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide))

    def forward(self, features: Tensor) -> Tensor:
        total: Tensor = self.body(features) + self.shortcut(features)
        return total


def unusual_variance(features: Tensor, usual: tuple[float, float] = _USUAL) -> float | None:
    """The variance of features ``(M, *cut)`` from one to the next; None where it is usual, 0 or not finite."""
    variance, (least, most) = float(features.double().var(0).mean()), usual
    return None if least <= variance <= most or not 0 < variance < math.inf else variance


def unit_scale(features: Tensor, usual: tuple[float, float] = _USUAL) -> float:
    """What brings features ``(M, *cut)`` to a variance of 1; 1 where it is usual, see `unusual_variance`."""
    variance = unusual_variance(features, usual)
    return 1.0 if variance is None else variance**-0.5


def channel_levels(features: Tensor, channels: tuple[int, ...]) -> Tensor:
    """What each channel of features ``(M, *cut)`` is divided by, ``channels``, see `drowning` and `channels_of`."""
    places = [0, *(axis for axis, count in enumerate(channels, 1) if count == 1)]
    deviations, means = features.std(places, correction=0).float(), features.mean(places).float()
    return drowning(deviations.flatten(), means.flatten()).view(channels)


class ScaledDecoder(nn.Module):
    """A decoder that brings features far from unit scale to a deviation of 1, when it is told what they are like.

    Beside slight ones the epsilon of batch normalisation is large, and so are a first layer's bias and its steps; large
    ones make the first answers far too large. A few channels that drown the others are brought down to these before,
    see `drowning`: else what is 1 for all together leaves the others slight. Weights that were kept before there were
    such a scale and such levels have 1.
    """

    usual: ClassVar[tuple[float, float]] = _USUAL
    """Variances of features that are taken as they are."""

    scale: Tensor
    levels: Tensor

    def __init__(self) -> None:
        """A subclass sets ``levels`` to as many ones as its `laid` features have channels, see `channels_of`."""
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("levels", torch.ones(()))

    def laid(self, features: Tensor) -> Tensor:
        """Features ``(M, *cut)`` with the axes that the levels have."""
        return features

    def scaled(self, features: Tensor) -> Tensor:
        """Features ``(M, *cut)``, laid, at their levels and at the scale."""
        return self.laid(features) / self.levels * self.scale

    @torch.no_grad()
    def adapt(self, features: Tensor) -> None:
        """Takes levels and scale for features ``(M, *cut)``, see `drowning` and `unit_scale`."""
        features = self.laid(features)
        if self.levels.ndim:
            self.levels.copy_(channel_levels(features, tuple(self.levels.shape)))
        self.scale.fill_(unit_scale(features / self.levels, self.usual))

    def added(self) -> dict[str, Tensor]:
        """By name, the state that weights of older versions lack, with the values that change nothing."""
        return {name: torch.ones_like(getattr(self, name), device="cpu") for name in ("scale", "levels")}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:  # noqa: ANN401  # torch's
        for name, value in self.added().items():
            state_dict.setdefault(f"{prefix}{name}", value)
        super()._load_from_state_dict(state_dict, prefix, *others)


class _MapDecoder(ScaledDecoder):
    """A decoder of features that are a map, whose channels `laid_map` puts first."""

    def __init__(self, feature_shape: tuple[int, ...], image_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.to_map = laid_map(feature_shape, image_shape)
        self.levels = torch.ones(self.to_map.map_shape[0], 1, 1)

    def laid(self, features: Tensor) -> Tensor:
        laid: Tensor = self.to_map(features)
        return laid


class ResNormDecoder(_MapDecoder):
    """The residual decoder ``res_normN<blocks>C<channels>``: features ``(N, c, h, w)`` to images ``(N, C, H, W)``.

    Channels may come last, see `laid_map`.

    Li et al., ResSFL, CVPR 2022, and Xia et al., CEM, CVPR 2025 (N8C64 attacks, N4C64 is the surrogate of a defense).
    One residual block to ``channels``, then ``blocks`` more; a transposed convolution of stride 2 with batch
    normalisation for each doubling of the side; a residual block to the image's channels and a sigmoid, so values in
    (0, 1). ReLU follows every part but the last. With fewer than two doublings, residual blocks replace the missing
    ones. Weights are torch's defaults, from its global generator. Grey images are the mean of three channels: with a
    single channel in the last block, about every fourth seed has dead units, at up to 1.7 times the error.

    Args:
        feature_shape: ``(c, h, w)`` or ``(h, w, c)``.
        image_shape: ``(C, H, W)``.
        blocks: Residual blocks after the first.
        channels: Width.

    Raises:
        ValueError: ``image_shape`` is not ``feature_shape`` with both sides times one power of two (1 included).
    """

    def __init__(
        self, feature_shape: tuple[int, ...], image_shape: tuple[int, ...], *, blocks: int = 8, channels: int = 64
    ) -> None:
        if blocks < 0 or channels < 1:
            raise ValueError(f"expected blocks >= 0 and channels >= 1, got {blocks} and {channels}")
        super().__init__(feature_shape, image_shape)
        ups = doublings(self.to_map.map_shape, image_shape)
        layers: list[nn.Module] = [ResidualBlock(self.to_map.map_shape[0], channels), nn.ReLU(True)]
        for _ in range(blocks + max(0, 2 - ups)):
            layers += [ResidualBlock(channels, channels), nn.ReLU(True)]
        for _ in range(ups):
            up = nn.ConvTranspose2d(channels, channels, 3, stride=2, padding=1, output_padding=1)
            layers += [up, nn.BatchNorm2d(channels), nn.ReLU(True)]
        self.grey = image_shape[0] == 1
        self.layers = nn.Sequential(*layers, ResidualBlock(channels, 3 if self.grey else image_shape[0]), nn.Sigmoid())

    def forward(self, features: Tensor) -> Tensor:
        images: Tensor = self.layers(self.scaled(features))
        return images.mean(1, keepdim=True) if self.grey else images


class SubPixelDecoder(_MapDecoder):
    """The attacker's default decoder: features ``(N, c, h, w)`` to images ``(N, C, H, W)``, values in (0, 1).

    Channels may come last, see `laid_map`.

    Normalised features go through a 3×3 convolution and residual blocks at their own resolution; for each doubling of
    the side, a convolution whose channels become 2×2 pixels (Shi et al., "Real-time single image and video
    super-resolution using an efficient sub-pixel convolutional neural network", CVPR 2016) and another residual block.
    Two fully connected layers let each place see the whole feature, where they have at most four million weights. On
    the same pairs, in the same time, it is stronger than `ResNormDecoder`.

    Where a linear decoder finds most of what there is, it corrects that one, see `start_linearly`.

    Args:
        feature_shape: ``(c, h, w)`` or ``(h, w, c)``.
        image_shape: ``(C, H, W)``.
        blocks: Residual blocks at the features' resolution.
        channels: Width there; halved with each doubling, down to 16.

    Raises:
        ValueError: ``image_shape`` is not ``feature_shape`` with both sides times one power of two (1 included).
    """

    def __init__(self, feature_shape: tuple[int, ...], image_shape: Map, *, blocks: int, channels: int) -> None:
        super().__init__(feature_shape, image_shape)
        arriving, high, wide = self.to_map.map_shape
        ups = doublings(self.to_map.map_shape, image_shape)
        widths = [max(channels >> up, min(channels, _NARROWEST)) for up in range(ups + 1)]
        self.normalised = nn.BatchNorm2d(arriving)
        self.local = nn.Conv2d(arriving, channels, 3, padding=1)
        values, spread = arriving * high * wide, _SPREAD * high * wide
        self.whole: nn.Module | None = None
        if _HIDDEN * (values + spread) <= _MOST_WEIGHTS:
            mixed = nn.Conv2d(_SPREAD, channels, 1)
            for weights in mixed.parameters():
                nn.init.zeros_(weights)
            layers = (nn.Flatten(), nn.Linear(values, _HIDDEN), nn.ReLU(True), nn.Linear(_HIDDEN, spread))
            self.whole = nn.Sequential(*layers, nn.Unflatten(1, (_SPREAD, high, wide)), mixed)
        drawn: list[nn.Module] = [ResidualBlock(channels, channels) for _ in range(blocks)]
        for width, narrow in pairwise(widths):
            drawn += [nn.BatchNorm2d(width), nn.ReLU(True), nn.Conv2d(width, 4 * narrow, 3, padding=1)]
            drawn += [nn.PixelShuffle(2), ResidualBlock(narrow, narrow)]
        last = nn.Conv2d(widths[-1], image_shape[0], 3, padding=1)
        self.drawn = nn.Sequential(*drawn, nn.BatchNorm2d(widths[-1]), nn.ReLU(True), last)
        self.direct = _direct(arriving, image_shape[0] * 4**ups)
        if self.direct is not None:
            self.direct.requires_grad_(False)
        self.shuffle = nn.PixelShuffle(2**ups)

    def forward(self, features: Tensor) -> Tensor:
        arrived = self.scaled(features)
        normalised = self.normalised(arrived)
        local = self.local(normalised)
        if self.whole is not None:
            local = local + self.whole(normalised)
        drawn: Tensor = self.drawn(local)
        if self.direct is not None:
            linear = 0.5 + self.shuffle(self.direct(arrived)).float()
            drawn = drawn + linear.clamp(_MARGIN, 1 - _MARGIN).logit().to(drawn.dtype)
        return drawn.sigmoid()

    @torch.no_grad()
    def start_linearly(self, features: Tensor, images: Tensor, draw: torch.Generator) -> None:
        """Starts at the linear decoder of least squares where it explains most of what held-out pixels vary by.

        That is 85 % of fewer than 500 pairs, and 95 % of more, from which the rest learns more by itself. The linear
        decoder stays as it is; the rest, which then begins with nothing, adds to the logits of its pixels. Elsewhere
        nothing changes. Of 3,000 pairs of two shallow encoders of CIFAR-10 the MSE is .0012 and .0005 without such a
        start, .0013 and .0004 with it. Arguments as of `GridDecoder.start_linearly`.
        """
        if self.direct is None:
            return
        fitted = _least_squares(self.direct, self.scaled, features, images, draw)
        if not fitted.explained >= _LINEAR[len(images) >= _FEW_PAIRS]:  # nor where it is not a number
            return
        _start_at_zero(self.drawn)
        fitted.weights[-1] -= 0.5
        _take(self.direct, fitted.weights)

    def added(self) -> dict[str, Tensor]:
        direct = {} if self.direct is None else dict(self.direct.named_parameters())
        zeros = {f"direct.{name}": torch.zeros_like(weights, device="cpu") for name, weights in direct.items()}
        return super().added() | zeros


class GridDecoder(ScaledDecoder):
    """The residual decoder for features of any shape, and pictures of any size.

    Features are brought to one grid of at most `LARGE` positions, see `ToGrid`, normalised by channel, and taken to the
    width of that grid by a 1×1 convolution. Then come residual blocks as `ResNormDecoder`'s, and 3×3 convolutions whose
    channels become 2×2 pixels (Shi et al., "Real-time single image and video super-resolution using an efficient
    sub-pixel convolutional neural network", CVPR 2016), as far as an even number of pixels is between positions; the
    last makes all pixels between the positions of the finest such grid of at most `LARGE`, so that nothing wide is as
    large as a large picture. Beside all this goes one convolution
    from the grid to the pixels, a linear decoder that the rest corrects; `start_linearly` gives it the weights of least
    squares. The sum is cropped to the picture, and in eval mode clamped to [0, 1]. There is no such convolution for
    what comes to the grid by a learned map, vectors, nor where it would be too large. Grey pictures need no three
    channels here: no residual block is as narrow as the picture.

    Args:
        shapes: Of the tensors of features, see `to_map`; several come packed, one after another, as vectors ``(N, D)``.
        image_shape: ``(C, H, W)``.
        blocks: Residual blocks after the first.
        channels: Width of the last two grids; each coarser one is twice as wide, up to four times.

    Raises:
        ValueError: Features have no axes, or an empty one.
    """

    def __init__(self, shapes: tuple[tuple[int, ...], ...], image_shape: Map, *, blocks: int, channels: int) -> None:
        super().__init__()
        self.to_grid = ToGrid(shapes, image_shape, width=channels * _MOST_WIDENING, most=LARGE)
        self.levels = torch.ones(channels_of(shapes, image_shape))
        arriving, spacing = self.to_grid.map_shape[0], self.to_grid.spacing
        spacings = [spacing]
        while spacings[-1] % 2 == 0 and math.prod(grid(image_shape, spacings[-1] // 2)) <= LARGE:
            spacings.append(spacings[-1] // 2)
        widths = [channels * min(max(1, 2 ** (round(math.log2(each)) - 1)), _MOST_WIDENING) for each in spacings]
        last = spacings[-1]
        pixels = image_shape[0] * last**2
        self.normalised = nn.BatchNorm2d(arriving)
        layers: list[nn.Module] = [nn.Conv2d(arriving, widths[0], 1)]
        layers += [ResidualBlock(widths[0], widths[0]) for _ in range(1 + blocks)]
        for wide, narrow in pairwise(widths):
            layers += [nn.BatchNorm2d(wide), nn.ReLU(True), nn.Conv2d(wide, 4 * narrow, 3, padding=1)]
            layers += [nn.PixelShuffle(2)]
        layers += [nn.BatchNorm2d(widths[-1]), nn.ReLU(True), nn.Conv2d(widths[-1], pixels, 3, padding=1)]
        self.layers = nn.Sequential(*layers, nn.PixelShuffle(last))
        self.crop = Crop(image_shape)
        learned = any(True for _ in self.to_grid.parameters())
        self.direct = None if learned else _direct(arriving, image_shape[0] * spacing**2)
        self.drawn = nn.PixelShuffle(spacing)

    def laid(self, features: Tensor) -> Tensor:
        shapes = self.to_grid.shapes
        return features.reshape(-1, *shapes[0]) if len(shapes) == 1 else features

    def forward(self, features: Tensor) -> Tensor:
        arrived = self.to_grid(self.scaled(features))
        images: Tensor = self.layers(self.normalised(arrived))
        if self.direct is not None:
            images = _CORRECTION * images + self.drawn(self.direct(arrived))
        images = self.crop(images)
        return images if self.training else images.clamp(0, 1)

    @torch.no_grad()
    def start_linearly(self, features: Tensor, images: Tensor, draw: torch.Generator) -> None:
        """Gives the linear decoder its final weights, by ridge regression on pairs; the rest starts at a sum of 0.

        Its strength is what does best on a tenth of the pairs after a fit to the others: few pairs want a greater one
        than many. Without such a decoder nothing changes.

        Args:
            features: ``(M, *cut)``.
            images: ``(M, C, H, W)``.
            draw: Of the positions that are looked at, as many from each pair.
        """
        if self.direct is None:
            return
        _start_at_zero(self.layers)
        fitted = _least_squares(self.direct, lambda rows: self.to_grid(self.scaled(rows)), features, images, draw)
        _take(self.direct, fitted.weights)


@dataclass(frozen=True)
class _Linear:
    """Weights ``(values + 1, outputs)``, the last row for a 1, and their share of what held-out pixels vary by."""

    weights: Tensor
    explained: float


def _least_squares(
    direct: nn.Conv2d, laid: Callable[[Tensor], Tensor], features: Tensor, images: Tensor, draw: torch.Generator
) -> _Linear:
    """Ridge regression of the pixels between the positions of a grid on what a convolution sees around each.

    The strength is what does best on a tenth of the pairs after a fit to the others; the weights are of all pairs.
    Values that drown the others, see `drowning`, are penalised as if they were brought down to these.

    Args:
        direct: The convolution, to ``C * factor**2`` outputs.
        laid: Features to the grid ``(B, c, h, w)``.
        features: ``(M, *cut)``.
        images: ``(M, C, H, W)``, of at most ``h * factor`` × ``w * factor`` pixels.
        draw: Of the positions that are looked at, as many from each pair.
    """
    kernel, values = direct.kernel_size[0], direct.weight[0].numel()
    factor = math.isqrt(direct.out_channels // images.shape[1])
    high, wide = laid(features[:1].float()).shape[2:]
    each = min(high * wide, -(-_POSITIONS_A_VALUE * values // len(images)))
    seen = torch.zeros(2, values + 1, values + 1, dtype=torch.float64, device=features.device)
    wanted = torch.zeros(2, values + 1, direct.out_channels, dtype=torch.float64, device=features.device)
    energy = torch.zeros((), dtype=torch.float64, device=features.device)  # of the pixels apart
    padding = (0, wide * factor - images.shape[3], 0, high * factor - images.shape[2])
    size = min(_CHUNK, -(-len(images) // _PARTS))
    for part, (rows, pictures) in enumerate(zip(features.split(size), images.split(size), strict=True)):
        at = torch.randperm(high * wide, generator=draw)[:each].to(features.device)
        around = functional.unfold(laid(rows.float()), kernel, padding=kernel // 2)[:, :, at]
        x = torch.cat([around, torch.ones_like(around[:, :1])], 1).transpose(1, 2).flatten(0, 1)
        cells = functional.pixel_unshuffle(functional.pad(pictures, padding, mode="replicate"), factor)
        y = cells.flatten(2)[:, :, at].transpose(1, 2).flatten(0, 1)
        apart = int(part % _PARTS == 0)
        seen[apart] += (x.T @ x).double()
        wanted[apart] += (x.T @ y).double()
        energy += y.double().square().sum() * apart

    def solved(seen: Tensor, wanted: Tensor, strength: float) -> Tensor:
        count = seen[-1, -1]
        means = seen[-1, :-1] / count
        variances = (seen.diagonal()[:-1] / count - means.square()).clamp(min=0)
        levels = drowning(variances.sqrt(), means).square()
        penalty = torch.zeros_like(seen[0])
        penalty[:-1] = count * strength * (variances / levels).mean().clamp(min=1e-12) * levels
        solution: Tensor = torch.linalg.solve(seen + penalty.diag(), wanted)
        return solution

    def error(strength: float) -> float:  # of the pairs apart, less the energy of their pictures
        found = solved(seen[0], wanted[0], strength)
        return float((found * (seen[1] @ found - 2 * wanted[1])).sum())

    errors = {strength: error(strength) for strength in _RIDGES}
    chosen = min(errors, key=lambda strength: errors[strength])
    varies = float(energy - (wanted[1][-1].square() / seen[1][-1, -1]).sum())
    explained = 1 - (errors[chosen] + float(energy)) / max(varies, 1e-12)
    return _Linear(solved(seen.sum(0), wanted.sum(0), chosen).float(), explained)


def _take(direct: nn.Conv2d, weights: Tensor) -> None:
    """Gives a convolution the weights of least squares, which stay as they are."""
    direct.weight.copy_(weights[:-1].T.view_as(direct.weight))
    assert direct.bias is not None
    direct.bias.copy_(weights[-1])
    direct.requires_grad_(False)


def _start_at_zero(layers: nn.Sequential) -> None:
    """Sets the last convolution to zeros: what corrects a linear decoder begins with nothing."""
    last = next(layer for layer in reversed(layers) if isinstance(layer, nn.Conv2d))
    for weights in last.parameters():
        nn.init.zeros_(weights)


def decoder_for(
    feature_shape: tuple[int, ...],
    image_shape: Map,
    *,
    blocks: int = 8,
    channels: int = 64,
    parts: tuple[tuple[int, ...], ...] | None = None,
    kind: Literal["res-norm", "sub-pixel"] = "res-norm",
) -> ScaledDecoder:
    """The decoder for features of a shape: `ResNormDecoder` or `SubPixelDecoder` where they fit, else `GridDecoder`.

    These two fit maps, see `laid_map`, whose sides are those of the picture divided by one power of two, of pictures of
    at most `LARGE` pixels.

    Args:
        feature_shape: Without batch dimension.
        image_shape: ``(C, H, W)``.
        blocks: Residual blocks after the first.
        channels: Width.
        parts: Shapes of the tensors that flat features pack, one after another, or the one that they were; None: they
            are one tensor.
        kind: Which of the two that fit.

    Raises:
        ValueError: Parts are not what the features hold, or features have no axes, or an empty one.
    """
    if parts is not None:
        check_parts(feature_shape, parts)
    tensors = parts or (feature_shape,)
    shape = tensors[0]
    if len(tensors) > 1 or not of_one_scale(shape, image_shape):
        return GridDecoder(tensors, image_shape, blocks=blocks, channels=channels)
    fitting = SubPixelDecoder if kind == "sub-pixel" else ResNormDecoder
    decoder = fitting(shape, image_shape, blocks=blocks, channels=channels)
    if shape != feature_shape:
        decoder.to_map = Unflattened(shape, decoder.to_map)
    return decoder


def of_one_scale(feature_shape: tuple[int, ...], image_shape: tuple[int, ...]) -> bool:
    """Whether features are a map, see `laid_map`, some `doublings` below a picture of at most `LARGE` pixels.

    One of a single place is none.
    """
    if math.prod(image_shape[1:]) > LARGE:
        return False
    try:
        map_shape = laid_map(feature_shape, image_shape).map_shape
        doublings(map_shape, image_shape)
    except ValueError:
        return False
    return math.prod(map_shape[1:]) > 1


def _direct(arriving: int, outputs: int) -> nn.Conv2d | None:
    """A convolution of weights 0, 3×3 if it is then small enough, or 1×1; None if neither is."""
    most_values, most_weights = _MOST_DIRECT
    for kernel in (3, 1):
        values = arriving * kernel**2
        if values <= most_values and values * outputs <= most_weights:
            direct = nn.Conv2d(arriving, outputs, kernel, padding=kernel // 2)
            for weights in direct.parameters():
                nn.init.zeros_(weights)
            return direct
    return None


def doublings(feature_shape: tuple[int, ...], image_shape: tuple[int, ...]) -> int:
    """Number of 2× upsampling steps from features ``(c, h, w)`` to images ``(C, H, W)``.

    Raises:
        ValueError: The image's sides are not the features' times one power of two (1 included).
    """
    if len(feature_shape) != 3 or len(image_shape) != 3 or min(*feature_shape, *image_shape) < 1:
        raise ValueError(f"expected features (c, h, w) and images (C, H, W), got {feature_shape} and {image_shape}")
    (_, low, narrow), (_, high, wide) = feature_shape, image_shape
    factor = high // low
    if factor < 1 or factor & (factor - 1) or (low * factor, narrow * factor) != (high, wide):
        raise ValueError(
            f"expected images whose sides are those of the features times one power of two, "
            f"got features {feature_shape} and images {image_shape}"
        )
    return factor.bit_length() - 1
