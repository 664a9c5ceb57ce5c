"""The simplest defenses, as a scan puts them on the features of a cut: noise, and fewer channels."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from splitleak.attacker.training.layout import Layout, Shape
from splitleak.seeding import generator

_ROWS = 4096  # places that statistics are taken over, at most

Defend = Callable[[Tensor], Tensor]
"""Features ``(B, *shape)`` to what is sent instead."""


@dataclass(frozen=True)
class Defended:
    """What is sent under a defense: its shapes, and how features become it. The random stream of noise goes on."""

    name: str  # "none" for the features as they are
    shapes: tuple[Shape, ...]
    defend: Defend = field(default=lambda features: features)
    randomised: bool = False


def noise(shapes: Sequence[Shape], sample: Tensor, sigma: float, seed: int) -> Defended:
    """Gaussian noise of ``sigma`` standard deviations of the feature.

    Args:
        shapes: Of the tensors.
        sample: Features ``(N, *shape)``, whose deviation over all values counts.
        sigma: At least 0.
        seed: Of the noise.
    """
    scale = sigma * float(sample.double().std())
    stream = generator(seed, "scan", "noise", sigma)

    def defend(features: Tensor) -> Tensor:
        return features + scale * torch.randn(features.shape, generator=stream)

    return Defended(f"noise {sigma:g}", tuple(shapes), defend, randomised=True)


def bottleneck(shapes: Sequence[Shape], sample: Tensor, channels: int, layout: Layout, seed: int) -> Defended | None:
    """The leading principal components of the channels; None where there are no more channels than that.

    Tokens without a place are left out.

    Args:
        shapes: Of the tensors.
        sample: Features ``(N, *shape)`` that the components are those of.
        channels: How many are kept.
        layout: Of the features.
        seed: Of the places of the sample.
    """
    if channels >= layout.channels:
        return None
    rows = layout(sample)[0].permute(0, 2, 3, 1).flatten(0, 2).double()
    chosen = torch.randperm(len(rows), generator=generator(seed, "scan", "components"))[:_ROWS]
    rows = rows[chosen] - rows[chosen].mean(0)
    if rows.shape[1] <= len(rows):
        axes = torch.linalg.eigh(rows.T @ rows).eigenvectors.flip(1)
    else:
        axes = torch.linalg.svd(rows, full_matrices=False).Vh.T
    axes = axes[:, :channels].float()

    def defend(features: Tensor) -> Tensor:
        return torch.einsum("bchw,ck->bkhw", layout(features)[0], axes)

    return Defended(f"bottleneck {axes.shape[1]}", ((axes.shape[1], layout.height, layout.width),), defend)


def plain(shapes: Sequence[Shape]) -> Defended:
    """The features as they are."""
    return Defended("none", tuple(shapes))


def defenses(
    shapes: Sequence[Shape],
    sample: Tensor,
    picture: tuple[int, int],
    grids: Collection[tuple[int, int]],
    sigmas: Sequence[float],
    channels: Sequence[int],
    seed: int,
) -> list[Defended]:
    """All that are asked for, and fit: noise of each of ``sigmas``, and so many ``channels``; see above."""
    found = [noise(shapes, sample, sigma, seed) for sigma in sigmas]
    layout = Layout(shapes, picture, grids)
    narrowed = [bottleneck(shapes, sample, count, layout, seed) for count in channels]
    return found + [each for each in narrowed if each is not None]
