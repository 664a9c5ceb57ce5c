"""What defenses against class inversion cost in training: ``python -m tests.bench.class_step``.

Whole short trainings of conv3 at batch 64 on built-in images, in turn, measured by `eval/targets/training_time.py`:
seconds of the processor, and medians over rounds of the ratio to the undefended target's. Layers are frozen at random
weights.
"""

import argparse
import sys
from typing import Any

import torch

from splitleak.artifacts import hardware
from splitleak.datasets import load
from splitleak.datasets.splits import SplitConfig, split
from splitleak.defenses.training import TargetConfig
from splitleak.eval.targets.training_time import TimeConfig, training_times

_BASELINE = "undefended"
_DEFENSES: dict[str, tuple[dict[str, Any], ...]] = {
    _BASELINE: (),
    "mid": ({"name": "mid"},),
    "bido nhsic": ({"name": "bido", "measure": "nhsic"},),
    "bido coco": ({"name": "bido", "measure": "coco"},),
    "transfer, 1 frozen": ({"name": "transfer", "frozen": 1},),
    "transfer, 2 frozen": ({"name": "transfer", "frozen": 2},),
    "label smoothing": ({"name": "label-smoothing", "alpha": -0.05},),
    "low rank": ({"name": "low-rank", "rank": 4},),
    "low rank, confidence": ({"name": "low-rank", "rank": 4}, {"name": "confidence-adaptation"}),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    targets = {
        name: TargetConfig.parse(
            {
                "model": {"architecture": "conv3", "width": options.width, "channels": 1, "size": 32, "classes": 10},
                "defenses": defenses,
                "training": {"batch_size": options.batch, "augment": {"flip": False}},
            },
            source=name,
        )
        for name, defenses in _DEFENSES.items()
    }
    splits = split(load("builtin").fitted(32, 1), SplitConfig(train=640, public=1, victims=1, test=1))
    found = training_times(targets, _BASELINE, splits, TimeConfig(rounds=options.rounds))
    sys.stdout.write(f"{hardware()}; conv3 width {options.width}, batch {options.batch}, {options.rounds} rounds\n")
    for name, each in found["targets"].items():
        spread = f"{each['ratio']:.3f} times ({each['lowest']:.3f} to {each['highest']:.3f})"
        sys.stdout.write(f"{name}: {1e3 * options.batch * each['seconds']:.2f} ms a batch, {spread}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
