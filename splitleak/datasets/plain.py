"""Arrays of any source, another team's or a log: ``.npy`` files, and ``.npz`` files by the arrays' names."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from splitleak.datasets.files import load_file
from splitleak.datasets.images import Images
from splitleak.errors import explained
from splitleak.npz import Array, one_header, open_npz

_EXPECTED = "an .npy or .npz file of plain arrays"
_NPY = b"\x93NUMPY"
_CHANNELS = (1, 3)
_LABELS = {"labels", "y_train", "train_labels"}  # what makes an ``.npz`` file one of ours


def array_names(path: Path) -> set[str]:
    """The names of the arrays in an ``.npz`` file; none of an ``.npy`` file, whose only array has no name.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is neither.
    """
    if _is_npy(path):
        return set()
    with open_npz(path, _EXPECTED) as file:
        return set(file.names)


def read_array(path: Path, *names: str) -> Array:
    """The array of an ``.npy`` file, or of an ``.npz`` file the first of ``names`` that it has, or its only one.

    Nothing is unpickled, and no more memory is taken than the file accounts for.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such file, or has several arrays of other names.
    """
    if _is_npy(path):
        with explained(path, _EXPECTED), one_header:
            return np.array(np.load(path, mmap_mode="r", allow_pickle=False))  # a map is no longer than its file
    with open_npz(path, _EXPECTED) as file:
        named = [name for name in (*names, *file.names) if name in file.names]
        if not set(names) & set(named) and len(named) != 1:
            raise ValueError(f"{path}: expected an array {' or '.join(names)}, got {sorted(named)}")
        return file[named[0]]


def float_rows(values: Array, source: str) -> Tensor:
    """``values`` as finite float32 ``(N, *shape)``.

    Raises:
        ValueError: Another dtype than a float's, no row, or values that are not finite (in float32); names ``source``.
    """
    expected = f"{source}: expected finite floats (N, ...), a row each"
    if values.dtype.kind != "f" or values.ndim < 2 or values.size == 0:
        raise ValueError(f"{expected}, got {values.dtype} {values.shape}")
    with np.errstate(over="ignore"):
        rows = torch.from_numpy(np.ascontiguousarray(values, np.float32))
    if broken := int((~rows.isfinite()).sum()):
        raise ValueError(f"{expected}, got {broken} of {values.size} values that are NaN or infinite")
    return rows


def float_images(values: Array, source: str) -> Tensor:
    """Images as float32 ``(N, C, H, W)`` in [0, 1], from uint8 or such floats.

    Args:
        values: ``(N, C, H, W)``, ``(N, H, W, C)`` with one or three channels, or ``(N, H, W)``.
        source: Where they are from, for messages.

    Raises:
        ValueError: They are something else.
    """
    expected = f"{source}: expected images (N, C, H, W), uint8 or floats in [0, 1]"
    if values.ndim not in (3, 4) or values.size == 0 or (values.dtype != np.uint8 and values.dtype.kind != "f"):
        raise ValueError(f"{expected}, got {values.dtype} {values.shape}")
    if values.ndim == 3:
        values = values[:, None]
    elif values.shape[1] not in _CHANNELS and values.shape[3] in _CHANNELS:
        values = values.transpose(0, 3, 1, 2)
    images = torch.from_numpy(np.ascontiguousarray(values, np.float32))
    if values.dtype == np.uint8:
        return images / 255
    if wrong := int((~((images >= 0) & (images <= 1))).sum()):  # which NaN is not
        raise ValueError(f"{expected}, got {wrong} of {values.size} values that are NaN or outside")
    return images


def unlabelled(images: Tensor) -> Images:
    """Images ``(N, C, H, W)`` in [0, 1] as pixels of eight bits, all of one class."""
    return Images((images * 255).round().to(torch.uint8), torch.zeros(len(images), dtype=torch.int64), ("unlabelled",))


def read_images(path: Path) -> Tensor:
    """Images ``(N, C, H, W)`` in [0, 1]: an array of them, see `float_images`, or what `load_file` reads.

    Raises:
        FileNotFoundError: There is nothing at ``path``.
        ValueError: It is something else.
    """
    if path.suffix == ".npy" or (path.suffix == ".npz" and not _LABELS & array_names(path)):
        return float_images(read_array(path, "images", "truth"), str(path))
    return load_file(path).train.floats()


def _is_npy(path: Path) -> bool:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected {_EXPECTED}, but there is no such file")
    with path.open("rb") as file:
        return file.read(len(_NPY)) == _NPY
