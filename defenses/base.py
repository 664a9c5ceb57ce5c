"""The `Defense` interface: an ``nn.Module`` on the wire and training hooks, all of which default to doing nothing."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from splitleak.config import Config
from splitleak.models.split import SplitModel

AdaptiveAttack = Literal["gradients", "features"]
"""How a white-box attacker gets past a defense's last layer: ``gradients`` that nothing masks (`Head.unmask`), or
``features`` before it, which are matched."""


@dataclass(frozen=True)
class Step:
    """One training step, the input of `Defense.penalty`."""

    images: Tensor  # (N, C, H, W) in [0, 1]
    labels: Tensor  # (N,) int64
    features: Tensor  # (N, *cut) encoder output (smashed data), before noise or dropout
    sent: Tensor  # (N, *cut) features as transmitted
    logits: Tensor  # (N, classes)
    epoch: int  # from 0
    learning_rate: float
    undo: Callable[[Tensor], Tensor] = lambda sent: sent  # what was sent, as whoever has a half reads it


@dataclass(frozen=True)
class TrainingStart:
    """The input of `Defense.begin`."""

    model: SplitModel
    dataset: str
    classes: tuple[str, ...]  # names, in the order of the labels
    epochs: int


@dataclass(frozen=True)
class EpochEnd:
    """The input of `Defense.on_epoch`.

    ``training_features()`` encodes the augmented training images in eval mode and returns features ``(N, *cut)`` and
    labels ``(N,)``. It costs one forward pass over the training set, cached for all defenses of the stack.
    """

    epoch: int  # index of the epoch that has just ended, from 0
    epochs: int  # number of epochs of the whole training
    training_features: Callable[[], tuple[Tensor, Tensor]]


class Defense(nn.Module):
    """Base class of all defenses. A subclass overrides the hooks it needs; the training loop calls all of them.

    `forward` is applied in training and at inference alike: the classifier and the attacker see the same tensor.
    """

    name: ClassVar[str]
    config_type: ClassVar[type[Config]]
    randomised: ClassVar[bool] = False
    """Whether `forward` draws new noise or a new mask at every call, so that repeated queries can be averaged."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.generator: torch.Generator | None = None
        self.noise_variance_on_wire = 0.0

    @classmethod
    def pinned(cls, config: Config) -> Config:
        """The config with a content hash for each file it refers to, so that its digest changes when a file does."""
        return config

    @property
    def unused(self) -> frozenset[str]:
        """Names of its settings that have no effect beside the others: a training with one that is set is refused."""
        return frozenset()

    @property
    def adaptive_attacks(self) -> frozenset[AdaptiveAttack]:
        """The attacks on classes that get past its last layer; campaigns against classes run them beside the plain."""
        return frozenset()

    @property
    def answers_anew(self) -> bool:
        """Whether the whole model may answer one picture otherwise when it is asked again."""
        return self.randomised

    @property
    def public_channels(self) -> int:
        """How many of the last channels that it sends tell nothing of the image, and are known to do so."""
        return 0

    @property
    def noise_variance(self) -> float:
        """Variance of the additive noise of `forward`, per value; 0 without noise."""
        return 0.0

    def prepare(self, model: SplitModel, classes: int) -> None:
        """Changes the architecture before training, or allocates buffers for feature statistics."""

    def begin(self, start: TrainingStart) -> None:
        """Called once before training, also when it resumes from a checkpoint; never when a trained half is loaded."""

    def batches(self, labels: Tensor, batch_size: int, draw: torch.Generator) -> Sequence[Tensor] | None:
        """Batch sampler: the indices of each batch of one epoch, or None for plain shuffling.

        Args:
            labels: ``(M,)``, of all training images, on the CPU.
            batch_size: Images per batch.
            draw: CPU generator of the sampling order.
        """
        return None

    def forward(self, features: Tensor) -> Tensor:
        """Features as transmitted, of the same shape as ``features``."""
        return features

    def expected(self, features: Tensor) -> Tensor:
        """The mean of what `forward` may send of ``features``, in eval mode: what a white-box attacker computes."""
        return features if self.randomised else self(features)

    def undone(self, sent: Tensor, crossings: int = 1) -> Tensor:
        """What was sent, as far as whoever has a half can undo this defense: what the encoder gave.

        Args:
            sent: Features ``(N, *cut)`` as transmitted, the mean of so many ``crossings`` of the same images.
            crossings: 1: nothing was averaged.
        """
        return sent

    def task_loss(self, logits: Tensor, labels: Tensor, epoch: int) -> Tensor | None:
        """A scalar that replaces the cross-entropy of logits ``(N, classes)`` and labels ``(N,)``, or None."""
        return None

    def penalty(self, step: Step) -> Tensor | None:
        """A regularisation term added to the task loss, a scalar, or None."""
        return None

    @property
    def gradient_limit(self) -> float | None:
        """Gradient clipping: the maximum L2 norm of the gradient of all trained weights, or None."""
        return None

    def on_epoch(self, end: EpochEnd) -> None:
        """Called after every training epoch."""

    def finish(self, model: SplitModel) -> None:
        """Called once after the last epoch, and on a model without weights before the weights of a half are loaded.

        A change of the architecture must not depend on the weights, and must not change the model's output.
        """

    def findings(self, model: SplitModel) -> dict[str, Any]:
        """Statistics of the training for the artifact's record, as JSON values; ``model`` is trained and finished."""
        return {}

    def task_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters trained by the target's optimiser: all, except those of an inner adversary."""
        return self.parameters()

    def optimizers(self) -> dict[str, Optimizer]:
        """The optimisers that the defense itself steps, by name, for the checkpoint."""
        return {}

    @classmethod
    def replaces_task_loss(cls) -> bool:
        """Whether it overrides `task_loss`; at most one defense of a stack may."""
        return cls.task_loss is not Defense.task_loss

    @classmethod
    def acts_on_wire(cls) -> bool:
        """Whether it overrides `forward`; only such a defense is part of the edge half."""
        return cls.forward is not Defense.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401  # nn.Module's own, with its result typed
        result: Tensor = super().__call__(*args, **kwargs)
        return result


class Head(nn.Module):
    """A last layer that a defense puts in place of a linear one: features ``(N, d)`` to logits ``(N, K)``."""

    def unmask(self) -> None:
        """Lets gradients past what masks them; the logits stay as they are, but for noise, which is left out."""
