"""Images from a user's own files: ``.npz``, a folder of images, or a zip of one."""

import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from splitleak.datasets.images import Dataset, Images

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".pgm", ".ppm"})
_POOLS = frozenset({"train", "test"})


def load_file(path: Path) -> Dataset:
    """Loads ``path`` as what it is.

    An ``.npz`` holds ``x_train, y_train, x_test, y_test``, or ``images, labels``; pixels are uint8
    ``(N, H, W)`` or ``(N, H, W, 3)``, labels integers, ``classes`` (names) is optional. A folder or zip holds
    ``[train/|test/]<class>/<image>``, or images alone, which are then all of one class ``unlabelled``.

    Raises:
        FileNotFoundError: There is nothing at ``path``.
        ValueError: It is something else, or holds no image; the message says what was expected and what came.
    """
    if not path.exists():
        raise FileNotFoundError(f"expected images at {path}, but there is nothing")
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES)
        return _from_tree(path, [PurePosixPath(f.relative_to(path).as_posix()) for f in found], lambda n: path / n)
    if path.suffix == ".npz":
        return _from_npz(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            found_names = sorted(PurePosixPath(name) for name in archive.namelist())
            names = [name for name in found_names if name.suffix.lower() in _SUFFIXES]
            return _from_tree(path, names, lambda name: archive.open(str(name)))
    raise ValueError(f"{path}: expected an .npz file, a folder or a zip of images")


def _from_npz(path: Path) -> Dataset:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (ValueError, TypeError, AttributeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: expected an .npz file of plain arrays, but {error}") from None
    if {"images", "labels"} <= arrays.keys():
        pools = {"train": ("images", "labels")}
    elif {"x_train", "y_train"} <= arrays.keys():
        pools = {"train": ("x_train", "y_train")}
        if {"x_test", "y_test"} <= arrays.keys():
            pools["test"] = ("x_test", "y_test")
    else:
        raise ValueError(f"{path}: expected arrays images and labels, or x_train and y_train, got {sorted(arrays)}")
    labels = np.concatenate([arrays[y] for _, y in pools.values()])
    if "classes" in arrays:
        classes = tuple(map(str, arrays["classes"]))
    else:
        classes = tuple(map(str, range(int(labels.max()) + 1 if labels.size else 0)))
    made = {pool: _images(path, arrays[x], arrays[y], classes) for pool, (x, y) in pools.items()}
    return Dataset(path.stem, made["train"], made.get("test"))


def _images(path: Path, pixels: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], classes: tuple[str, ...]) -> Images:
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or (pixels.ndim == 4 and pixels.shape[-1] not in (1, 3)):
        raise ValueError(f"{path}: expected uint8 images (N, H, W) or (N, H, W, 3), got {pixels.dtype} {pixels.shape}")
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != pixels.shape[:1]:
        raise ValueError(f"{path}: expected {len(pixels)} integer labels, got {labels.dtype} {labels.shape}")
    batch = pixels[..., None] if pixels.ndim == 3 else pixels
    return Images(
        torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2))),
        torch.from_numpy(labels.astype(np.int64)),
        classes,
    )


def _from_tree(path: Path, names: Sequence[PurePosixPath], opened: Callable[[PurePosixPath], Any]) -> Dataset:
    """``names`` are relative; the first part may be a pool, the last folder is the class."""
    if not names:
        raise ValueError(f"{path}: expected images ({', '.join(sorted(_SUFFIXES))}), found none")

    def place(name: PurePosixPath) -> tuple[str, str]:
        folders = name.parts[:-1]
        pool = next((part for part in folders if part in _POOLS), "train")
        named = [part for part in folders if part not in _POOLS]
        return pool, named[-1] if named else "unlabelled"

    classes = tuple(sorted({place(name)[1] for name in names}))
    pools: dict[str, Images] = {}
    for pool in sorted({place(name)[0] for name in names}):
        members = [name for name in names if place(name)[0] == pool]
        pixels = np.stack(list(_same_size(path, members, opened)))
        labels = np.array([classes.index(place(name)[1]) for name in members])
        pools[pool] = _images(path, pixels, labels, classes)
    first = pools.pop("train", None) or pools.pop("test")
    return Dataset(path.stem, first, pools.get("test"))


def _same_size(
    path: Path, names: Sequence[PurePosixPath], opened: Callable[[PurePosixPath], Any]
) -> Iterator[np.ndarray[Any, Any]]:
    """The pictures in RGB or grey, brought to the first one's size and mode."""
    size: tuple[int, int] | None = None
    mode = "RGB"
    for name in names:
        try:
            with Image.open(opened(name)) as picture:
                if size is None:
                    size, mode = picture.size, "L" if picture.mode in ("L", "1", "I;16") else "RGB"
                fitted = picture.convert(mode)
                yield np.asarray(fitted if fitted.size == size else fitted.resize(size, Image.Resampling.BILINEAR))
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{path}: expected an image at {name}, but {error}") from None
