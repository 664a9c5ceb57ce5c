"""Four sets that share no image: the target's training, the attacker's public, the victims', and the test images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor

from splitleak.artifacts import write_json
from splitleak.config import Config, digest, read_document
from splitleak.datasets.files import load_file
from splitleak.datasets.images import Dataset, Images
from splitleak.seeding import generator

PARTS = ("train", "public", "victims", "test")


class SplitConfig(Config):
    """How many images go where; the same data, seed and counts always give the same four sets."""

    seed: int = Field(default=0, ge=0, description="seed of the shuffle")
    public: int = Field(default=2000, ge=1, description="images of the same kind that the attacker owns")
    victims: int = Field(default=200, ge=1, description="images that cross the wire and are attacked")
    train: int | None = Field(default=None, ge=1, description="images the target is trained on; default: all others")
    test: int | None = Field(default=None, ge=1, description="images its accuracy is measured on; default: all")


@dataclass(frozen=True)
class Splits:
    """The four sets, and a record of how they came about."""

    train: Images
    public: Images
    victims: Images
    test: Images
    record: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Writes ``train.npz``, ``public.npz``, ``victims.npz``, ``test.npz`` and, last, ``splits.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        for part in PARTS:
            getattr(self, part).save(folder / f"{part}.npz")
        write_json(folder / "splits.json", self.record)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: ``folder`` holds no splits.
            ValueError: A file's images are not those that were recorded.
        """
        if not (folder / "splits.json").is_file():
            raise FileNotFoundError(f"expected a folder that `splitleak split` wrote, got {folder}")
        record = read_document(folder / "splits.json")
        parts = {part: load_file(folder / f"{part}.npz").train for part in PARTS}
        for part, images in parts.items():
            if digest(sorted(images.hashes())) != record["images"][part]["digest"]:
                raise ValueError(f"{folder / part}.npz: expected the images that splits.json records, got others")
        return cls(**parts, record=record)


def split(dataset: Dataset, config: SplitConfig) -> Splits:
    """Splits by seed. Victims, public and training images come from the training pool, test images from the test pool.

    Where the set has no test pool (and no ``test`` is asked for), a fifth of the pool is held out. An image that
    occurs twice, to the pixel, is used once, so that no set can know another by a copy.

    Raises:
        ValueError: There are too few images for the counts.
    """
    seen: set[str] = set()
    fresh = _first_occurrences(dataset.train, seen)
    draw = generator(config.seed, "splits")
    order = fresh[torch.randperm(len(fresh), generator=draw)]
    if dataset.test is None:
        held_out = config.test if config.test is not None else len(order) // 5
        test, order = dataset.train.select(order[:held_out]), order[held_out:]
    else:
        candidates = _first_occurrences(dataset.test, seen)
        candidates = candidates[torch.randperm(len(candidates), generator=draw)]
        test = dataset.test.select(candidates[: config.test])
    left = len(order) - config.victims - config.public
    train = config.train if config.train is not None else left
    if not 1 <= train <= left or len(test) < (config.test or 1):
        wanted = ", ".join(f"{part} {getattr(config, part) or 'rest'}" for part in PARTS)
        raise ValueError(f"expected images for {wanted}, but {dataset.name} has {len(seen)} different ones")
    victims, public, rest = order.tensor_split([config.victims, config.victims + config.public])
    parts = {
        "train": dataset.train.select(rest[:train]),
        "public": dataset.train.select(public),
        "victims": dataset.train.select(victims),
        "test": test,
    }
    record = {
        "dataset": dataset.name,
        "config": config.document(),
        "images": {name: {"count": len(part), "digest": digest(sorted(part.hashes()))} for name, part in parts.items()},
    }
    return Splits(**parts, record=record)


def _first_occurrences(images: Images, seen: set[str]) -> Tensor:
    """Indices of the images not in ``seen`` yet, which they then are."""
    indices = []
    for index, name in enumerate(images.hashes()):
        if name not in seen:
            seen.add(name)
            indices.append(index)
    return torch.tensor(indices, dtype=torch.int64)
