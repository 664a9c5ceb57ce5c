"""torchvision's data sets by name, from ``--data-root``; they are downloaded only when asked to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision import datasets

from splitleak.datasets.images import Dataset, Images

_SETS: dict[str, Callable[..., Any]] = {
    "cifar10": datasets.CIFAR10,
    "cifar100": datasets.CIFAR100,
    "fashion-mnist": datasets.FashionMNIST,
    "kmnist": datasets.KMNIST,
    "mnist": datasets.MNIST,
    "stl10": datasets.STL10,
    "svhn": datasets.SVHN,
}
_BY_SPLIT_NAME = frozenset({"stl10", "svhn"})  # these take split="train", the others train=True
NAMES = tuple(_SETS)


def load_torchvision(name: str, root: Path, *, download: bool) -> Dataset:
    """Loads one of `NAMES` from ``root``, where torchvision keeps it.

    Raises:
        ValueError: There is no such name here.
        FileNotFoundError: The set is not under ``root`` and ``download`` is false.
    """
    if name not in _SETS:
        raise ValueError(f"expected a data set of {', '.join(NAMES)}, got {name!r}")

    def pool(part: str) -> Images:
        which = {"split": part} if name in _BY_SPLIT_NAME else {"train": part == "train"}
        try:
            found = _SETS[name](root, download=download, **which)
        except RuntimeError as error:
            if download:
                raise
            message = f"expected {name} under {root} (--download fetches it), but {error}"
            raise FileNotFoundError(message) from None
        pixels = np.asarray(found.data)
        if name not in _BY_SPLIT_NAME:  # (N, H, W[, 3]); the others are (N, 3, H, W) already
            pixels = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
        labels = np.asarray(found.labels if name in _BY_SPLIT_NAME else found.targets).astype(np.int64)
        classes = getattr(found, "classes", None) or range(int(labels.max()) + 1)
        return Images(
            torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(labels), tuple(map(str, classes))
        )

    return Dataset(name, pool("train"), pool("test"))
