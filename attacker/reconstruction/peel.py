"""PEEL: invert a residual network block by block, from the captured feature back to the image, with nothing trained."""

import math
from itertools import groupby

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from splitleak.attacker.base import Attack, Knowledge, Run
from splitleak.attacker.reconstruction.descent import frozen_encoder
from splitleak.attacker.training.rows import BATCH, Stage, descend_rows
from splitleak.config import Config
from splitleak.measures.pixel import total_variation
from splitleak.models.resnet import BasicBlock
from splitleak.models.split import output_shape
from splitleak.training.memory import affordable_rows

_DIGITS = 6  # of a fingerprint's sums


class PeelConfig(Config):
    """The descents. The defaults are a preset for a CPU."""

    block_steps: int = Field(default=150, ge=1, description="steps on the input of each block")
    block_learning_rate: float = Field(
        default=0.1, gt=0, description="in deviations of the block's output; all rates fall along cosines"
    )
    block_weight: float = Field(default=1e-4, ge=0, description="of the input's distance from the block's output")
    stem_steps: int = Field(default=200, ge=1, description="steps on the pixels, against the stem's output")
    joint_steps: int = Field(default=500, ge=0, description="then, against the captured feature")
    learning_rate: float = Field(default=0.05, gt=0, description="on pixels")
    tv_weight: float = Field(default=1e-3, ge=0, description="of the smoothness of pixels")


class PeelAttack(Attack):
    r"""Finds what entered the last block of the encoder, then what entered the one before, and at last the pixels.

    .. math:: \min_x \overline{(x + F(x) - y)^2} / \sigma_y^2 + \lambda\,\overline{(x - y)^2} / \sigma_y^2

    "PEEL the layers and find yourself: revisiting inference-time data leakage for residual neural networks", SaTML
    2025 (arXiv:2504.06410). y is a block's output ``(N, c, h, w)``, x its input, which the search starts from: a
    residual block changes little. It needs the encoder alone: no public image, no query. Layers before the first block,
    the stem, are inverted by descent on the pixels, in [0, 1] and with a weight on their smoothness, as are layers
    behind the last. It is for a `BasicBlock`'s networks, as resnet20; other encoders are refused.

    Deviations: where a block has a stride or more channels than its input, the search starts from what the shortcut
    keeps, each value where it was taken from and around it; inputs of a block that come from a ReLU are held to be
    positive; the CPU preset descends on the pixels at last, through the whole encoder, for errors add up on the way.
    Where blocks have strides, much of their input is not to be had back, and `maximum-likelihood`, which uses public
    images, is stronger by far, as it is behind dropout, whose zeros this attack takes for values: a good score against
    it alone says little.
    """

    name = "peel"
    config_type = PeelConfig
    needs = frozenset({"encoder"})
    config: PeelConfig
    at_once = BATCH  # rows in one pass, see `affordable_rows`

    @classmethod
    def paper_config(cls) -> PeelConfig:
        """Block by block and the stem alone, to convergence."""
        return PeelConfig(block_steps=1000, stem_steps=2000, joint_steps=0)

    def reconstruct(self, known: Knowledge, run: Run) -> Tensor:
        encoder = frozen_encoder(self.name, known, run)
        stem, *others = segments(encoder, self.name)
        if output_shape(encoder, known.image_shape) != known.captured.shape[1:]:
            expected, got = tuple(known.captured.shape[1:]), output_shape(encoder, known.image_shape)
            raise ValueError(f"{self.name}: expected an encoder to features {expected}, got {got}")
        target, errors = known.captured.to(run.device), list[float]()
        grey = torch.full((len(target), *known.image_shape), 0.5, device=run.device)
        self.at_once = affordable_rows(encoder, grey[:1], math.prod(known.image_shape[1:]), BATCH)
        shapes = [known.image_shape, output_shape(stem, known.image_shape)]
        for each in others:
            shapes.append(output_shape(each, shapes[-1]))
        for place in reversed(range(len(others))):
            positive = place > 0 or ends_positive(stem)
            target, error = self.peeled(others[place], target, shapes[place + 1], positive, f"block-{place + 1}", run)
            errors.append(error)
        images, error = self.pixels(stem, target, grey, self.config.stem_steps, "stem", run)
        self.findings = {"block_errors": errors, "stem_error": error}
        if self.config.joint_steps:
            captured = known.captured.to(run.device)
            images, error = self.pixels(encoder, captured, images, self.config.joint_steps, "joint", run)
            self.findings["joint_error"] = error
        return images

    def peeled(
        self, block: nn.Module, target: Tensor, shape: tuple[int, ...], positive: bool, name: str, run: Run
    ) -> tuple[Tensor, float]:
        """The input ``(N, *shape)`` of a block, of its output ``target``, and the mean error that is left."""
        start = before(block, target, shape)
        spread, weight = target.square().mean().clamp(min=1e-12), self.config.block_weight

        def objective(rows: Tensor, part: slice) -> tuple[Tensor, Tensor]:
            errors = (block(rows) - target[part]).square().flatten(1).mean(1) / spread
            return errors, weight * (rows - start[part]).square().flatten(1).mean(1) / spread

        rate = self.config.block_learning_rate * float(spread.sqrt())
        found = descend_rows(
            Stage(name, self.config.block_steps, rate),
            start,
            objective,
            run,
            self.identity(block, target),
            constrain=_positive if positive else None,
            at_once=self.at_once,
        )
        return found.rows, float(found.errors.mean())

    def pixels(
        self, layers: nn.Module, target: Tensor, start: Tensor, steps: int, name: str, run: Run
    ) -> tuple[Tensor, float]:
        """Images ``(N, C, H, W)`` whose output of ``layers`` is the target, and the mean error that is left."""
        spread = target.square().mean().clamp(min=1e-12)

        def objective(rows: Tensor, part: slice) -> tuple[Tensor, Tensor]:
            errors = (layers(rows) - target[part]).square().flatten(1).mean(1) / spread
            return errors, self.config.tv_weight * total_variation(rows)

        found = descend_rows(
            Stage(name, steps, self.config.learning_rate),
            start,
            objective,
            run,
            self.identity(layers, target),
            constrain=_in_range,
            at_once=self.at_once,
        )
        return found.rows, float(found.errors.mean())

    def identity(self, layers: nn.Module, target: Tensor) -> object:
        """What a descent depends on, for its checkpoint."""
        sums = [float(each.double().sum()) for each in (*layers.parameters(), target, target.square())]
        return [self.config.document(), [round(each, _DIGITS) for each in sums]]


