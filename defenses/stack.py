"""A stack of defenses: applies them in order, sums their penalties and forwards every hook."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from splitleak.config import Config
from splitleak.defenses import DEFENSES
from splitleak.defenses.base import AdaptiveAttack, Defense, EpochEnd, Step, TrainingStart
from splitleak.models.split import SplitModel
from splitleak.seeding import generator

_DRAWS = 32  # of which a mean is taken


class DefenseConfig(Config):
    """One element of a stack: the defense's name, and its own configuration including all defaults."""

    name: str
    config: dict[str, Any]

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, values: object) -> object:
        """Accepts ``{name, channels, ...}`` as users write it, or ``{name, config}`` as it is stored."""
        if not isinstance(values, dict):
            raise ValueError(f"expected a table with a defense's name, got {values!r}")
        name = values.get("name")
        kind = DEFENSES.choose(name)
        given = values.get("config", {key: value for key, value in values.items() if key != "name"})
        config = kind.config_type.parse(given, source=f"defense {name!r}")
        return {"name": name, "config": config.document()}

    def build(self) -> Defense:
        """The defense itself, not yet prepared."""
        kind = DEFENSES[self.name]
        return kind(kind.config_type.model_validate(self.config))

    @property
    def adaptive_attacks(self) -> frozenset[AdaptiveAttack]:
        """See `Defense.adaptive_attacks`."""
        return self.build().adaptive_attacks

    def pinned(self) -> "DefenseConfig":
        """This element with content hashes of the files it refers to (see `Defense.pinned`)."""
        kind = DEFENSES[self.name]
        config = kind.pinned(kind.config_type.model_validate(self.config))
        return self.model_copy(update={"config": config.document()})


