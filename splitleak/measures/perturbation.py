"""Small changes to an image that change what a classifier says of it: how robust it is beside how private."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Classifier = Callable[[Tensor], Tensor]
"""Takes images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``."""

_DIFFERENCE_WEIGHT = 0.5  # of Su et al.


def fgsm(model: Classifier, images: Tensor, labels: Tensor, epsilon: float, *, targeted: bool = False) -> Tensor:
    """One step of ``epsilon`` along the sign of the gradient: Goodfellow, Shlens and Szegedy, ICLR 2015.

    Untargeted, it leads away from ``labels`` ``(N,)``; targeted, towards them. Returns images in [0, 1], each value
    within ``epsilon`` of what it was, as all here do.
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
    """Steps of ``step`` along the sign of the gradient: Kurakin, Goodfellow and Bengio, ICLR 2017 workshop.

    ``start`` is where they begin, the images themselves by default.
    """
    found = images if start is None else start
    for _ in range(steps):
        moved = found.detach().requires_grad_()
        loss = functional.cross_entropy(model(moved), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, moved)
        found = found + (-step if targeted else step) * gradient.sign()
        found = _within(found, images, epsilon)
    return found.detach()


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
    """`bim` from a start drawn uniformly within ``epsilon`` of the images: Madry et al., ICLR 2018; one start."""
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
    """Replaces one pixel of each image, place and values, searched for by differential evolution; needs no gradient.

    Su, Vargas and Sakurai, "One pixel attack for fooling deep neural networks", IEEE TEVC 2019: children are
    a + 0.5 (b - c) of three members, with no crossover, and take their parent's place if they are better. Deviation:
    the first members are drawn uniformly, values too.

    Raises:
        ValueError: ``population`` is below 4, which leaves no three others.
    """
    if population < 4:
        raise ValueError(f"expected a population of at least 4, got {population}")
    count, channels = images.shape[:2]
    rows = torch.arange(count, device=images.device)[:, None]

    def painted(members: Tensor) -> Tensor:  # (N, P, 2 + C) in [0, 1] to images (N, P, C, H, W)
        places = [(members[..., i] * side).long().clamp(max=side - 1) for i, side in enumerate(images.shape[2:])]
        made = images[:, None].repeat(1, members.shape[1], 1, 1, 1)
        made[rows, torch.arange(members.shape[1], device=images.device), :, places[0], places[1]] = members[..., 2:]
        return made

    def fitness(members: Tensor) -> Tensor:  # (N, P), higher is better
        logits = model(painted(members).flatten(0, 1))
        own = logits.log_softmax(1).gather(1, labels.repeat_interleave(members.shape[1])[:, None])
        return (own if targeted else -own).view(count, -1)

    members = torch.rand(count, population, 2 + channels, generator=draw).to(images)
    found = fitness(members)
    for _ in range(generations):
        others = torch.rand(count, population, population, generator=draw)
        others.diagonal(dim1=1, dim2=2).fill_(2)  # a member is no parent of its own child
        a, b, c = (members[rows, index] for index in others.argsort(2)[..., :3].to(images.device).unbind(2))
        children = (a + _DIFFERENCE_WEIGHT * (b - c)).clamp(0, 1)
        theirs = fitness(children)
        better = theirs > found
        members = torch.where(better[..., None], children, members)
        found = torch.where(better, theirs, found)
    return painted(members[rows, found.argmax(1)[:, None]])[:, 0]


def _within(found: Tensor, images: Tensor, epsilon: float) -> Tensor:
    return torch.clamp(found, images - epsilon, images + epsilon).clamp(0, 1)
