"""A linear probe: what a ridge regression reads from features of something that they were not sent for."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from splitleak.measures.linkage.whitening import levels

_STRENGTHS = tuple(10.0**power for power in range(-5, 3))  # in units of the largest eigenvalue


@dataclass(frozen=True)
class Probe:
    """Features ``(N, ...)`` to scores ``(N, K)`` of K values, the highest of which is the guess."""

    centre: Tensor
    levels: Tensor
    weight: Tensor
    bias: Tensor
    strength: float

    def __call__(self, features: Tensor) -> Tensor:
        """The guess of each feature: ``(N,)``."""
        scores = (features.flatten(1) - self.centre) / self.levels @ self.weight + self.bias
        return scores.argmax(1)


def train_probe(features: Tensor, values: Tensor, draw: torch.Generator, *, held_out: float = 0.2) -> Probe:
    r"""Ridge regression from features, brought to `levels`, to one-hot values, in closed form.

    .. math:: \min_W \|X W - Y\|^2 + \lambda \|W\|^2

    The strength :math:`\lambda` is that of `_STRENGTHS` with the most right guesses on held-out pictures; the probe is
    then fitted to all.

    Args:
        features: ``(M, ...)``.
        values: ``(M,)``, from 0 to K - 1.
        draw: Of the held-out pictures, on the CPU.
        held_out: Their share.

    Raises:
        ValueError: There are fewer than four features, or as many values as features do not come with them.
    """
    if len(features) < 4 or values.shape != (len(features),):
        raise ValueError(f"expected at least 4 features and a value of each, got {len(features)} and {len(values)}")
    order = torch.randperm(len(features), generator=draw)
    kept = order[max(1, round(held_out * len(order))) :]
    out = order[: len(order) - len(kept)]
    classes = int(values.max()) + 1
    rated = []
    for strength, probe in _fitted(features[kept], values[kept], classes, _STRENGTHS):
        rated.append((int((probe(features[out]) == values[out]).sum()), strength))
    chosen = max(rated)[1]  # of equals the strongest
    return _fitted(features, values, classes, (chosen,))[0][1]


def _fitted(features: Tensor, values: Tensor, classes: int, strengths: tuple[float, ...]) -> list[tuple[float, Probe]]:
    flat = features.flatten(1)
    centre = flat.double().mean(0).float()
    rows = flat - centre
    level = levels(rows.square().mean(0).sqrt(), centre)
    rows = rows / level
    hot = functional.one_hot(values, classes).float()
    bias = hot.mean(0)
    wide = rows.shape[1] > rows.shape[0]
    eigenvalues, vectors = torch.linalg.eigh(rows @ rows.T if wide else rows.T @ rows)
    largest = float(eigenvalues[-1].clamp_min(1e-30))
    turned = vectors.T @ ((hot - bias) if wide else rows.T @ (hot - bias))
    probes = []
    for strength in strengths:
        solved = vectors @ (turned / (eigenvalues.clamp_min(0) + strength * largest)[:, None])
        probes.append((strength, Probe(centre, level, rows.T @ solved if wide else solved, bias, strength)))
    return probes


def majority_rate(known: Tensor, values: Tensor) -> float:
    """The share of ``values`` ``(N,)`` that are the most frequent of the ``known`` ones ``(M,)``: without any feature.

    >>> majority_rate(torch.tensor([0, 1, 1]), torch.tensor([1, 0, 0, 1]))
    0.5
    """
    return float((values == torch.bincount(known).argmax()).double().mean())
