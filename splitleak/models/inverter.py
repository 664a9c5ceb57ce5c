"""The inverter network from score vectors to images, and the encodings of scores that it takes as input."""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitleak.measures.scores import check_scores, kept_logs, log_rescale
from splitleak.models.architecture import scaled

Rescaling = Literal["joined", "quantiles", "learned", "fixed", "none"]
"""Encoding of scores for an inverter: see `QuantileRescale`, `JoinedRescale`, and `LogRescale` for the others."""

_FIRST_SIDE = 4
_LAST_WIDTH = 128
_OVER_MEAN = 1.5  # standard deviations of the logarithms
_STEEPNESS = 8.0
_LEAST_SPREAD = 1e-6


class PredictionInverter(nn.Sequential):
    """Scores ``(N, classes)``, as `LogRescale` encodes them, to images ``(N, *image_shape)`` in (0, 1).

    Yang et al., CCS 2019 (arXiv:1902.08552), appendix: a transposed convolution 4×4 from 1×1 to 4×4, then one of stride
    2 for each doubling of the side; batch normalisation and Tanh between them, a sigmoid last. Channels halve down to
    128 before the image: 512-256-128 at 32 pixels (2,708,097 parameters with 10 classes), 1024-512-256-128 at 64
    (19,701,377 with 530). ``width`` scales them. Deviations: 256 → 128 where the appendix prints 525 → 128; an image
    that is not square with a side of 4 times a power of two (1 included) is scaled down (bilinear, antialiased) from
    the next larger one that is. Weights are torch's defaults, from its global generator.

    Raises:
        ValueError: There is no class, or an image without pixels.
    """

    def __init__(self, classes: int, image_shape: tuple[int, int, int], width: float = 1.0) -> None:
        if min(classes, *image_shape) < 1:
            raise ValueError(f"expected at least one class and images (C, H, W), got {classes} and {image_shape}")
        side = max(image_shape[1:])
        ups = max(0, (-(-side // _FIRST_SIDE) - 1).bit_length())
        hidden = [scaled(_LAST_WIDTH << left, width) for left in reversed(range(ups))]
        layers: list[nn.Module] = [nn.Unflatten(1, (classes, 1, 1))]
        for index, (before, wide) in enumerate(pairwise([classes, *hidden, image_shape[0]])):
            stride, padding = (2, 1) if index else (1, 0)
            layers.append(nn.ConvTranspose2d(before, wide, 4, stride=stride, padding=padding))
            layers += [nn.BatchNorm2d(wide), nn.Tanh()] if index < ups else [nn.Sigmoid()]
        if image_shape[1:] != (_FIRST_SIDE << ups, _FIRST_SIDE << ups):
            layers.append(_Scaled(image_shape[1:]))
        super().__init__(*layers)


class HiddenLayers(nn.Sequential):
    """Two fully connected layers before an inverter, ``(N, inputs)`` to ``(N, width)``, each with dropout.

    Batch normalisation, ReLU and dropout follow each. They mix the scores before anything has a place in the image, and
    what is dropped keeps a few thousand pairs from being learnt by heart. Ours, from no paper.

    Args:
        inputs: Of the first layer.
        width: Of both.
        dropout: Probability that a value is set to 0 in training.
        draw: The source of randomness of what is dropped, on the CPU.
    """

    def __init__(self, inputs: int, width: int, dropout: float, draw: torch.Generator) -> None:
        layers: list[nn.Module] = []
        for wide in (inputs, width):
            layers += [nn.Linear(wide, width), nn.BatchNorm1d(width), nn.ReLU(), _Dropout(dropout, draw)]
        super().__init__(*layers)


class _Dropout(nn.Module):
    """Dropout whose randomness is a generator's own."""

    def __init__(self, probability: float, draw: torch.Generator) -> None:
        super().__init__()
        self.probability, self.draw = probability, draw

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or not self.probability:
            return values
        kept = torch.rand(values.shape, generator=self.draw).to(values.device) >= self.probability
        return values * kept / (1 - self.probability)


class _Scaled(nn.Module):
    """Images ``(N, C, H, W)`` at another height and width."""

    def __init__(self, sides: tuple[int, int]) -> None:
        super().__init__()
        self.sides = sides

    def forward(self, images: Tensor) -> Tensor:
        return functional.interpolate(images, self.sides, mode="bilinear", antialias=True)


class QuantileRescale(nn.Module):
    """Scores ``(N, K)`` with zeros for "unknown" to ``(N, 2 K)``: normal quantiles per class, and which are known.

    Quantile transform: the normal quantile of the rank of a score among the known scores of the class in ``like``
    ``(M, K)``, mid-rank for ties, 0 if unknown. It is invariant to what preserves the order within a class (a
    temperature, nearly a purifier), and distinguishes the lowest score from an unknown one. Ours, from no paper; M K
    numbers are stored.
    """

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        check_scores(like)
        self.reference: Tensor
        self.register_buffer("reference", like.T.sort(1).values.contiguous())

    def forward(self, scores: Tensor) -> Tensor:
        check_scores(scores)
        unknown = (self.reference == 0).sum(1, keepdim=True)
        values = scores.T.contiguous()
        below, up_to = (torch.searchsorted(self.reference, values, right=right) - unknown for right in (False, True))
        known = self.reference.shape[1] - unknown
        share = ((below + up_to) / 2 + 0.5) / (known + 1)
        return torch.cat([torch.special.ndtri(share).T.where(scores > 0, 0), (scores > 0).to(scores.dtype)], 1)


class JoinedRescale(nn.Module):
    """Scores ``(N, K)`` with zeros for "unknown" to ``(N, 3 K)``: their ranks and their logarithms, side by side.

    Ranks by `QuantileRescale`, which spreads what a confident classifier crowds together, and logarithms by a learned
    `LogRescale`, which keep how much lower a score is. Ours, from no paper.
    """

    def __init__(self, c: float | None, like: Tensor) -> None:
        super().__init__()
        self.ranks, self.logarithms = QuantileRescale(like), LogRescale("learned", c, like=like)

    @property
    def c(self) -> float:
        """The current value of the logarithms' constant."""
        return self.logarithms.c

    def forward(self, scores: Tensor) -> Tensor:
        return torch.cat([self.ranks(scores), self.logarithms(scores)], 1)


class LogRescale(nn.Module):
    """Scores ``(N, K)`` with zeros for "unknown" to the inverter's input, of the same shape and with the same zeros.

    ``learned``: ``log p / s + u`` through a steep softplus, so above 0 for any p and u, with u trained. It is
    ``log p + c`` (Yang et al., CCS 2019, equation 12), c = s u, in units of s, the standard deviation of the logarithms
    in the training data. Lower probabilities are nearer to "unknown". The inverter's first layer could absorb s, but
    without it a service that flattens its scores would appear protected, since c would dominate the differences.
    ``fixed``: `log_rescale`, as in the published code, where the smallest may coincide with "unknown".
    ``none``: the unchanged scores, in which a confident classifier hides all but its top-1 score.

    Args:
        how: ``learned``, ``fixed`` or ``none``.
        c: Initial c; by default 50 if fixed, as published, and 1.5 s minus the logarithms' mean if learned.
        like: Scores ``(M, K)`` like the training data, for s and the mean; without them s is 10 and the mean -5.
    """

    def __init__(self, how: Rescaling, c: float | None = None, *, like: Tensor | None = None) -> None:
        super().__init__()
        self.how = how
        mean, spread = -5.0, 10.0
        if like is not None and len(logs := kept_logs(like)[like > 0].double()):
            mean, spread = logs.mean().item(), logs.std(correction=0).item()
        if how != "learned" or spread < _LEAST_SPREAD:
            spread = 1.0
        default = {"learned": _OVER_MEAN * spread - mean, "fixed": 50.0}.get(how, 0.0)
        units = (default if c is None else c) / spread
        self.spread: Tensor
        self.register_buffer("spread", torch.tensor(spread))
        self.units: Tensor
        if how == "learned":
            self.units = nn.Parameter(torch.tensor(units))
        else:
            self.register_buffer("units", torch.tensor(units))

    @property
    def c(self) -> float:
        """The current value of the constant."""
        return float(self.units.detach() * self.spread)

    def forward(self, scores: Tensor) -> Tensor:
        if self.how == "learned":
            bent = functional.softplus(kept_logs(scores) / self.spread + self.units, _STEEPNESS)
            return bent.where(scores > 0, 0)
        return log_rescale(scores, self.c) if self.how == "fixed" else scores
