"""Reads the images that an artifact was trained on, and validates that they are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from splitleak.config import digest
from splitleak.datasets.files import load_file
from splitleak.datasets.images import Images
from splitleak.datasets.splits import Splits
from splitleak.defenses.artifact import read_record
from splitleak.defenses.importing import NO_IMAGES, OWN_ANSWER


def trained_splits(artifact: Path, images: Path) -> tuple[dict[str, Any], Splits]:
    """The artifact's record, and the split at the folder ``images``.

    A network that was imported without images may have been trained on any.

    Raises:
        FileNotFoundError: The artifact or the split is missing.
        ValueError: The artifact was not trained on this split.
    """
    record, splits = read_record(artifact), Splits.load(images)
    if record["dataset"] not in (splits.record, NO_IMAGES):
        raise ValueError(f"{images}: expected the images that {artifact} was trained on, got others")
    return record, splits


def labelled_splits(artifact: Path, images: Path) -> tuple[dict[str, Any], Splits]:
    """As `trained_splits`, of a target whose outputs are the classes of the images.

    Raises:
        FileNotFoundError: The artifact or the split is missing.
        ValueError: The artifact was not trained on this split, or for answers that are not its labels.
    """
    record, splits = trained_splits(artifact, images)
    _check_labels(record, artifact, images)
    return record, splits


def trained_images(artifact: Path, train_images: Path) -> tuple[dict[str, Any], Images]:
    """The artifact's record, and its training images from the file ``train_images``, of the classes that it puts out.

    Raises:
        FileNotFoundError: One of the inputs is missing.
        ValueError: The artifact was trained on other images, on unknown ones, or for answers that are not their labels.
    """
    record, private = read_record(artifact), load_file(train_images).train
    check_known(record, artifact)
    if digest(sorted(private.hashes())) != record["dataset"]["images"]["train"]["digest"]:
        raise ValueError(f"{train_images}: expected the images that {record['name']!r} was trained on, got others")
    _check_labels(record, artifact, train_images)
    return record, private


def check_known(about: Mapping[str, Any], artifact: Path) -> None:
    """Checks that an artifact tells the images that it was trained on.

    Raises:
        ValueError: It was imported without images.
    """
    if about["dataset"] == NO_IMAGES:
        raise ValueError(f"{artifact}: expected a target of known training images, got one imported without --images")


def _check_labels(about: Mapping[str, Any], artifact: Path, images: Path) -> None:
    if about.get("right_answer") == OWN_ANSWER:
        raise ValueError(
            f"{images}: expected labels that are the outputs of {artifact}, whose right answer is {OWN_ANSWER}"
        )