def segments(encoder: nn.Module, name: str) -> list[nn.Module]:
    """An encoder as its stem, then each residual block and each run of other layers by itself.

    Raises:
        ValueError: It has no residual blocks, or is no sequence of layers.
    """
    layers = list(_flat(encoder))
    if not any(isinstance(layer, BasicBlock) for layer in layers[1:]):
        got = ", ".join(dict.fromkeys(type(layer).__name__ for layer in layers))
        raise ValueError(f"attack {name!r}: expected an encoder with residual blocks, as resnet20's, got {got}")
    found: list[nn.Module] = []
    for residual, group in groupby(layers, lambda layer: isinstance(layer, BasicBlock)):
        together = list(group)
        found += together if residual else [nn.Sequential(*together)]
    return found


def _flat(module: nn.Module) -> list[nn.Module]:
    """The layers of a sequence, of sequences in it too."""
    return [inner for layer in module for inner in _flat(layer)] if isinstance(module, nn.Sequential) else [module]


def _positive(rows: Tensor) -> None:
    rows.clamp_(min=0)


def _in_range(rows: Tensor) -> None:
    rows.clamp_(0, 1)


def ends_positive(layers: nn.Module) -> bool:
    """Whether the last of a sequence's layers gives nothing negative."""
    return isinstance(_flat(layers)[-1], nn.ReLU | BasicBlock)


def before(block: nn.Module, target: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Where the search for a block's input ``(N, *shape)`` starts: what its shortcut kept; 0 where it has none."""
    if not isinstance(block, BasicBlock):
        return target.new_zeros(len(target), *shape)
    below = block.missing // 2
    kept = target[:, below : below + shape[0]]
    return functional.interpolate(kept, shape[1:], mode="nearest")
