"""The victims of a campaign and what was rebuilt of them, one strip of pictures a target and attack."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from splitleak.eval.report.features_results import Campaign, row_label
from splitleak.eval.report.run_report import load_pictures, png

Made = TypeVar("Made")


@dataclass(frozen=True)
class Strip:
    """Pictures side by side as one data URI, and what they are of."""

    row: str
    attack: str
    picture: str
    figures: str


@dataclass(frozen=True)
class Gallery:
    """The strips of one data set, model and seed: the victims first, then every target under every attack."""

    title: str
    count: int
    strips: tuple[Strip, ...]


def galleries(campaign: Campaign, pictures: int, budget: int) -> list[Gallery]:
    """For each data set and model, the first seed that has records; the first ``pictures`` victims that all rebuilt.

    ``budget`` is how many characters all the pictures may take together; over it, fewer victims are shown.
    """
    return fewer_until(
        lambda count: [found for group in campaign.groups if (found := _gallery(campaign, group, count))],
        lambda made: sum(len(strip.picture) for each in made for strip in each.strips) <= budget,
        pictures,
    )


def fewer_until(make: Callable[[int], Made], fits: Callable[[Made], bool], pictures: int) -> Made:
    """``make(pictures)`` with as many pictures as fit, halved from ``pictures`` on; one even where it does not fit."""
    made = make(pictures)
    while pictures > 1 and not fits(made):
        pictures = pictures // 2
        made = make(pictures)
    return made


def _gallery(campaign: Campaign, group: tuple[str, str], pictures: int) -> Gallery | None:
    measured = [
        cell for cell, _ in campaign.measured if cell.group == group and (cell.folder / "pictures.npz").is_file()
    ]
    seed = next((seed for seed in campaign.seeds if any(cell.seed == seed for cell in measured)), None)
    cells = [cell for cell in measured if cell.seed == seed]
    loaded = [load_pictures(cell.folder) for cell in cells]
    shared = sorted(set.intersection(*(set(map(int, each["places"])) for each in loaded))) if loaded else []
    if not shared:
        return None
    shown = shared[:pictures]
    strips = [Strip("victims", "", _strip(loaded[0], "truth", shown), "")]
    for cell, each in zip(cells, loaded, strict=True):
        figures = f"MSE {cell.figure('mse'):.4f}, SSIM {cell.figure('ssim'):.3f}"
        strips.append(Strip(row_label(cell.row), cell.attack, _strip(each, "rebuilt", shown), figures))
    return Gallery(f"{', '.join(group)}, seed {seed}", len(shown), tuple(strips))


def _strip(pictures: dict[str, NDArray[Any]], which: str, shown: Sequence[int]) -> str:
    """The pictures ``(C, H, W)`` of ``shown`` places beside each other, as a PNG data URI."""
    at = [int(np.flatnonzero(pictures["places"] == place)[0]) for place in shown]
    return png(np.concatenate(list(pictures[which][at]), axis=2))
