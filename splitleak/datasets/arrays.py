"""Images from an ``.npz`` file of plain arrays. Nothing in it is ever unpickled."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from splitleak.datasets.images import Dataset, Images, Reading, uses_of
from splitleak.npz import Array, open_npz

_NAMES = (
    {"train": ("images", "labels")},
    {pool: (f"x_{pool}", f"y_{pool}") for pool in ("train", "val", "test")},
    {pool: (f"{pool}_images", f"{pool}_labels") for pool in ("train", "val", "test")},
)
_MOST_CHANNELS_OF_A_LINE = 4  # images of 1 or 3 rows and more channels are taken for (N, C, H, W)


def load_npz(path: Path) -> Dataset:
    """The images and labels of an ``.npz`` file. See `load_file`."""
    with open_npz(path) as file:
        pools = _pools(path, set(file.names))
        wanted = {name for pair in pools.values() for name in pair} | ({"classes"} & set(file.names))
        arrays = {name: file[name] for name in sorted(wanted)}
    uses = uses_of(pools)
    used = {pool: pair for pool, pair in pools.items() if uses[pool] != "nothing"}
    labels, classes, notes = _labels(
        path, {y: _flat(path, y, arrays[y]) for _, y in used.values()}, arrays.get("classes")
    )
    made = {uses[pool]: _images(path, x, arrays[x], y, labels[y], classes) for pool, (x, y) in used.items()}
    return Dataset(path.stem, made["train"], made.get("test"), Reading(pools=uses, notes=notes))


def _pools(path: Path, found: set[str]) -> dict[str, tuple[str, str]]:
    """The names of images and labels of each pool in the file."""
    for names in _NAMES:
        pools = {pool: pair for pool, pair in names.items() if found & set(pair)}
        if set(names["train"]) <= found:
            if lacking := {name for pair in pools.values() for name in pair} - found:
                raise ValueError(f"{path}: expected {', '.join(sorted(lacking))} too, got {sorted(found)}")
            return pools
    raise ValueError(f"{path}: expected arrays images and labels, or x_train and y_train, got {sorted(found)}")


def _flat(path: Path, name: str, labels: Array) -> Array:
    """Labels (N,) as int64 or as text."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise ValueError(f"{path}: expected one label an image in {name}, got {labels.dtype} {labels.shape}")
    if labels.dtype.kind == "S":
        return np.char.decode(labels, "utf-8", "backslashreplace")
    if labels.dtype.kind == "U":
        return labels
    if labels.dtype.kind == "b":
        return labels.astype(np.int64)
    if labels.dtype.kind == "f" and not (labels == np.floor(labels)).all():
        odd = labels[labels != np.floor(labels)]
        raise ValueError(f"{path}: expected whole numbers or text as {name}, got {len(odd)} others, such as {odd[0]}")
    if labels.dtype.kind not in "iuf":
        raise ValueError(f"{path}: expected integer labels or text as {name}, got {labels.dtype}")
    if len(labels) and not 0 <= labels.min() <= labels.max() < 2**63:
        raise ValueError(f"{path}: expected {name} of 0 and above, got {labels.min()} to {labels.max()}")
    return labels.astype(np.int64)


def _labels(
    path: Path, given: Mapping[str, Array], named: Array | None
) -> tuple[dict[str, Array], tuple[str, ...], tuple[str, ...]]:
    """Labels as places in the classes, these, and what was done to them."""
    every = np.concatenate([*given.values()])
    numbers = all(labels.dtype.kind == "i" for labels in given.values())
    if not numbers and any(labels.dtype.kind == "i" for labels in given.values()):
        raise ValueError(f"{path}: expected numbers or text as all labels, got both in {', '.join(given)}")
    if named is None:
        known = np.unique(every)
        classes = tuple(map(str, known.tolist()))
        gaps = numbers and len(known) > 0 and int(known[-1]) != len(known) - 1
        notes = ("labels leave numbers out: classes are numbered anew, and called by their labels",) if gaps else ()
        return {name: np.searchsorted(known, labels) for name, labels in given.items()}, classes, notes
    if named.ndim != 1 or named.dtype.kind not in "USiu":
        raise ValueError(f"{path}: expected a list of names as classes, got {named.dtype} {named.shape}")
    classes = tuple(map(str, named.tolist()))
    if not numbers:
        if unknown := set(every.tolist()) - set(classes):
            raise ValueError(
                f"{path}: expected labels among the {len(classes)} classes, got {sorted(unknown)[0]!r} too"
            )
        places = {name: place for place, name in enumerate(classes)}
        return {n: np.array([places[each] for each in x.tolist()], np.int64) for n, x in given.items()}, classes, ()
    if len(every) and every.max() >= len(classes):
        raise ValueError(f"{path}: expected labels in 0..{len(classes) - 1}, as there are classes, got {every.max()}")
    return dict(given), classes, ()


def _images(path: Path, x: str, pixels: Array, y: str, labels: Array, classes: tuple[str, ...]) -> Images:
    channels_first = pixels.ndim == 4 and pixels.shape[1] in (1, 3) and pixels.shape[3] > _MOST_CHANNELS_OF_A_LINE
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or channels_first:
        got = f"{pixels.dtype} {pixels.shape}{', channels first' if channels_first else ''}"
        raise ValueError(f"{path}: expected uint8 images (N, H, W) or (N, H, W, C) as {x}, got {got}")
    if 0 in pixels.shape[1:]:
        raise ValueError(f"{path}: expected images of at least one pixel as {x}, got {pixels.shape}")
    if len(labels) != len(pixels):
        raise ValueError(f"{path}: expected {len(pixels)} integer labels or names as {y}, got {len(labels)}")
    batch = pixels[..., None] if pixels.ndim == 3 else pixels
    return Images(
        torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2))),
        torch.from_numpy(labels.astype(np.int64)),
        classes,
    )
