"""Gradient descent on rows, each with a loss of its own: latents, inputs of a layer, pixels."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Adam

from splitleak.attacker.base import Run
from splitleak.attacker.training.fitting import cosine, set_rate
from splitleak.config import digest
from splitleak.seeding import generator
from splitleak.training.fit import Resumable, step_ranges

BATCH = 256
"""Rows in one pass, at most; does not change what becomes of one."""

_NOISY = 0.375  # share of the steps at which rows are noisy

Objective = Callable[[Tensor, slice], tuple[Tensor, Tensor]]
"""Rows ``(b, ...)``, and which of all they are, to the error of each ``(b,)`` and the penalty beside it ``(b,)``."""


@dataclass(frozen=True)
class Stage:
    """A descent by Adam (AMSGrad): its name, its steps, and the learning rate, which falls along a cosine."""

    name: str
    steps: int
    learning_rate: float
    epsilon: float = 1e-8


@dataclass(frozen=True)
class Descended:
    """The rows with the least error on their way, the start included; those errors ``(B,)``; and how they fell."""

    rows: Tensor
    errors: Tensor
    history: list[dict[str, float]]


def descend_rows(
    stage: Stage,
    start: Tensor,
    objective: Objective,
    run: Run,
    identity: object,
    *,
    noise: Tensor | None = None,
    constrain: Callable[[Tensor], None] | None = None,
    at_once: int = BATCH,
) -> Descended:
    """Descends on the sum of error and penalty; resumable.

    Args:
        stage: Its name, also of checkpoint and random stream, and how long and how fast.
        start: The rows ``(B, ...)``.
        objective: Of rows; no row's depends on another.
        run: Seed, report and checkpoint.
        identity: What the objective depends on, for the checkpoint's fingerprint.
        noise: Deviation ``(...)`` of what is added to rows at first: less and less, none after 3/8 of the steps.
        constrain: Projects all rows, in place, after a step.
        at_once: Rows in one pass, see `affordable_rows`.
    """
    values = nn.Parameter(start.clone())
    optimizer, draw = (
        Adam([values], stage.learning_rate, eps=stage.epsilon, amsgrad=True),
        generator(run.seed, stage.name),
    )
    sums = [float(start.double().sum()), float(start.double().square().sum())]
    state = Resumable(
        identity=digest([stage.name, stage.steps, stage.learning_rate, stage.epsilon, run.seed, sums, identity]),
        modules={"rows": nn.ParameterDict({"rows": values})},
        optimizers={"adam": optimizer},
        generators={"noise": draw},
        kept={"rows": start.clone(), "errors": torch.full((len(start),), torch.inf, device=start.device)},
    )
    parts = [slice(at, at + at_once) for at in range(0, len(start), at_once)]

    def look(seen: Tensor, part: slice) -> Tensor:
        errors, penalty = objective(seen, part)
        better = errors.detach() < state.kept["errors"][part]
        state.kept["errors"][part] = torch.where(better, errors.detach(), state.kept["errors"][part])
        of_rows = better.view(-1, *[1] * (seen.ndim - 1))
        state.kept["rows"][part] = torch.where(of_rows, seen.detach(), state.kept["rows"][part])
        return errors + penalty

    for steps in step_ranges(stage.name, stage.steps, state, run.part(stage.name).checkpoint, run.report):
        for step in steps:
            share = step / stage.steps
            set_rate(optimizer, stage.learning_rate * cosine(share))
            moved, strength = values.detach(), max(0.0, 1 - share / _NOISY) ** 2
            if noise is not None and strength:
                moved = moved + strength * noise * torch.randn(moved.shape, generator=draw).to(moved.device)
            values.grad = torch.empty_like(values)
            for part in parts:
                seen = moved[part].requires_grad_()
                (values.grad[part],) = torch.autograd.grad(look(seen, part).sum(), seen)
            optimizer.step()
            if constrain is not None:
                with torch.no_grad():
                    constrain(values)
        state.history.append({"error": float(state.kept["errors"].mean())})
    with torch.no_grad():
        for part in parts:
            look(values.detach()[part], part)
    return Descended(state.kept["rows"], state.kept["errors"], state.history)
