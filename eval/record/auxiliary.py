"""The attacker's auxiliary data: its declared kind, validated against the victims' and the training images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from splitleak.attacker.auxiliary import AUXILIARY
from splitleak.config import digest, read_table
from splitleak.datasets.files import load_file
from splitleak.datasets.images import Images
from splitleak.eval.record.schema import AuxiliaryImages, Checked

_EXACT = "an image is known by its pixels, a data set by its name: near copies and renamed sets are not found"


def check_auxiliary(
    kind: str,
    auxiliary_images: Images,
    victims: Images,
    target_dataset: str,
    target_classes: Sequence[str],
    auxiliary_dataset: str,
    train: Images,
) -> Checked:
    """Validates the declared kind of auxiliary data; returns its overlap with the victims, training data and classes.

    Args:
        kind: As declared, see `splitleak.attacker.auxiliary`.
        auxiliary_images: The auxiliary data. All images are of one shape: they are compared by their pixels.
        victims: The victims' images.
        target_dataset: Name of the target's data set.
        target_classes: Names of the target's classes.
        auxiliary_dataset: Name of the data set of the auxiliary data.
        train: The target's training images.

    Raises:
        ValueError: There is no such kind, or the images contradict it.
    """
    allowed = AUXILIARY.choose(kind)
    shapes = {images.shape for images in (auxiliary_images, victims, train)}
    if len(shapes) > 1:
        raise ValueError(f"expected auxiliary images, victims and training images of one shape, got {sorted(shapes)}")
    of_same_set = auxiliary_dataset == target_dataset
    own = set(auxiliary_images.hashes())
    of_victims, of_training = len(own & set(victims.hashes())), len(own & set(train.hashes()))
    present = {auxiliary_images.classes[label] for label in auxiliary_images.labels.unique().tolist()}
    common, other = sorted(present & set(target_classes)), sorted(present - set(target_classes))

    def refuse(expected: str, got: str) -> None:
        raise ValueError(f"auxiliary images declared {kind!r}: expected {expected}, got {got}")

    if of_victims:
        refuse("no image of a victim", f"{of_victims} of {len(victims)}")
    if of_training and not allowed.trained_on:
        refuse("no image that the target was trained on", f"{of_training} of {len(train)}")
    if allowed.trained_on and not of_training:
        refuse("images that the target was trained on", f"none of {len(train)}")
    if allowed.data_set == "other" and of_same_set:
        refuse("another data set than the target's", repr(auxiliary_dataset))
    if allowed.data_set == "same" and not of_same_set:
        refuse(f"images of {target_dataset!r}", repr(auxiliary_dataset))
    if allowed.classes == "own" and other:
        refuse("classes of the target alone", f"{len(other)} others: {', '.join(other)}")
    if allowed.classes == "other" and of_same_set and common:
        refuse("no class of the target", f"{len(common)} of its {len(target_classes)}: {', '.join(common)}")
    classes = len(common) if of_same_set else 0
    return Checked(victims_images=of_victims, training_images=of_training, target_classes=classes, how=_EXACT)


def read_auxiliary(
    kind: str,
    path: Path,
    used: Sequence[str],
    victims: Images,
    train: Path,
    split: Mapping[str, Any],
    dataset: str | None = None,
) -> AuxiliaryImages:
    """The entry of the auxiliary data in a record, validated by `check_auxiliary`.

    Args:
        kind: As declared.
        path: File of the auxiliary data.
        used: Hashes of the images that the attack used.
        victims: The victims' images.
        train: File of the target's training images.
        split: The ``splits.json`` of the split that the target was trained on.
        dataset: Name of the data set of the auxiliary data; default: that of the ``splits.json`` next to ``path``.

    Raises:
        FileNotFoundError: One of the files is missing.
        ValueError: The attack used other images, the training images are not those of ``split``, the data set is
            unknown, or the images contradict ``kind``.
    """
    images, trained = load_file(path).train, load_file(train).train
    if sorted(images.hashes()) != sorted(used):
        raise ValueError(f"{path}: expected the {len(used)} images that the attack used, got others")
    if digest(sorted(trained.hashes())) != split["images"]["train"]["digest"]:
        raise ValueError(f"{train}: expected the images that the target was trained on, got others")
    known = dataset or _dataset_of(path, images)
    checked = check_auxiliary(kind, images, victims, split["dataset"], victims.classes, known, trained)
    return AuxiliaryImages(
        kind=kind,
        dataset=known,
        images=len(images),
        classes=tuple(images.classes[label] for label in images.labels.unique().tolist()),
        checked=checked,
    )


def _dataset_of(path: Path, images: Images) -> str:
    """Name of the data set of the split next to ``path``, if the images are of that split."""
    beside = path.parent / "splits.json"
    record = read_table(beside) if beside.is_file() else {"images": {}}
    if digest(sorted(images.hashes())) not in {part["digest"] for part in record["images"].values()}:
        raise ValueError(f"{path}: expected the name of the data set these images are of, or its splits.json beside it")
    return str(record["dataset"])
