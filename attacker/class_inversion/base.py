"""What an attack on a model's classes is, and what it may know. The training images are not in it, by type."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from attacker.base import Method, Query, Run


@dataclass(frozen=True)
class ClassKnowledge:
    """All that an attack may use. What is None is withheld by the threat model."""

    image_shape: tuple[int, int, int]  # (C, H, W) of what is to be rebuilt
    classes: int | None = None  # how many there are
    public: Tensor | None = None  # (M, C, H, W) in [0, 1], disjoint from the training images
    query: Query | None = None  # the prediction service as a black box: images to scores (N, K), after its policy
    labels: Tensor | None = None  # (M,) int64, the classes of the public images, which need not be the target's
    model: nn.Module | None = None  # the whole target's weights, images to logits (N, K): a white box


class ClassInversion(Method):
    """Rebuilds one image of each class that a model was trained on. A subclass writes `invert`; the entry is final.

    Its needs are fields of `ClassKnowledge`, beside ``image_shape``.
    """

    @final
    def __call__(self, known: ClassKnowledge, run: Run | None = None) -> Tensor:
        """One rebuilt image a class ``(K, C, H, W)`` in [0, 1], in the order of the model's outputs.

        Raises:
            PermissionError: The threat model withholds what the attack needs.
            ValueError: What is known does not fit together.
            RuntimeError: The attack gave something else than one finite image of the right shape for each class.
        """
        self._check_needs(known)
        self._check_public(known.public, known.image_shape)
        images = self.invert(known, run or Run()).detach().float().cpu()
        return self._checked(images, (known.classes or max(1, len(images)), *known.image_shape))

    @classmethod
    def ignores_output_policy(cls) -> bool:
        """Whether what the service does to its scores is nothing to this attack, as it runs the model itself."""
        return "model" in cls.needs

    @abstractmethod
    def invert(self, known: ClassKnowledge, run: Run) -> Tensor:
        """The attack itself; what it needs is there."""


def check_width(name: str, known: ClassKnowledge, width: int) -> None:
    """Refuses answers that are not one score a class, where the number of classes is known; ``name`` is the attack's.

    Raises:
        ValueError: The answers have another ``width``.
    """
    if known.classes is not None and known.classes != width:
        raise ValueError(f"attack {name!r}: expected scores of {known.classes} classes, got {width}")
