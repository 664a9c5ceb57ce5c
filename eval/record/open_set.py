"""The open-set judge: an evaluator that knows the prior's classes too, so that it can say "none of the target's"."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from splitleak.config import digest
from splitleak.datasets.images import Images
from splitleak.datasets.splits import Splits
from splitleak.defenses.artifact import load_whole
from splitleak.eval.record.evaluator import probabilities
from splitleak.eval.record.schema import Hits, OpenSet
from splitleak.eval.record.trained_on import trained_splits
from splitleak.seeding import generator

_HELD_OUT = 5  # one in so many images of the other classes


def open_splits(splits: Splits) -> Splits:
    """The splits of an open-set judge: the target's classes, and after them those of ``generic``.

    Of the target's classes it is trained and tested on what the target was; of each of the others one image in five is
    held out for its test.

    Raises:
        ValueError: There are no images of other classes.
    """
    others = splits.generic
    if others is None:
        raise ValueError("expected images of other classes than the target's, got none")
    order = torch.randperm(len(others), generator=generator(0, "open set"))
    turns = torch.zeros(len(others), dtype=torch.int64)
    for label in others.labels.unique().tolist():
        rows = order[others.labels[order] == label]
        turns[rows] = torch.arange(len(rows))
    held_out = turns % _HELD_OUT == _HELD_OUT - 1
    train = _together(splits.train, others.select((~held_out).nonzero().flatten()))
    test = _together(splits.test, others.select(held_out.nonzero().flatten()))
    sets = {
        name: {"count": len(each), "digest": digest(sorted(each.hashes()))}
        for name, each in (("train", train), ("test", test))
    }
    kept = {name: images for name, images in splits.record["images"].items() if name != "generic"}
    record = {**splits.record, "images": {**kept, **sets}, "open_set": len(splits.train.classes)}
    record.pop("classes", None)
    return replace(splits, train=train, test=test, generic=None, record=record, summary=None)


def _together(own: Images, others: Images) -> Images:
    return Images(
        torch.cat([own.pixels, others.pixels]),
        torch.cat([own.labels, others.labels + len(own.classes)]),
        own.classes + tuple(f"other: {name}" for name in others.classes),
    )


def open_set(judge: Path, images: Path, by_class: Tensor) -> OpenSet:
    """How an open-set judge takes rebuilt images ``(K, R, C, H, W)``.

    Args:
        judge: Its artifact.
        images: The folder of the splits that it was trained on, which `open_splits` made.
        by_class: The images, in [0, 1].

    Raises:
        FileNotFoundError: One of them is missing.
        ValueError: The judge was not trained on these, or they are not of an open-set judge, or of other classes.
    """
    _, splits = trained_splits(judge, images)
    classes, per_class = by_class.shape[:2]
    if splits.record.get("open_set") != classes:
        got = splits.record.get("open_set")
        raise ValueError(f"{images}: expected images of {classes} classes and others, got {got} and others")
    model = load_whole(judge, torch.device("cpu"), seed=0)
    answers = probabilities(model, by_class.flatten(0, 1)).argmax(1)
    right = (answers == torch.arange(classes).repeat_interleave(per_class)).unflatten(0, (-1, per_class))
    told = probabilities(model, splits.test.floats()).argmax(1) == splits.test.labels
    own = splits.test.labels < classes
    return OpenSet(
        classes=len(splits.train.classes),
        right=Hits(mean=float(right.double().mean()), hits=right.int().tolist()),
        others=float((answers >= classes).double().mean()),
        accuracy=float(told.double().mean()),
        accuracy_own=float(told[own].double().mean()),
    )
