"""Training overhead of defenses: CPU time of short, interleaved trainings of several targets."""

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
from splitleak.defenses.training import TargetConfig, TrainingConfig, train
from splitleak.logs import Report, silent


class TimeConfig(Config):
    """Number and length of the trainings."""

    rounds: int = Field(default=5, ge=1, description="trainings of each target")
    epochs: int = Field(default=3, ge=1, description="of each training; schedules are compressed to these epochs")
    images: int = Field(default=640, ge=2, description="maximum training images, the first of the set")


def training_times(
    targets: Mapping[str, TargetConfig],
    baseline: str,
    splits: Splits,
    config: TimeConfig,
    report: Report = silent,
) -> dict[str, Any]:
    """Training time of each target, absolute and relative to a baseline; a JSON document.

    Each round trains every target once, on the CPU. Preparations of a defense, such as pre-training on public images,
    are not included.

    Args:
        targets: Configs by name.
        baseline: Name of the target to compare with.
        splits: Training images.
        config: Number and length of the trainings.
        report: Progress callback.

    Returns:
        For each target: ``seconds``, the median over rounds of the CPU time per image and epoch (less sensitive to
        other processes than wall-clock time); ``ratio``, the median of the ratios to the baseline within a round, times
        the ratio of the epochs that the targets are trained for; ``lowest`` and ``highest`` of these ratios.

    Raises:
        ValueError: The baseline is none of the targets, or the images do not fit a target.
    """
    if baseline not in targets:
        raise ValueError(f"expected a baseline of {', '.join(targets)}, got {baseline!r}")
    images = splits.train.select(torch.arange(min(config.images, len(splits.train))))
    short = replace(splits, train=images, test=splits.test.select(torch.arange(1)))
    shortened = {name: _with_epochs(target, config.epochs) for name, target in targets.items()}
    _seconds(shortened[baseline], short)  # warm-up
    rounds = []
    for index in range(config.rounds):
        rounds.append({name: _seconds(target, short) for name, target in shortened.items()})
        report("training time", index + 1, config.rounds, {"seconds": sum(rounds[-1].values())})
    lengths = {name: _trained(target).epochs for name, target in targets.items()}
    epochs = {name: length / lengths[baseline] for name, length in lengths.items()}
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


def _trained(target: TargetConfig) -> TrainingConfig:
    if target.training is None:
        raise ValueError("expected targets that are trained, got an imported network as it came")
    return target.training


def _with_epochs(target: TargetConfig, epochs: int) -> TargetConfig:
    return target.model_copy(update={"training": _trained(target).model_copy(update={"epochs": epochs})})


def _seconds(target: TargetConfig, splits: Splits) -> float:
    start = time.process_time()
    train(target, splits, device=torch.device("cpu"))
    return time.process_time() - start


def _ratio_statistics(ratios: list[float]) -> dict[str, float]:
    return {"ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
