"""BiDO: hidden layers that depend little on the image and much on its label."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from splitleak.config import Config
from splitleak.defenses.base import Defense, Step
from splitleak.defenses.features.layers import positions, shrinks
from splitleak.measures.dependence import coco, gaussian_kernel, hsic, label_kernel, normalised_hsic
from splitleak.models.split import SplitModel

MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hsic": hsic,
    "nhsic": normalised_hsic,
    "coco": coco,
    "coco-frobenius": partial(coco, norm="frobenius"),
}


class BiDOConfig(Config):
    """Which dependence, how strong either side is, where, and of what batches."""

    measure: Literal["hsic", "nhsic", "coco", "coco-frobenius"] = Field(
        default="nhsic", description="nhsic is what published code calls HSIC and published weights belong to"
    )
    lambda_x: float = Field(default=0.05, ge=0, description="weight of the dependence on the image")
    lambda_y: float = Field(default=0.5, ge=0, description="weight of the dependence on the label")
    layers: tuple[int, ...] = Field(default=(), description="positions; none: those that make images smaller")
    width: float = Field(default=5.0, gt=0, description="of the Gaussian kernels, in roots of the values of a sample")
    images_per_class: int = Field(
        default=4, ge=0, description="of a batch, at least, drawn class by class; 0: batches as they come"
    )


class BiDO(Defense):
    r"""Adds a dependence of hidden layers on the image to the loss, and takes off theirs on the label.

    .. math:: \mathrm{CE} + \lambda_x \sum_j d(X, Z_j) - \lambda_y \sum_j d(Z_j, Y)

    Peng et al., "Bilateral dependency optimization: defending against model-inversion attacks", KDD 2022
    (arXiv:2206.05483). X and Z are seen through Gaussian kernels of deviation 5 times the root of the number of values
    of a sample, Y through the linear kernel of one-hot rows, all in double precision. The paper's d are ``hsic`` and
    ``coco``; its code, with which its weights were found, computes ``nhsic`` and ``coco-frobenius`` under these names.
    With those weights ``hsic`` adds millionths to the loss, and does nothing. Published weights (x, y): nhsic 0.05, 0.5
    to 2.5 on CelebA, 2, 20 on MNIST; COCO 5 to 15, 50 on CelebA, 1, 50 on MNIST. Either may be 0.
    Shapes: images X ``(N, C, H, W)`` in [0, 1] as augmented; Z_j ``(N, ...)``, the outputs of positions.
    Deviations: layers are the pools of a VGG, the blocks of the small networks, the first blocks of a ResNet's stages
    (published: these, a VGG's last one normalised, and for a ResNet the embedding too). Batches have
    ``batch_size // images_per_class`` classes at most, drawn in turn, with equally many images of each, and an epoch as
    many batches as plainly; who has fewer images is seen more often.

    Raises:
        ValueError: The model has no such position.
    """

    name = "bido"
    config_type = BiDOConfig

    def __init__(self, config: BiDOConfig) -> None:
        super().__init__(config)
        self.config = config
        self._outputs: dict[int, Tensor] = {}
        self._handles: list[Any] = []

    def prepare(self, model: SplitModel, classes: int) -> None:
        places = positions(model)
        chosen = self.config.layers or tuple(index for index, place in places.items() if shrinks(place.layer))
        if absent := set(chosen) - places.keys():
            raise ValueError(f"bido: expected layers of 1 to {len(places)}, got {min(absent)}")

        def keep(index: int, _layer: nn.Module, _given: object, output: Tensor) -> None:
            if model.encoder.training and torch.is_grad_enabled():
                self._outputs[index] = output

        self._handles = [places[index].layer.register_forward_hook(partial(keep, index)) for index in chosen]

    def batches(self, labels: Tensor, batch_size: int, draw: torch.Generator) -> Sequence[Tensor] | None:
        if self.config.images_per_class == 0:
            return None
        return balanced_batches(labels, batch_size, self.config.images_per_class, draw)

    def penalty(self, step: Step) -> Tensor | None:
        outputs = list(self._outputs.values())
        self._outputs.clear()
        measure, terms = MEASURES[self.config.measure], []
        hidden = [gaussian_kernel(output, self.config.width) for output in outputs]
        for weight, other in ((self.config.lambda_x, self._images), (-self.config.lambda_y, self._labels)):
            if weight:
                kernel = other(step)
                terms += [weight * measure(each, kernel) for each in hidden]
        return torch.stack(terms).sum() if terms else None

    def finish(self, model: SplitModel) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _images(self, step: Step) -> Tensor:
        return gaussian_kernel(step.images, self.config.width)

    def _labels(self, step: Step) -> Tensor:
        return label_kernel(step.labels)


def balanced_batches(labels: Tensor, batch_size: int, images_per_class: int, draw: torch.Generator) -> list[Tensor]:
    """Batches of indices with equally many images of each class in them, ``ceil(len(labels) / batch_size)`` in all.

    A batch has as many classes as fit ``images_per_class`` times into ``batch_size``, or all there are, and no more
    images than that. Classes, and the images of a class, come in shuffled turns: none twice before all came once.
    """
    present = labels.unique()
    classes = max(1, min(len(present), batch_size // images_per_class))
    each = max(1, batch_size // classes)
    members = {int(label): _Turns((labels == label).nonzero().flatten(), draw) for label in present}
    order = _Turns(present, draw)
    count = math.ceil(len(labels) / batch_size)
    return [torch.cat([members[label].take(each) for label in order.take(classes).tolist()]) for _ in range(count)]


class _Turns:
    """Gives different values in shuffled turns without end; of what is taken at once none comes twice, if it can be."""

    def __init__(self, values: Tensor, draw: torch.Generator) -> None:
        self._values = values
        self._draw = draw
        self._left = values[:0]

    def take(self, count: int) -> Tensor:
        while len(self._left) < count:
            turn = self._values[torch.randperm(len(self._values), generator=self._draw)]
            again = torch.isin(turn, self._left)
            self._left = torch.cat([self._left, turn[~again], turn[again]])
        taken, self._left = self._left[:count], self._left[count:]
        return taken
