"""The images of an artifact: read only if they are those that it was trained on."""

from pathlib import Path
from typing import Any

from splitleak.config import digest
from splitleak.datasets.files import load_file
from splitleak.datasets.images import Images
from splitleak.datasets.splits import Splits
from splitleak.defenses.artifact import read_record


def trained_splits(artifact: Path, images: Path) -> tuple[dict[str, Any], Splits]:
    """The artifact's record, and the split at the folder ``images``.

    Raises:
        FileNotFoundError: There is no artifact, or no split.
        ValueError: The artifact was not trained on this split.
    """
    made, splits = read_record(artifact), Splits.load(images)
    if made["dataset"] != splits.record:
        raise ValueError(f"{images}: expected the images that {artifact} was trained on, got others")
    return made, splits


def trained_images(artifact: Path, train_images: Path) -> tuple[dict[str, Any], Images]:
    """The artifact's record, and its training images, of the file ``train_images``.

    Raises:
        FileNotFoundError: One of the inputs is not there.
        ValueError: The artifact was trained on other images.
    """
    made, private = read_record(artifact), load_file(train_images).train
    if digest(sorted(private.hashes())) != made["dataset"]["images"]["train"]["digest"]:
        raise ValueError(f"{train_images}: expected the images that {made['name']!r} was trained on, got others")
    return made, private
