"""What a defense is: a module on the wire, with hooks that all default to nothing."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from splitleak.config import Config
from splitleak.models.split import SplitModel


@dataclass(frozen=True)
class Step:
    """One training step, as a defense sees it when it is asked for its penalty."""

    images: Tensor  # (N, C, H, W) in [0, 1]
    labels: Tensor  # (N,) int64
    features: Tensor  # (N, *cut) what the encoder gives, before anything random happens to it
    sent: Tensor  # (N, *cut) what crosses the wire
    logits: Tensor  # (N, classes)
    epoch: int  # from 0
    learning_rate: float


@dataclass(frozen=True)
class Start:
    """What a defense learns when a training begins."""

    model: SplitModel
    dataset: str
    classes: tuple[str, ...]  # names, in the order of the labels
    epochs: int


@dataclass(frozen=True)
class EpochEnd:
    """What a defense learns after an epoch.

    ``survey()`` passes the augmented training images through the encoder in eval mode and returns features
    ``(N, *cut)`` and labels ``(N,)``. It costs a forward pass over the set, once however many defenses ask.
    """

    epoch: int  # from 0, the one that has just ended
    epochs: int  # of the whole training
    survey: Callable[[], tuple[Tensor, Tensor]]


class Defense(nn.Module):
    """One protection of what is sent. A subclass overrides the hooks it needs; the training loop calls them all.

    `forward` acts in training and at inference alike: the classifier and the attacker see the same tensor.
    """

    name: ClassVar[str]
    config_type: ClassVar[type[Config]]
    randomised: ClassVar[bool] = False
    """Whether `forward` draws anew at every call, so that who sees an image often may average."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.generator: torch.Generator | None = None
        self.noise_variance_on_wire = 0.0

    @classmethod
    def pinned(cls, config: Config) -> Config:
        """``config`` with what it names on disk told by contents too, so that its digest tells them apart."""
        return config

    @property
    def noise_variance(self) -> float:
        """Variance of the noise that `forward` adds to each value; 0 where it adds none."""
        return 0.0

    def prepare(self, model: SplitModel, classes: int) -> None:
        """Rebuilds parts of the model before training, or makes room for statistics of its features."""

    def begin(self, start: Start) -> None:
        """Called once before training, interrupted or not, and never when a trained half is loaded."""

    def batches(self, labels: Tensor, batch_size: int, draw: torch.Generator) -> Sequence[Tensor] | None:
        """The indices of each batch of an epoch, in place of a plain shuffle's, or nothing.

        ``labels`` ``(M,)`` are those of all training images, on the CPU as ``draw`` is.
        """
        return None

    def forward(self, features: Tensor) -> Tensor:
        """What crosses the wire in place of ``features``, of the same shape."""
        return features

    def task_loss(self, logits: Tensor, labels: Tensor, epoch: int) -> Tensor | None:
        """A scalar in place of the cross-entropy of ``(N, classes)`` and ``(N,)``, or nothing."""
        return None

    def penalty(self, step: Step) -> Tensor | None:
        """A scalar added to the task loss, or nothing."""
        return None

    @property
    def gradient_limit(self) -> float | None:
        """The length that the gradient of all trained weights is cut to, or nothing."""
        return None

    def on_epoch(self, end: EpochEnd) -> None:
        """Called after every training epoch."""

    def finish(self, model: SplitModel) -> None:
        """Called once after the last epoch, and on a model without weights before a half's are loaded into it.

        What it changes of the model's structure must not depend on weights; what the model computes must not change.
        """

    def findings(self, model: SplitModel) -> dict[str, Any]:
        """What it has to say of the training, as plain JSON values; ``model`` is trained and finished."""
        return {}

    def task_parameters(self) -> Iterator[nn.Parameter]:
        """Its weights that the target's optimiser trains: all, save those of an adversary, which has its own."""
        return self.parameters()

    def optimizers(self) -> dict[str, Optimizer]:
        """The optimisers that it steps itself, by name, for a checkpoint."""
        return {}

    @classmethod
    def replaces_task_loss(cls) -> bool:
        """Whether it has a task loss of its own, of which a stack can follow one alone."""
        return cls.task_loss is not Defense.task_loss

    @classmethod
    def acts_on_wire(cls) -> bool:
        """Whether `forward` does anything: only such a defense is shipped to the edge."""
        return cls.forward is not Defense.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401  # nn.Module's own, with its result typed
        result: Tensor = super().__call__(*args, **kwargs)
        return result
