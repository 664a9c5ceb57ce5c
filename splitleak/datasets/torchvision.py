"""torchvision's data sets by name, from ``--data-root``; they are downloaded only when asked to."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from splitleak.datasets.images import Dataset, Images
from splitleak.errors import said
from splitleak.tables import Imported, Table

_SETS: Table[Any] = Table(
    "torchvision set",  # torchvision takes a second and 160 MB to import: only for who asks for one of its sets
    {
        "cifar10": Imported("torchvision.datasets:CIFAR10"),
        "cifar100": Imported("torchvision.datasets:CIFAR100"),
        "fashion-mnist": Imported("torchvision.datasets:FashionMNIST"),
        "kmnist": Imported("torchvision.datasets:KMNIST"),
        "mnist": Imported("torchvision.datasets:MNIST"),
        "stl10": Imported("torchvision.datasets:STL10"),
        "svhn": Imported("torchvision.datasets:SVHN"),
    },
)
_BY_SPLIT_NAME = frozenset({"stl10", "svhn"})  # these take split="train", the others train=True
_IDX_OF_BYTES = bytes((0, 0, 8))
_OF_IDX_FILES = frozenset({"fashion-mnist", "kmnist", "mnist"})
NAMES = tuple(_SETS)


def load_torchvision(name: str, root: Path, *, download: bool) -> Dataset:
    """Loads one of `NAMES` from ``root``, where torchvision keeps it.

    Raises:
        ValueError: There is no such name here, or a file is broken.
        FileNotFoundError: The set is not under ``root`` and ``download`` is false.
    """
    if name not in _SETS:
        raise ValueError(f"expected a data set of {', '.join(NAMES)}, got {name!r}")

    if name in _OF_IDX_FILES:
        for path in sorted((root / _SETS[name].__name__ / "raw").glob("*-ubyte")):
            _check_idx(path)

    def pool(part: str) -> Images:
        which = {"split": part} if name in _BY_SPLIT_NAME else {"train": part == "train"}
        try:
            return _images(name, _SETS[name](root, download=download, **which))
        except RuntimeError as error:
            if download:
                raise
            message = f"expected {name} under {root} (--download fetches it), but {error}"
            raise FileNotFoundError(message) from None
        except OSError:
            raise
        except Exception as error:  # whatever a broken file leads torchvision to
            raise ValueError(f"{root}: expected torchvision's files of {name}, but {said(error)}") from None

    return Dataset(name, pool("train"), pool("test"))


def _images(name: str, found: Any) -> Images:  # noqa: ANN401  # one of torchvision's data sets
    pixels = np.asarray(found.data)
    if name not in _BY_SPLIT_NAME:  # (N, H, W[, 3]); the others are (N, 3, H, W) already
        pixels = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    labels = np.asarray(found.labels if name in _BY_SPLIT_NAME else found.targets).astype(np.int64)
    classes = getattr(found, "classes", None) or range(int(labels.max()) + 1)
    return Images(torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(labels), tuple(map(str, classes)))


def _check_idx(path: Path) -> None:
    """Holds an idx file of bytes to the sizes that it begins with: torchvision takes them as they come."""
    with path.open("rb") as file:
        kind = file.read(4)
        sizes = file.read(4 * kind[3]) if kind[:3] == _IDX_OF_BYTES and len(kind) == 4 else b""
    dimensions = np.frombuffer(sizes[: len(sizes) // 4 * 4], ">u4").tolist()
    if len(dimensions) not in (1, 3) or len(dimensions) != kind[3] or dimensions[0] == 0:
        raise ValueError(
            f"{path}: expected an idx file of images or labels, got one that begins with {kind.hex() or 'nothing'}"
        )
    expected, size = 4 + 4 * len(dimensions) + math.prod(dimensions), path.stat().st_size
    if size != expected:
        shape = " × ".join(map(str, dimensions))
        raise ValueError(f"{path}: expected {expected:,} bytes for {shape}, got {size:,}")
