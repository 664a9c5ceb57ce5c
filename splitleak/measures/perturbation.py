"""Adversarial examples (FGSM, BIM, PGD, one-pixel attack): the adversarial robustness of a classifier."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Classifier = Callable[[Tensor], Tensor]
"""Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``."""

_DIFFERENCE_WEIGHT = 0.5  # of Su et al.


def fgsm(model: Classifier, images: Tensor, labels: Tensor, epsilon: float, *, targeted: bool = False) -> Tensor:
    """Fast gradient sign method: Goodfellow, Shlens and Szegedy, ICLR 2015.

    Args:
        model: The classifier.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``: the true classes; if ``targeted``, the classes to reach.
        epsilon: L-infinity bound of the perturbation, in units of [0, 1].
        targeted: Descend on the loss instead of ascending.

    Returns:
        ``(N, C, H, W)`` in [0, 1].
    """
    return bim(model, images, labels, epsilon, step=epsilon, steps=1, targeted=targeted)


def bim(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    step: float,
    steps: int,
    targeted: bool = False,
    start: Tensor | None = None,
) -> Tensor:
    """Basic iterative method: Kurakin, Goodfellow and Bengio, ICLR 2017 workshop.

    Args:
        model: The classifier.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``, as of `fgsm`.
        epsilon: L-infinity bound of the perturbation, in units of [0, 1].
        step: Step size, in units of [0, 1].
        steps: Number of steps.
        targeted: Descend on the loss instead of ascending.
        start: Initial images, by default ``images``.
    """
    perturbed = images if start is None else start
    for _ in range(steps):
        moved = perturbed.detach().requires_grad_()
        loss = functional.cross_entropy(model(moved), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, moved)
        perturbed = perturbed + (-step if targeted else step) * gradient.sign()
        perturbed = _within(perturbed, images, epsilon)
    return perturbed.detach()


def pgd(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    step: float,
    steps: int,
    draw: torch.Generator,
    targeted: bool = False,
) -> Tensor:
    """Projected gradient descent: `bim` with one random start, uniform within ``epsilon``: Madry et al., ICLR 2018.

    Arguments as of `bim`; ``draw`` is a CPU generator.
    """
    noise = torch.rand(images.shape, generator=draw).to(images) * 2 - 1
    start = _within(images + epsilon * noise, images, epsilon)
    return bim(model, images, labels, epsilon, step=step, steps=steps, targeted=targeted, start=start)


@torch.no_grad()
def one_pixel(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    population: int,
    generations: int,
    draw: torch.Generator,
    targeted: bool = False,
) -> Tensor:
    """One-pixel attack: differential evolution of position and value of one pixel per image; gradient-free.

    Su, Vargas and Sakurai, "One pixel attack for fooling deep neural networks", IEEE TEVC 2019: children are
    a + 0.5 (b - c) of three members, without crossover, and replace their parent if they are better. Deviation: the
    initial population is uniform in positions and values.

    Args:
        model: The classifier.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``, as of `fgsm`.
        population: Members per image, at least 4.
        generations: Number of generations.
        draw: CPU generator.
        targeted: Maximise the probability of ``labels`` instead of minimising it.

    Raises:
        ValueError: ``population`` is below 4, which leaves no three other members.
    """
    if population < 4:
        raise ValueError(f"expected a population of at least 4, got {population}")
    count, channels = images.shape[:2]
    rows = torch.arange(count, device=images.device)[:, None]

    def painted(members: Tensor) -> Tensor:  # (N, P, 2 + C) in [0, 1] to images (N, P, C, H, W)
        places = [(members[..., i] * side).long().clamp(max=side - 1) for i, side in enumerate(images.shape[2:])]
        canvas = images[:, None].repeat(1, members.shape[1], 1, 1, 1)
        canvas[rows, torch.arange(members.shape[1], device=images.device), :, places[0], places[1]] = members[..., 2:]
        return canvas

    def fitness(members: Tensor) -> Tensor:  # (N, P), higher is better
        logits = model(painted(members).flatten(0, 1))
        own = logits.log_softmax(1).gather(1, labels.repeat_interleave(members.shape[1])[:, None])
        return (own if targeted else -own).view(count, -1)

    members = torch.rand(count, population, 2 + channels, generator=draw).to(images)
    best = fitness(members)
    for _ in range(generations):
        others = torch.rand(count, population, population, generator=draw)
        others.diagonal(dim1=1, dim2=2).fill_(2)  # excludes the member itself from its three partners
        a, b, c = (members[rows, index] for index in others.argsort(2)[..., :3].to(images.device).unbind(2))
        children = (a + _DIFFERENCE_WEIGHT * (b - c)).clamp(0, 1)
        child_fitness = fitness(children)
        better = child_fitness > best
        members = torch.where(better[..., None], children, members)
        best = torch.where(better, child_fitness, best)
    return painted(members[rows, best.argmax(1)[:, None]])[:, 0]


def _within(perturbed: Tensor, images: Tensor, epsilon: float) -> Tensor:
    return torch.clamp(perturbed, images - epsilon, images + epsilon).clamp(0, 1)
