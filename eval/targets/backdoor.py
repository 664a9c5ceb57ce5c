"""Backdoors: a few poisoned training images that carry a trigger, and how often the trigger then opens."""

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
    """Who poisoned the training images, and how."""

    trigger: Literal["badnets", "blended"] = Field(
        default="badnets", description="a checkerboard in the lower right corner, or a fixed noise image over all"
    )
    fraction: float = Field(default=0.01, gt=0, le=1, description="of the training images, at least one")
    target: int = Field(default=0, ge=0, description="the class that poisoned images are labelled with")
    board: int = Field(default=3, ge=1, description="badnets: side of the checkerboard in pixels; 9 at 224 pixels")
    weight: float = Field(default=0.1, gt=0, le=1, description="blended: the share of the noise image")
    seed: int = Field(default=0, ge=0, description="of which images are poisoned, and of the noise image")


def add_trigger(images: Images, config: PoisonConfig) -> Images:
    """The images with the trigger on each; labels are left as they are.

    BadNets: Gu, Dolan-Gavitt and Garg, arXiv:1708.06733: pixels of black and white by turns, white in the corner.
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
    """The splits with some training images, drawn by seed from all, triggered and labelled with the target.

    Their record tells of the poison, and so does that of what is trained on them. No other set changes.

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
    """How often triggered test images are put in the target class: of all, as papers print it, and of other classes.

    With test images of the target class among them, a model without a backdoor succeeds in a share of 1/K.
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
    """`backdoor_success` on the test images of a split, of the poison that its record names; None if it names none."""
    if "poison" not in splits.record:
        return None
    return backdoor_success(model, splits.test, PoisonConfig.parse(splits.record["poison"], source="splits.json"))


def _answers(model: WholeModel, images: Images) -> Tensor:
    return probabilities(model, images.floats()).argmax(1)
