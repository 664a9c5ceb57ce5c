"""Defenses compose: a stack applies them in order, adds up their penalties and passes every hook on."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from splitleak.config import Config
from splitleak.defenses import DEFENSES
from splitleak.defenses.base import Defense, EpochEnd, Start, Step
from splitleak.models.split import SplitModel
from splitleak.seeding import generator


class DefenseConfig(Config):
    """One element of a stack: the defense's name, and its own configuration with every default spelled out."""

    name: str
    config: dict[str, Any]

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, values: object) -> object:
        """Takes ``{name, channels, ...}`` as users write it, or ``{name, config}`` as it is stored."""
        if not isinstance(values, dict) or values.get("name") not in DEFENSES:
            got = values.get("name") if isinstance(values, dict) else values
            raise ValueError(f"expected a defense of {', '.join(sorted(DEFENSES))}, got {got!r}")
        given = values.get("config", {key: value for key, value in values.items() if key != "name"})
        name = values["name"]
        config = DEFENSES[name].config_type.parse(given, source=f"defense {name!r}")
        return {"name": name, "config": config.document()}

    def build(self) -> Defense:
        """The defense itself, not yet prepared."""
        kind = DEFENSES[self.name]
        return kind(kind.config_type.model_validate(self.config))

    def pinned(self) -> "DefenseConfig":
        """This element with what it names on disk told by contents too (see `Defense.pinned`)."""
        kind = DEFENSES[self.name]
        config = kind.pinned(kind.config_type.model_validate(self.config))
        return self.model_copy(update={"config": config.document()})


class Stack(nn.Module):
    """Defenses in the order in which they act; an empty stack is no defense."""

    def __init__(self, defenses: Sequence[Defense]) -> None:
        super().__init__()
        self.defenses = nn.ModuleList(defenses)
        variance = sum(defense.noise_variance for defense in defenses)
        for defense in defenses:
            defense.noise_variance_on_wire = variance

    @classmethod
    def build(cls, configs: Sequence[DefenseConfig], *, on_wire_only: bool = False) -> "Stack":
        """The stack of ``configs``, or only those of it that act on what is sent (all that an edge needs)."""
        built = [config.build() for config in configs]
        return cls([defense for defense in built if defense.acts_on_wire() or not on_wire_only])

    def __iter__(self) -> Any:  # noqa: ANN401  # ModuleList is not generic
        return iter(self.defenses)

    def seed(self, seed: int | None, device: torch.device) -> None:
        """Gives every defense a random stream of its own; ``None`` seeds them from the operating system."""
        for position, defense in enumerate(self):
            defense.generator = generator(seed, "defense", position, defense.name, device=device)

    def generators(self) -> dict[str, torch.Generator]:
        """The random streams by position, for a checkpoint."""
        return {str(position): defense.generator for position, defense in enumerate(self)}

    def prepare(self, model: SplitModel, classes: int) -> None:
        """Lets each defense rebuild its parts of the model, in order.

        Raises:
            ValueError: Several have a task loss of their own, or the model does not suit one.
        """
        rivals = [defense.name for defense in self if defense.replaces_task_loss()]
        if len(rivals) > 1:
            raise ValueError(f"expected one defense with a task loss of its own, got {', '.join(rivals)}")
        for defense in self:
            defense.prepare(model, classes)

    def begin(self, start: Start) -> None:
        """Tells each defense that training begins."""
        for defense in self:
            defense.begin(start)

    def batches(self, labels: Tensor, batch_size: int, draw: torch.Generator) -> Sequence[Tensor]:
        """The indices of each batch of an epoch: the first defense's that asks for its own, or a shuffle's."""
        for defense in self:
            planned: Sequence[Tensor] | None = defense.batches(labels, batch_size, draw)
            if planned is not None:
                return planned
        return list(torch.randperm(len(labels), generator=draw).split(batch_size))

    def forward(self, features: Tensor) -> Tensor:
        """What crosses the wire: ``(N, *cut)`` in, ``(N, *cut)`` out."""
        for defense in self:
            features = defense(features)
        return features

    def task_loss(self, logits: Tensor, labels: Tensor, epoch: int) -> Tensor:
        """The task loss of the one defense that has one for now, or cross-entropy."""
        given = (defense.task_loss(logits, labels, epoch) for defense in self)
        loss: Tensor | None = next((loss for loss in given if loss is not None), None)
        return functional.cross_entropy(logits, labels) if loss is None else loss

    def penalty(self, step: Step) -> Tensor | None:
        """The sum of what the defenses add to the task loss, or nothing."""
        terms = [term for defense in self if (term := defense.penalty(step)) is not None]
        return torch.stack(terms).sum() if terms else None

    @property
    def gradient_limit(self) -> float | None:
        """The shortest length that a defense cuts gradients to, or nothing."""
        limits = [limit for defense in self if (limit := defense.gradient_limit) is not None]
        return min(limits) if limits else None

    def on_epoch(self, end: EpochEnd) -> None:
        """Passes the end of an epoch on."""
        for defense in self:
            defense.on_epoch(end)

    def finish(self, model: SplitModel) -> None:
        """Lets each defense take down what only training needed, in order."""
        for defense in self:
            defense.finish(model)

    def findings(self, model: SplitModel) -> dict[str, dict[str, Any]]:
        """What the defenses have to say of the training, by name; silent ones are left out."""
        return {defense.name: found for defense in self if (found := defense.findings(model))}

    def task_parameters(self) -> Iterator[nn.Parameter]:
        """The weights of the defenses that the target's optimiser trains."""
        return (parameter for defense in self for parameter in defense.task_parameters())

    def optimizers(self) -> dict[str, Optimizer]:
        """The optimisers of the defenses by position and name, for a checkpoint."""
        return {
            f"{position}-{name}": optimizer
            for position, defense in enumerate(self)
            for name, optimizer in defense.optimizers().items()
        }

    def on_wire_state(self) -> dict[str, Tensor]:
        """The weights of the defenses that act on what is sent, numbered as in a stack of these alone."""
        acting = nn.ModuleList([defense for defense in self if defense.acts_on_wire()])
        return {f"defenses.{name}": tensor for name, tensor in acting.state_dict().items()}
