"""The base class of model inversion, and its threat model as a type: the training images are not part of it."""

import contextlib
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn

from splitleak.attacker.base import Method, Query, Run
from splitleak.attacker.prior import Prior
from splitleak.defenses.classes.adaptive import feature_extractor
from splitleak.training.modules import passes_gradients

Access = Literal["white", "score", "label", "none"]
"""The attack's access to the model: white-box (weights), score-based, label-only, or none at all."""

ACCESSES: tuple[Access, ...] = ("none", "label", "score", "white")
"""From the least to the most: each sees what those before it see."""


@dataclass(frozen=True)
class ClassKnowledge:
    """The threat model of an attack on classes: all that it may use. None is withheld."""

    image_shape: tuple[int, int, int]  # (C, H, W) of what is to be rebuilt
    classes: int | None = None  # how many there are
    public: Tensor | None = None  # (M, C, H, W) in [0, 1], disjoint from the training images
    query: Query | None = None  # the prediction service as a black box: images to scores (N, K), after its policy
    labels: Tensor | None = None  # (M,) int64, the classes of the public images, which need not be the target's
    model: nn.Module | None = None  # the whole target's weights, images to logits (N, K): a white box
    prior: Prior | None = None  # a generator of images like the attacker's own


class ClassInversion(Method):
    """Rebuilds images of each class that a model was trained on. A subclass writes `invert`; the entry is final.

    Its needs are fields of `ClassKnowledge`, beside ``image_shape``. ``access`` is the least that it must be let to see
    of the model: its weights (``white``), its answers' scores, only the labels of its answers, or nothing. A
    ``baseline`` rebuilds nothing: it picks from what the attacker has already, and attacks are measured against it.
    """

    access: ClassVar[Access]
    baseline: ClassVar[bool] = False

    @final
    def __call__(self, known: ClassKnowledge, run: Run | None = None) -> Tensor:
        """R rebuilt images a class ``(K, R, C, H, W)`` in [0, 1], classes in the order of the model's outputs.

        R is the attack's. Its images of a class come best first, by what the attack itself can see.

        Raises:
            PermissionError: The threat model withholds what the attack needs, or gives labels where it needs scores.
            ValueError: What is known does not fit together.
            RuntimeError: The attack gave something else than finite images of the right shape for each class.
        """
        self._check_needs(known)
        if self.access == "score" and known.query is not None and known.query.answers == "labels":
            raise PermissionError(f"attack {self.name!r} needs scores, but this threat model answers with labels alone")
        self._check_public(known.public, known.image_shape)
        self._check_prior(known.prior, known.image_shape)
        images = self.invert(known, run or Run()).detach().float().cpu()
        each = images.shape[1] if images.ndim == 5 else 1
        return self._checked(images, (known.classes or max(1, len(images)), max(1, each), *known.image_shape))

    @classmethod
    def ignores_output_policy(cls) -> bool:
        """Whether the service's output policy does not affect the attack, as it runs the model itself."""
        return cls.access == "white"

    @abstractmethod
    def invert(self, known: ClassKnowledge, run: Run) -> Tensor:
        """The attack itself, called when all that it needs is there. Gives ``(K, R, C, H, W)``."""


def check_width(name: str, known: ClassKnowledge, width: int) -> None:
    """Checks that there is one score a class, where the number of classes is known; ``name`` is the attack's.

    Raises:
        ValueError: The answers have another ``width``.
    """
    if known.classes is not None and known.classes != width:
        raise ValueError(f"attack {name!r}: expected scores of {known.classes} classes, got {width}")


def check_gradients(name: str, model: nn.Module, image_shape: tuple[int, int, int], device: torch.device) -> None:
    """Checks that images ``(C, H, W)`` can be descended on through a frozen model; ``name`` is the attack's.

    A last layer that hides gradients, as one that saturates, is no reason: what it is given can be matched before it.

    Raises:
        ValueError: No gradient, neither of its logits nor of what its last layer is given, reaches an image.
    """
    if not any(passes_gradients(each, image_shape, device) for each in _with_body(model)):
        expected = "a model that lets gradients through to the image"
        raise ValueError(f"attack {name!r}: expected {expected}, got one that rounds on the way, or casts")


def _with_body(model: nn.Module) -> Iterator[nn.Module]:
    """A model, and that without its last layer, where it has one."""
    yield model
    with contextlib.suppress(ValueError):
        yield feature_extractor(model)