class Stack(nn.Module):
    """Defenses in the order in which they are applied; an empty stack is no defense."""

    def __init__(self, defenses: Sequence[Defense]) -> None:
        super().__init__()
        self.defenses = nn.ModuleList(defenses)
        self._misplaced: str | None = None  # what is wrong with the order
        variance = sum(defense.noise_variance for defense in defenses)
        for defense in defenses:
            defense.noise_variance_on_wire = variance

    @classmethod
    def build(cls, configs: Sequence[DefenseConfig], *, on_wire_only: bool = False) -> "Stack":
        """The stack of ``configs``; ``on_wire_only``: only of those that act on the wire (all that an edge needs)."""
        built = [config.build() for config in configs]
        return cls([defense for defense in built if defense.acts_on_wire() or not on_wire_only])

    def __iter__(self) -> Any:  # noqa: ANN401  # ModuleList is not generic
        return iter(self.defenses)

    @property
    def public_channels(self) -> int:
        """How many of the last channels sent tell nothing of the image, see `Defense.public_channels`."""
        return sum(defense.public_channels for defense in self)

    def seed(self, seed: int | None, device: torch.device) -> None:
        """Gives every defense its own generator; ``None`` seeds them from the operating system."""
        for position, defense in enumerate(self):
            defense.generator = generator(seed, "defense", position, defense.name, device=device)

    def generators(self) -> dict[str, torch.Generator]:
        """The defenses' generators by position, for the checkpoint."""
        return {str(position): defense.generator for position, defense in enumerate(self)}

    def prepare(self, model: SplitModel, classes: int) -> None:
        """Calls `Defense.prepare` of each defense, in order.

        Raises:
            ValueError: Several have a task loss of their own, or the model does not suit one.
        """
        replacing = [defense.name for defense in self if defense.replaces_task_loss()]
        if len(replacing) > 1:
            raise ValueError(f"expected one defense with a task loss of its own, got {', '.join(replacing)}")
        acting: list[Defense] = []
        for defense in self:
            encoder = model.encoder
            defense.prepare(model, classes)
            telling = next((each for each in acting if each.public_channels), None)
            if acting and model.encoder is not encoder and not defense.acts_on_wire():
                expected = f"before {acting[0].name}, which acts on what the whole encoder gives"
                self._misplaced = f"{defense.name}: expected {expected}, got it after that"
            elif telling is not None and defense.randomised:
                expected = f"before {telling.name}, which tells the cloud how to read what is sent"
                self._misplaced = f"{defense.name}: expected {expected}, got it after that"
            if defense.acts_on_wire():
                acting.append(defense)

    def begin(self, start: TrainingStart) -> None:
        """Calls `Defense.begin` of each defense.

        Raises:
            ValueError: One that puts layers behind the encoder comes after one that acts on what is sent: that acts
                behind these layers, whatever the order. Or one that draws comes after one that tells the cloud
                something, which it would garble. Or a setting that differs from its default has no effect. (An artifact
                that was trained so is loaded all the same.)
        """
        if self._misplaced is not None:
            raise ValueError(self._misplaced)
        for defense in self:
            fields = defense.config_type.model_fields
            if idle := [
                name for name in sorted(defense.unused) if getattr(defense.config, name) != fields[name].default
            ]:
                expected = "settings with an effect beside the others"
                raise ValueError(f"{defense.name}: expected {expected}, got {', '.join(idle)}")
            defense.begin(start)

    def batches(self, labels: Tensor, batch_size: int, draw: torch.Generator) -> Sequence[Tensor]:
        """The indices of each batch of an epoch, by the first defense with its own sampler, or by plain shuffling."""
        for defense in self:
            batches: Sequence[Tensor] | None = defense.batches(labels, batch_size, draw)
            if batches is not None:
                return batches
        return list(torch.randperm(len(labels), generator=draw).split(batch_size))

    def forward(self, features: Tensor) -> Tensor:
        """Features ``(N, *cut)`` to the features as transmitted, ``(N, *cut)``."""
        for defense in self:
            features = defense(features)
        return features

    def expected(self, features: Tensor) -> Tensor:
        """`forward` without randomness, see `Defense.expected`; the mean of several draws, where one is rounded."""
        defenses = list(self)
        drawn = _drawn(defenses)
        if drawn:
            features = _mean(defenses[:drawn], features)
        for defense in defenses[drawn:]:
            features = defense.expected(features)
        return features

    def undone(self, sent: Tensor, crossings: int = 1) -> Tensor:
        """Transmitted features ``(N, *cut)`` without the defenses that can be undone, see `Defense.undone`."""
        for defense in reversed(list(self)):
            sent = defense.undone(sent, crossings)
        return sent

    def task_loss(self, logits: Tensor, labels: Tensor, epoch: int, smoothing: float = 0.0) -> Tensor:
        """The task loss of the defense that has one in this epoch, or the cross-entropy with label ``smoothing``."""
        losses = (defense.task_loss(logits, labels, epoch) for defense in self)
        loss: Tensor | None = next((loss for loss in losses if loss is not None), None)
        return functional.cross_entropy(logits, labels, label_smoothing=smoothing) if loss is None else loss

    def penalty(self, step: Step) -> Tensor | None:
        """The sum of the defenses' penalties, or None."""
        terms = [term for defense in self if (term := defense.penalty(step)) is not None]
        return torch.stack(terms).sum() if terms else None

    @property
    def gradient_limit(self) -> float | None:
        """The smallest gradient clipping norm of the defenses, or None."""
        limits = [limit for defense in self if (limit := defense.gradient_limit) is not None]
        return min(limits) if limits else None

    def on_epoch(self, end: EpochEnd) -> None:
        """Calls `Defense.on_epoch` of each defense."""
        for defense in self:
            defense.on_epoch(end)

    def finish(self, model: SplitModel) -> None:
        """Calls `Defense.finish` of each defense, in order."""
        for defense in self:
            defense.finish(model)

    def findings(self, model: SplitModel) -> dict[str, dict[str, Any]]:
        """The defenses' training statistics by name, without empty ones."""
        return {defense.name: findings for defense in self if (findings := defense.findings(model))}

    def task_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the defenses that the target's optimiser trains."""
        return (parameter for defense in self for parameter in defense.task_parameters())

    def optimizers(self) -> dict[str, Optimizer]:
        """The optimisers of the defenses by position and name, for the checkpoint."""
        return {
            f"{position}-{name}": optimizer
            for position, defense in enumerate(self)
            for name, optimizer in defense.optimizers().items()
        }

    def on_wire_state(self) -> dict[str, Tensor]:
        """The state of the defenses that act on the wire, numbered as in a stack of these alone."""
        acting = nn.ModuleList([defense for defense in self if defense.acts_on_wire()])
        return {f"defenses.{name}": tensor for name, tensor in acting.state_dict().items()}


def _drawn(defenses: Sequence[Defense]) -> int:
    """Of how many of the first defenses the mean takes draws: up to the last that may round or clamp what was drawn."""
    drawing, drawn = False, 0
    for place, defense in enumerate(defenses, 1):
        if defense.randomised:
            drawing = True
        elif drawing and defense.acts_on_wire() and type(defense).undone is Defense.undone:
            drawn = place
    return drawn


def _mean(defenses: Sequence[Defense], features: Tensor) -> Tensor:
    """The mean of what defenses send of features ``(N, *cut)``, over the same draws at each call."""
    own = [defense.generator for defense in defenses]
    draw = None if features.is_meta else generator(0, "expected", device=features.device)
    try:
        for defense in defenses:
            defense.generator = draw
        total = torch.zeros_like(features)
        for _ in range(_DRAWS):
            sent = features
            for defense in defenses:
                sent = defense(sent) if defense.randomised else defense.expected(sent)
            total = total + sent / _DRAWS
        return total
    finally:
        for defense, before in zip(defenses, own, strict=True):
            defense.generator = before
