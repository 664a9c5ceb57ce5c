"""The pictures of a scan: an attacker's, and victims' that are none of these."""

import torch

from splitleak.datasets import DATASETS, load
from splitleak.datasets.images import Dataset, Images
from splitleak.logs import Report, silent
from splitleak.seeding import generator

_LEAST = 8


def choose(
    data: str, image_shape: tuple[int, int, int], public: int, victims: int, seed: int, report: Report = silent
) -> tuple[Images, Images]:
    """Public pictures and victims of a network's size, drawn by seed; no picture is in both.

    Victims are from the test images where there are such. Where there are too few pictures for both, a fifth are
    victims.

    Args:
        data: As of `load`: a folder, a zip, an .npz file, or a set that ships.
        image_shape: ``(C, H, W)``; pictures are brought to it.
        public: How many, at most.
        victims: How many, at most.
        seed: Of the draw.
        report: Hears of the reading.

    Raises:
        FileNotFoundError: There is no such data.
        ValueError: It has fewer than eight different pictures, no victims, or they cannot have the channels.
    """
    channels, height, width = image_shape
    if data in DATASETS:
        loaded = load(data)
    else:
        known = channels if channels in (1, 3) else None
        loaded = load(data, size=(height, width), channels=known, report=report)
    first, second = _split(loaded, victims, seed)
    first, second = first.select(_drawn(len(first), public, seed)), second.select(_drawn(len(second), victims, seed))
    owned, attacked = set(first.hashes()), second.hashes()
    if (different := len(owned | {*attacked})) < _LEAST:
        raise ValueError(f"expected at least {_LEAST} different pictures in {data}, got {different}")
    places = {name: place for place, name in enumerate(attacked) if name not in owned}  # each once
    if not places:
        raise ValueError(f"expected victims in {data} that are none of the public pictures, got none")
    second = second.select(torch.tensor(sorted(places.values()), dtype=torch.int64))
    return first.fitted((height, width), channels), second.fitted((height, width), channels)


def _split(loaded: Dataset, victims: int, seed: int) -> tuple[Images, Images]:
    if loaded.test is not None and len(loaded.test):
        return loaded.train, loaded.test
    order = torch.randperm(len(loaded.train), generator=generator(seed, "scan", "split"))
    count = min(victims, len(order) // 5)
    return loaded.train.select(order[count:]), loaded.train.select(order[:count])


def _drawn(there: int, wanted: int, seed: int) -> torch.Tensor:
    return torch.randperm(there, generator=generator(seed, "scan", "pictures"))[:wanted]


def default_set(channels: int) -> str:
    """The set that ships and fits: photographs, or grey pictures."""
    return "photographs" if channels == 3 else "builtin"
