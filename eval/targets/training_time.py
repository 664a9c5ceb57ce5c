"""What a defense costs in training: short trainings of several targets, in turn, in seconds of the processor."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field

from splitleak.artifacts import provenance
from splitleak.config import Config
from splitleak.datasets.splits import Splits
from splitleak.defenses.training import TargetConfig, train
from splitleak.logs import Report, silent


class TimeConfig(Config):
    """How short the trainings are, and how many."""

    rounds: int = Field(default=5, ge=1, description="trainings of each target")
    epochs: int = Field(default=3, ge=1, description="of each; a schedule over the epochs is run through in these")
    images: int = Field(default=640, ge=2, description="training images, the first of the set, at most")


def training_times(
    targets: Mapping[str, TargetConfig],
    baseline: str,
    splits: Splits,
    config: TimeConfig,
    report: Report = silent,
) -> dict[str, Any]:
    """Seconds of a training of each target, and how many times the ``baseline``'s; a JSON document.

    Each round trains every target once, on the CPU. ``seconds`` is the processor's, which neighbours on the machine
    disturb less than a clock, of one image and epoch: the median over rounds. ``ratio`` is the median of the ratios
    within a round, times that of the epochs that the targets are trained for; ``lowest`` and ``highest`` are of the
    same. What a defense needs before, such as a network that was trained on public images, is not in it.

    Raises:
        ValueError: The baseline is none of the targets, or an image does not fit one.
    """
    if baseline not in targets:
        raise ValueError(f"expected a baseline of {', '.join(targets)}, got {baseline!r}")
    images = splits.train.select(torch.arange(min(config.images, len(splits.train))))
    short = replace(splits, train=images, test=splits.test.select(torch.arange(1)))
    shortened = {name: _with_epochs(target, config.epochs) for name, target in targets.items()}
    _seconds(shortened[baseline], short)  # the first training of a process sets much up
    rounds = []
    for index in range(config.rounds):
        rounds.append({name: _seconds(target, short) for name, target in shortened.items()})
        report("training time", index + 1, config.rounds, {"seconds": sum(rounds[-1].values())})
    epochs = {name: target.training.epochs / targets[baseline].training.epochs for name, target in targets.items()}
    return {
        "baseline": baseline,
        "config": config.document(),
        "images": len(images),
        "targets": {
            name: _ratio_statistics([seconds[name] / seconds[baseline] * epochs[name] for seconds in rounds])
            | {"seconds": statistics.median(seconds[name] for seconds in rounds) / (len(images) * config.epochs)}
            for name in targets
        },
        "provenance": provenance(),
    }


def _with_epochs(target: TargetConfig, epochs: int) -> TargetConfig:
    return target.model_copy(update={"training": target.training.model_copy(update={"epochs": epochs})})


def _seconds(target: TargetConfig, splits: Splits) -> float:
    start = time.process_time()
    train(target, splits, device=torch.device("cpu"))
    return time.process_time() - start


def _ratio_statistics(ratios: list[float]) -> dict[str, float]:
    return {"ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
