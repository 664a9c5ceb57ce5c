"""BiDO, bilateral dependency optimisation: HSIC or COCO regularisation of hidden layers."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from splitleak.config import Config
from splitleak.defenses.base import Defense, Step, TrainingStart
from splitleak.defenses.features.layers import positions, reduces_resolution
from splitleak.measures.dependence import coco, gaussian_kernel, hsic, label_kernel, normalised_hsic
from splitleak.models.split import SplitModel

DEPENDENCE_MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hsic": hsic,
    "nhsic": normalised_hsic,
    "coco": coco,
    "coco-frobenius": partial(coco, norm="frobenius"),
}


class BiDOConfig(Config):
    """The dependence measure, its weights, the regularised layers and the batch sampling."""

    measure: Literal["hsic", "nhsic", "coco", "coco-frobenius"] = Field(
        default="nhsic", description="nhsic is called HSIC in the published code, and fits the published weights"
    )
    lambda_x: float = Field(default=0.05, ge=0, description="weight of the dependence on the image")
    lambda_y: float = Field(default=0.5, ge=0, description="weight of the dependence on the label")
    layers: tuple[int, ...] = Field(default=(), description="positions; none: those that reduce height and width")
    width: float = Field(
        default=5.0, gt=0, description="bandwidth of the Gaussian kernels, times the root of the values per sample"
    )
    images_per_class: int = Field(
        default=4, ge=0, description="minimum images per class of a class-balanced batch; 0: ordinary batches"
    )


class BiDO(Defense):
    r"""Minimises the dependence of hidden layers on the image and maximises their dependence on the label.

    .. math:: \mathrm{CE} + \lambda_x \sum_j d(X, Z_j) - \lambda_y \sum_j d(Z_j, Y)

    Peng et al., "Bilateral dependency optimization: defending against model-inversion attacks", KDD 2022
    (arXiv:2206.05483). X and Z have Gaussian kernels whose bandwidth is 5 times the root of the number of values of a
    sample, Y the linear kernel of one-hot rows, all in double precision. The paper's d are ``hsic`` and ``coco``; its
    code, with which its weights were tuned, computes ``nhsic`` and ``coco-frobenius`` under these names. With those
    weights ``hsic`` changes the loss by about 1e-6, which has no effect. Published weights (x, y): nhsic 0.05, 0.5 to
    2.5 on CelebA, 2, 20 on MNIST; COCO 5 to 15, 50 on CelebA, 1, 50 on MNIST. Either may be 0.
    Shapes: images X ``(N, C, H, W)`` in [0, 1] after augmentation; Z_j ``(N, ...)``, the outputs of positions.
    Deviations: layers are the pools of a VGG, the blocks of the small networks, the first blocks of a ResNet's stages
    (published: these, a VGG's last one normalised, and for a ResNet the embedding too). Batches are class-balanced:
    at most ``batch_size // images_per_class`` classes, in shuffled order, with equally many images of each; an epoch
    has as many batches as without balancing, so that classes with fewer images are oversampled.

    Raises:
        ValueError: The model has no such position, or, before a training, none to regularise.
    """

    name = "bido"
    config_type = BiDOConfig

    def __init__(self, config: BiDOConfig) -> None:
        super().__init__(config)
        self.config = config
        self._outputs: dict[int, Tensor] = {}
        self._handles: list[Any] = []

    def prepare(self, model: SplitModel, classes: int) -> None:
        slots = positions(model)
        chosen = self.config.layers or tuple(index for index, slot in slots.items() if reduces_resolution(slot.layer))
        if missing := set(chosen) - slots.keys():
            raise ValueError(f"bido: expected layers of 1 to {len(slots)}, got {min(missing)}")

        def keep(index: int, _layer: nn.Module, _given: object, output: Tensor) -> None:
            if model.encoder.training and torch.is_grad_enabled():
                self._outputs[index] = output

        self._handles = [slots[index].layer.register_forward_hook(partial(keep, index)) for index in chosen]

    def begin(self, start: TrainingStart) -> None:
        if not self._handles:
            expected = "positions that reduce height and width, or layers that name others"
            raise ValueError(f"bido: expected a network with {expected}, got one without, as an imported one is")

    def batches(self, labels: Tensor, batch_size: int, draw: torch.Generator) -> Sequence[Tensor] | None:
        if self.config.images_per_class == 0:
            return None
        return balanced_batches(labels, batch_size, self.config.images_per_class, draw)

    def penalty(self, step: Step) -> Tensor | None:
        outputs = list(self._outputs.values())
        self._outputs.clear()
        measure, terms = DEPENDENCE_MEASURES[self.config.measure], []
        hidden = [gaussian_kernel(output, self.config.width) for output in outputs]
        for weight, kernel_of in ((self.config.lambda_x, self._images), (-self.config.lambda_y, self._labels)):
            if weight:
                kernel = kernel_of(step)
                terms += [weight * measure(kernel_z, kernel) for kernel_z in hidden]
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
    """Class-balanced batches of indices, ``ceil(len(labels) / batch_size)`` of them.

    A batch has ``batch_size // images_per_class`` classes, or all if there are fewer, and at most ``batch_size``
    images, equally many of each class. Classes, and the images of a class, are drawn in shuffled order, without
    repetition until all have been drawn.

    Args:
        labels: ``(M,)``.
        batch_size: Maximum images per batch.
        images_per_class: Minimum images of each class in a batch.
        draw: CPU generator.
    """
    present = labels.unique()
    classes = max(1, min(len(present), batch_size // images_per_class))
    per_class = max(1, batch_size // classes)
    members = {int(label): _ShuffledCycle((labels == label).nonzero().flatten(), draw) for label in present}
    order = _ShuffledCycle(present, draw)
    count = math.ceil(len(labels) / batch_size)
    return [torch.cat([members[label].take(per_class) for label in order.take(classes).tolist()]) for _ in range(count)]


class _ShuffledCycle:
    """Cycles through distinct values, reshuffled each time; no value twice in one `take`, if that is possible."""

    def __init__(self, values: Tensor, draw: torch.Generator) -> None:
        self._values = values
        self._draw = draw
        self._left = values[:0]

    def take(self, count: int) -> Tensor:
        while len(self._left) < count:
            shuffled = self._values[torch.randperm(len(self._values), generator=self._draw)]
            repeated = torch.isin(shuffled, self._left)
            self._left = torch.cat([self._left, shuffled[~repeated], shuffled[repeated]])
        taken, self._left = self._left[:count], self._left[count:]
        return taken
