"""Labelled images in memory, and a data set as two pools of them."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from splitleak.artifacts import written_file

Size = int | tuple[int, int]
"""Of images: the side of squares, or height and width."""

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's mode "L"
_CHUNK = 256  # images that are floats at once


@dataclass(frozen=True)
class Images:
    """``pixels`` are uint8 ``(N, C, H, W)``; ``labels`` int64 ``(N,)`` index ``classes``.

    One channel is grey and three are colour; images of any other number are used as they are.
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4 or 0 in self.pixels.shape[1:]:
            got = f"{self.pixels.dtype} {tuple(self.pixels.shape)}"
            raise ValueError(f"expected uint8 pixels (N, C, H, W), got {got}")
        if self.labels.shape != (len(self.pixels),) or self.labels.dtype != torch.int64:
            got = f"{self.labels.dtype} {tuple(self.labels.shape)}"
            raise ValueError(f"expected {len(self.pixels)} int64 labels, got {got}")
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            span = f"{int(self.labels.min())}..{int(self.labels.max())}"
            raise ValueError(f"expected labels in 0..{len(self.classes) - 1}, got {span}")

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of each."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    def floats(self) -> Tensor:
        """The pixels as float32 in [0, 1]."""
        return self.pixels.float() / 255

    def select(self, indices: Tensor) -> Self:
        """The images at ``indices``, in that order."""
        return replace(self, pixels=self.pixels[indices], labels=self.labels[indices])

    def with_mirrors(self) -> Self:
        """The images, and behind them the mirror image of each."""
        return replace(self, pixels=torch.cat([self.pixels, self.pixels.flip(3)]), labels=self.labels.repeat(2))

    def fitted(self, size: Size, channels: int) -> Self:
        """The images at ``size`` (antialiased bilinear) and ``channels`` (grey: BT.601 luma).

        Images are resized, never padded: a constant border would be rebuilt for free and flatter every attack.
        Nothing happens to images that fit already. Others are squeezed, not cropped: the aspect ratio of a portrait is
        not kept (112 × 92 becomes square, 1.2 times wider).

        Raises:
            ValueError: Images would need other channels, and are not grey or in colour.
        """
        return replace(self, pixels=fitted_pixels(self.pixels, sides(size), channels))

    def hashes(self) -> list[str]:
        """A hash of each image's size and pixels: equal images, equal hashes."""
        shape = repr(tuple(self.pixels.shape[1:])).encode()
        return [hashlib.sha256(shape + image.tobytes()).hexdigest()[:24] for image in self.pixels.numpy()]

    def save(self, path: Path) -> None:
        """Writes ``images`` (N, H, W[, C]), ``labels`` and ``classes`` to an ``.npz`` file, whole or not at all."""
        pixels = self.pixels.permute(0, 2, 3, 1).numpy()
        with written_file(path) as partial, partial.open("wb") as file:
            np.savez_compressed(
                file,
                images=pixels[..., 0] if pixels.shape[-1] == 1 else pixels,
                labels=self.labels.numpy(),
                classes=np.array(self.classes),
            )


def sides(size: Size) -> tuple[int, int]:
    """Height and width."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def fitted_pixels(pixels: Tensor, size: tuple[int, int], channels: int) -> Tensor:
    """uint8 pixels (N, C, H, W) at ``size`` (height, width) and ``channels``; see `Images.fitted`."""
    if pixels.shape[1] != channels and {pixels.shape[1], channels} != {1, 3}:
        why = "only grey and colour, 1 and 3, are made of each other"
        swapped = "; of a network that takes channels last, set preprocessing.layout=hwc" if size[1] in (1, 3) else ""
        raise ValueError(f"expected images of {channels} channels, as {why}, got {pixels.shape[1]}{swapped}")
    if pixels.shape[1:] == (channels, *size):
        return pixels
    fitted = torch.empty(len(pixels), channels, *size, dtype=torch.uint8)
    for place in range(0, len(pixels), _CHUNK):
        chunk = pixels[place : place + _CHUNK]
        if chunk.shape[1] != channels:
            if channels == 1:
                luma = (chunk.float() * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
                chunk = luma.round().to(torch.uint8)
            else:
                chunk = chunk.expand(-1, 3, -1, -1)
        if chunk.shape[2:] != size:
            scaled = functional.interpolate(chunk.float(), size, mode="bilinear", antialias=True)
            chunk = scaled.round().clamp(0, 255).to(torch.uint8)
        fitted[place : place + _CHUNK] = chunk
    return fitted


@dataclass(frozen=True)
class Reading:
    """What a reader made of files, beside the images."""

    pools: Mapping[str, str] = field(default_factory=dict)
    """What each pool that was found is used as: "train", "test" or "nothing"."""
    skipped: tuple[tuple[str, str], ...] = ()
    """Files left out because they could not be read, by name, each with the reason."""
    ignored: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Files that are no images of a class, by kind."""
    notes: tuple[str, ...] = ()
    """What was done to images to make them one set."""

    def document(self) -> dict[str, Any]:
        """As plain JSON values; of what was ignored, how many files and the first."""
        return {
            "pools": dict(self.pools),
            "skipped": [{"file": name, "reason": reason} for name, reason in self.skipped],
            "ignored": {kind: {"count": len(names), "first": names[0]} for kind, names in self.ignored.items()},
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Dataset:
    """A data set: the images it offers for training, and those it holds out (none where it has no such part)."""

    name: str
    train: Images
    test: Images | None
    reading: Reading = Reading()

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels."""
        return self.train.classes

    @property
    def channels(self) -> int:
        """Those of its images; 3 where one pool has colour and the other is grey."""
        return max(pool.pixels.shape[1] for pool in (self.train, self.test) if pool is not None)

    def fitted(self, size: Size, channels: int) -> Self:
        """Both pools at one size and number of channels (see `Images.fitted`)."""
        test = self.test.fitted(size, channels) if self.test is not None else None
        return replace(self, train=self.train.fitted(size, channels), test=test)


def uses_of(pools: Collection[str]) -> dict[str, str]:
    """What pools of these names (train, val, test) are used as: "train", "test" or "nothing".

    A validation pool is the test pool where there is none, and else unused; it never joins the training pool. A pool
    that is the only one is the training pool, whatever its name.

    Raises:
        ValueError: There are several, and none for training.
    """
    if len(pools) == 1:
        return dict.fromkeys(pools, "train")
    if "train" not in pools:
        raise ValueError(f"expected a pool for training, got {' and '.join(sorted(pools))} alone")
    found = {"train": "train", "val": "nothing" if "test" in pools else "test", "test": "test"}
    return {pool: use for pool, use in found.items() if pool in pools}


def in_order(classes: Sequence[str], names: Sequence[str]) -> bool:
    """Whether an index may mean the same of images' ``classes`` and of a network's outputs of these ``names``.

    It cannot where they are the same names in another order. Other names, or none, tell nothing.

    >>> [in_order(("cat", "dog"), names) for names in (("dog", "cat"), ("Hund", "Katze"), ())]
    [False, True, True]
    """
    return tuple(classes) == tuple(names) or sorted(classes) != sorted(names)


def are_outputs(classes: Sequence[str], count: int, names: Sequence[str]) -> bool:
    """Whether labels of ``classes`` index a network's ``count`` outputs of these ``names``: as many, and `in_order`."""
    return len(classes) == count and in_order(classes, names)


def listed(names: Iterable[str], most: int = 20) -> str:
    """Names for a message, in alphabetical order, at most ``most`` of them."""
    found = sorted(names)
    return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")
