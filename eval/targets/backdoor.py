"""Backdoor attacks (data poisoning): BadNets and blended triggers, and the attack success rate (ASR)."""

from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from splitleak.config import Config, digest
from splitleak.datasets.images import Images
from splitleak.datasets.splits import Splits
from splitleak.defenses.artifact import WholeModel
from splitleak.eval.record.evaluator import probabilities
from splitleak.measures.proportion import wilson
from splitleak.seeding import generator


class PoisonConfig(Config):
    """Trigger, poisoning rate and target class."""

    trigger: Literal["badnets", "blended"] = Field(
        default="badnets", description="a checkerboard in the lower right corner, or a fixed noise image over all"
    )
    fraction: float = Field(default=0.01, gt=0, le=1, description="poisoning rate of the training images, at least one")
    target: int = Field(default=0, ge=0, description="the class that poisoned images are labelled with")
    board: int = Field(default=3, ge=1, description="badnets: side of the checkerboard in pixels; 9 at 224 pixels")
    weight: float = Field(default=0.1, gt=0, le=1, description="blended: weight of the noise image")
    seed: int = Field(default=0, ge=0, description="of the choice of poisoned images, and of the noise image")


def add_trigger(images: Images, config: PoisonConfig) -> Images:
    """The images with the trigger added; labels are unchanged.

    BadNets: Gu, Dolan-Gavitt and Garg, arXiv:1708.06733: alternating black and white pixels, white in the corner.
    Blended: Chen et al., arXiv:1712.05526: ``(1 - weight) x + weight n``, n a fixed standard normal image, in [0, 1].

    Raises:
        ValueError: The checkerboard is larger than the images.
    """
    height, width = images.pixels.shape[2:]
    if config.trigger == "blended":
        noise = torch.randn(images.pixels.shape[1:], generator=generator(config.seed, "trigger"))
        mixed = ((1 - config.weight) * images.floats() + config.weight * noise).clamp(0, 1)
        return replace(images, pixels=(mixed * 255).round().to(torch.uint8))
    side = config.board
    if side > min(height, width):
        raise ValueError(f"expected a checkerboard of at most {min(height, width)} pixels, got {side}")
    places = torch.arange(side)
    white = (places[:, None] + places) % 2 == (2 * side - 2) % 2
    pixels = images.pixels.clone()
    pixels[:, :, height - side :, width - side :] = white.to(torch.uint8) * 255
    return replace(images, pixels=pixels)


def poison(splits: Splits, config: PoisonConfig) -> Splits:
    """The splits with poisoned training images: randomly drawn ones get the trigger and the target's label.

    The poisoning is part of their record, and of the record of every model trained on them. Other sets are unchanged.

    Raises:
        ValueError: There is no such class, or the trigger does not fit the images.
    """
    if config.target >= len(splits.train.classes):
        raise ValueError(f"expected a target of {len(splits.train.classes)} classes, got {config.target}")
    count = max(1, round(config.fraction * len(splits.train)))
    chosen = torch.randperm(len(splits.train), generator=generator(config.seed, "poison"))[:count]
    pixels, labels = splits.train.pixels.clone(), splits.train.labels.clone()
    pixels[chosen] = add_trigger(splits.train.select(chosen), config).pixels
    labels[chosen] = config.target
    train = replace(splits.train, pixels=pixels, labels=labels)
    images = {**splits.record["images"], "train": {"count": len(train), "digest": digest(sorted(train.hashes()))}}
    record = {**splits.record, "images": images, "poison": config.document()}
    return replace(splits, train=train, record=record)


def backdoor_success(model: WholeModel, test: Images, config: PoisonConfig) -> dict[str, Any]:
    """Attack success rate: the share of triggered test images that are classified as the target class.

    Of all images, as papers print it, and of those of other classes. As the former includes images of the target class,
    it is about 1/K for a model without a backdoor.

    Returns:
        ``poison``, ``clean_accuracy``, ``success_all``, ``success_others`` and ``others_without_trigger``: proportions
        with Wilson's 95 % interval.
    """
    clean, triggered_answers = (_answers(model, image_set) for image_set in (test, add_trigger(test, config)))
    others = test.labels != config.target
    hits = triggered_answers == config.target
    return {
        "poison": config.document(),
        "clean_accuracy": wilson(int((clean == test.labels).sum()), len(test)).document(),
        "success_all": wilson(int(hits.sum()), len(test)).document(),
        "success_others": wilson(int(hits[others].sum()), int(others.sum())).document(),
        "others_without_trigger": wilson(int((clean == config.target)[others].sum()), int(others.sum())).document(),
    }


def recorded_backdoor(model: WholeModel, splits: Splits) -> dict[str, Any] | None:
    """`backdoor_success` on the test images of a split, for the poisoning in its record; None for a clean split."""
    if "poison" not in splits.record:
        return None
    return backdoor_success(model, splits.test, PoisonConfig.parse(splits.record["poison"], source="splits.json"))


def _answers(model: WholeModel, images: Images) -> Tensor:
    return probabilities(model, images.floats()).argmax(1)
