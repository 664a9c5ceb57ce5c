"""What the judges share: true images matched to reconstructions, checks of both, and what is written of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitleak.artifacts import written_folder
from splitleak.datasets.images import Images
from splitleak.defenses.artifact import artifact_digest, half_digest
from splitleak.edge.ledger import Ledger, images_digest
from splitleak.eval.record.inputs import Attacked
from splitleak.eval.record.schema import CELL, FILE, Record
from splitleak.npz import open_npz

PICTURES = "pictures.npz"


def truth_of(ids: Sequence[str], ledger: Ledger, truth: Images) -> Images:
    """The true images in the order of ``ids``, which are those of the edge's ``ledger``.

    An image that was sent several times has one reconstruction, under any of its ids. An older ledger, which has no
    digest of its images, is held against their number and their labels alone.

    Raises:
        ValueError: ``truth`` is not what was sent, an id is not in the ledger, or a victim has no reconstruction, or
            more than one.
    """
    places, expected = ledger.places, "expected as truth the images that the ledger is of"
    if ledger.images not in (None, images_digest(truth)):
        raise ValueError(f"{expected}, {ledger.images}, got {len(truth)} others, {images_digest(truth)}")
    labels = truth.labels.tolist()
    others = sum(e.place >= len(labels) or e.label not in (None, labels[e.place]) for e in ledger.entries)
    if others:
        raise ValueError(f"{expected}, got {len(labels)} others: {others} entries differ in place or label")
    unknown = [name for name in ids if name not in places]
    guessed = Counter(places[name] for name in ids if name in places)
    missing = sorted(set(places.values()) - set(guessed))
    often = sorted(place for place, count in guessed.items() if count > 1)
    if unknown or missing or often:
        what = f"{len(unknown)} not in the ledger {unknown[:3]}, {len(missing)} without a reconstruction {missing[:3]}"
        streamed = len(set(places.values()))
        what += f", {len(often)} with more than one {often[:3]}"
        raise ValueError(f"expected one reconstruction for each of {streamed} streamed images, but {what}")
    return truth.select(torch.tensor([places[name] for name in ids]))


def check_target(artifact: Path, attacked: Attacked, ledger: Ledger | None = None) -> None:
    """Refuses a score against another target than was attacked, as far as ledger and attack tell which it was.

    Raises:
        FileNotFoundError: There is no artifact.
        ValueError: The stream, or the attack, was of another model.
    """
    edge, cloud = (half_digest(artifact / half) for half in ("edge", "cloud"))
    own = {"edge": edge, "cloud": cloud, "artifact": artifact_digest(artifact)}
    if ledger is not None and ledger.model not in (None, edge, f"{edge}-{cloud}"):
        raise ValueError(f"{artifact}: expected the target of the ledger, {ledger.model}, got {edge}-{cloud}")
    if others := {name: told for name, told in attacked.models.items() if told != own[name]}:
        which = ", ".join(f"{name} {told}" for name, told in others.items())
        raise ValueError(f"{artifact}: expected the target that the attack had the weights of, {which}, got another")


def check_disjoint(public: Sequence[str], truth: Images) -> None:
    """Validates that the attacker owned none of the images it rebuilt.

    Raises:
        ValueError: A hash of ``public`` (`Images.hashes`) is that of an image in ``truth``.
    """
    shared = set(public) & set(truth.hashes())
    if shared:
        raise ValueError(f"expected public images that are not the victims', but {len(shared)} of them are the same")


def load_pictures(folder: Path) -> dict[str, NDArray[Any]]:
    """The judge's pictures: ``truth`` and ``rebuilt`` ``(N, C, H, W)``, and ``places`` or ``classes``."""
    with open_npz(folder / PICTURES, "the pictures that a judge writes") as file:
        return {name: file[name] for name in ("truth", "rebuilt", *file.names)}


def constant_mse(truth: NDArray[np.uint8]) -> float:
    """MSE of the constant predictor: the mean of the true pictures ``(N, C, H, W)``, which no attacker has."""
    mean = truth.mean(0) / 255.0
    return fmean(float(np.square(picture / 255.0 - mean).mean()) for picture in truth)


def pixels(images: Tensor) -> NDArray[np.uint8]:
    """Images in [0, 1] as uint8."""
    rounded: NDArray[np.uint8] = (images * 255).round().byte().numpy()
    return rounded


def write_judged(out: Path, record: Record, pictures: Mapping[str, NDArray[Any]], *, force: bool) -> None:
    """Writes the folder ``out``: the record, and ``pictures`` in one .npz.

    Raises:
        FileExistsError: ``out`` is no record's folder; or, without ``force``, one of another attack or target.
    """
    with written_folder(out, CELL, {"id": record.id, "images": record.images}, force=force) as partial:
        with (partial / PICTURES).open("wb") as file:
            np.savez_compressed(file, **pictures)  # type: ignore[arg-type]
        record.write(partial / FILE)
