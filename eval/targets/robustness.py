"""Adversarial robustness of a target (FGSM, BIM, PGD, one-pixel), and its backdoor if it was trained with one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from splitleak.artifacts import provenance
from splitleak.config import Config
from splitleak.defenses.artifact import load_whole
from splitleak.defenses.classes.adaptive import white_box
from splitleak.eval.record.evaluator import probabilities
from splitleak.eval.record.trained_on import labelled_splits
from splitleak.eval.targets.backdoor import recorded_backdoor
from splitleak.logs import Report, reported, silent
from splitleak.measures.perturbation import bim, fgsm, one_pixel, pgd
from splitleak.measures.proportion import wilson
from splitleak.seeding import generator

COLUMNS = ("attack", "untargeted", "targeted")
_BATCH = 64
_Attack = Callable[[nn.Module, Tensor, Tensor, bool, torch.Generator], Tensor]


class RobustnessConfig(Config):
    """The attacks; the defaults are those of the literature on inversion defenses."""

    epsilon: float = Field(default=8 / 255, ge=0, le=1, description="L-infinity bound of FGSM, BIM and PGD")
    step: float = Field(default=2 / 255, gt=0, description="step size of BIM and PGD")
    steps: int = Field(default=10, ge=1, description="iterations of BIM and PGD")
    population: int = Field(default=10, ge=4, description="of the one-pixel attack")
    generations: int = Field(default=10, ge=0, description="of the one-pixel attack")
    images: int = Field(default=500, ge=1, description="maximum test images, the first of the set")
    seed: int = Field(default=0, ge=0)


def measure_robustness(
    artifact: Path, images: Path, config: RobustnessConfig, device: torch.device, report: Report = silent
) -> dict[str, Any]:
    """Attack success rates of adversarial examples on a target; a JSON document.

    Attacks use the gradients of `white_box`, without the randomness of defenses; success is measured on the deployed
    target. Compare both modes: with masked gradients, one alone may overestimate the robustness.

    Args:
        artifact: Folder of the target.
        images: Folder of the splits that it was trained on; its test images are attacked.
        config: The attacks.
        device: Where the target runs.
        report: Hears of progress.

    Returns:
        ``attacks``: for each attack and, as the baseline, for ``clean`` images the share ``untargeted`` of images that
        are misclassified (including those that always were) and ``targeted`` that are classified as the next class,
        (label + 1) mod K, with Wilson's 95 % intervals. ``backdoor``, if the training images were poisoned.

    Raises:
        FileNotFoundError: There is no artifact, or no split.
        ValueError: The target was not trained on these splits, or for other answers than their labels.
    """
    record, splits = labelled_splits(artifact, images)
    whole = load_whole(artifact, device, seed=config.seed)
    test = splits.test.select(torch.arange(min(config.images, len(splits.test))))
    pixels, labels = test.floats(), test.labels
    target_labels = (labels + 1) % whole.classes
    network = white_box(whole).requires_grad_(False)
    attacks: dict[str, dict[str, Any]] = {}
    for name, attack in _attacks(config).items():
        attacks[name] = {}
        for mode, attack_labels in (("untargeted", labels), ("targeted", target_labels)):
            draw = generator(config.seed, "robustness", name, mode)
            parts = list(zip(pixels.split(_BATCH), attack_labels.split(_BATCH), strict=True))
            adversarial = [
                attack(network, x.to(device), y.to(device), mode == "targeted", draw)
                for x, y in reported(parts, f"{name} {mode}", len(parts), report)
            ]
            answers = probabilities(whole, torch.cat(adversarial).cpu()).argmax(1)
            hits = answers != labels if mode == "untargeted" else answers == target_labels
            attacks[name][mode] = wilson(int(hits.sum()), len(hits)).document()
    return {
        "name": record["name"],
        "config": config.document(),
        "images": len(test),
        "attacks": attacks,
        "backdoor": recorded_backdoor(whole, splits),
        "provenance": provenance(),
    }


def _attacks(config: RobustnessConfig) -> dict[str, _Attack]:
    """Attacks by name: (network, images, labels, targeted, generator) to adversarial images."""
    path: Any = {"epsilon": config.epsilon, "step": config.step, "steps": config.steps}
    search: Any = {"population": config.population, "generations": config.generations}
    return {
        "clean": lambda model, x, y, targeted, draw: x,
        "fgsm": lambda model, x, y, targeted, draw: fgsm(model, x, y, config.epsilon, targeted=targeted),
        "bim": lambda model, x, y, targeted, draw: bim(model, x, y, targeted=targeted, **path),
        "pgd": lambda model, x, y, targeted, draw: pgd(model, x, y, targeted=targeted, draw=draw, **path),
        "one-pixel": lambda model, x, y, targeted, draw: one_pixel(model, x, y, targeted=targeted, draw=draw, **search),
    }


def rows(document: dict[str, Any]) -> Sequence[tuple[str, ...]]:
    """The attacks of a document of `measure_robustness` as table rows of `COLUMNS`."""
    return [
        (name, *(_percent(modes[mode]) for mode in ("untargeted", "targeted")))
        for name, modes in document["attacks"].items()
    ]


def backdoor_line(document: dict[str, Any]) -> str | None:
    """The backdoor's success rates as one line of text, or None."""
    found = document["backdoor"]
    if found is None:
        return None
    return (
        f"{found['poison']['trigger']}: clean accuracy {_percent(found['clean_accuracy'])}; trigger opens in "
        f"{_percent(found['success_others'])} of images of other classes, {_percent(found['success_all'])} of all; "
        f"without it {_percent(found['others_without_trigger'])} of the others"
    )


def _percent(counted: dict[str, float]) -> str:
    return f"{counted['share']:.1%} ({counted['low']:.1%} to {counted['high']:.1%})"
