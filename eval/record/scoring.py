"""The judge: the only place where the truth and the guess meet."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from splitleak.datasets.images import Images

PICTURES = "pictures.npz"


def truth_of(ids: Sequence[str], places: Mapping[str, int], truth: Images) -> Images:
    """The true images in the order of ``ids``; ``places`` is the edge's ledger, id to index in ``truth``.

    An image that was sent several times has one reconstruction, under any of its ids.

    Raises:
        ValueError: An id is not in the ledger (the judge cannot tell what it shows), or a victim has no guess, or more
            than one.
    """
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


def check_disjoint(public: Sequence[str], truth: Images) -> None:
    """Refuses a score whose attacker owned what it rebuilt.

    Raises:
        ValueError: A hash of ``public`` (`Images.hashes`) is that of an image in ``truth``.
    """
    shared = set(public) & set(truth.hashes())
    if shared:
        raise ValueError(f"expected public images that are not the victims', but {len(shared)} of them are the same")


def load_pictures(folder: Path) -> dict[str, NDArray[Any]]:
    """The pictures beside a record: ``truth`` and ``rebuilt`` ``(N, C, H, W)``, and ``places`` or ``classes``."""
    with np.load(folder / PICTURES, allow_pickle=False) as file:
        return dict(file)


def constant_mse(truth: NDArray[np.uint8]) -> float:
    """The MSE of the mean of pictures ``(N, C, H, W)``, given to all: the best constant, which no attacker has."""
    pictures = truth / 255.0
    return float(np.square(pictures - pictures.mean(0)).mean())
