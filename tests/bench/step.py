"""What a step costs beside one of the undefended target: ``python -m tests.bench.step``.

Interleaved rounds of each step in the table below, batch 128, VGG11 at 32 × 32, one thread; times are seconds of the
processor, which neighbours on the machine disturb least, and ratios are medians over rounds. Exit status 1 where one
is above its limit.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.optim import SGD

from splitleak.artifacts import hardware
from splitleak.defenses.base import EpochEnd
from splitleak.defenses.stack import DefenseConfig
from splitleak.defenses.training import TargetConfig, assemble, training_step
from splitleak.models.split import ModelConfig

_CLASSES = 10
_SURVEYED = 640
_BASELINE = "undefended"

Stepper = Callable[[float, int], Callable[[], object]]
"""From the width of the network and a batch size to one step, ready to be called again and again."""


def target_step(width: float, batch: int, *, more: tuple[Mapping[str, Any], ...] = ()) -> Callable[[], object]:
    """A training step of the target under bottleneck, noise and ``more``, with statistics of a first epoch in place."""
    config = TargetConfig(
        model=ModelConfig(width=width, channels=3, size=32, classes=_CLASSES),
        defenses=tuple(map(DefenseConfig.model_validate, ({"name": "bottleneck"}, {"name": "gaussian-noise"}, *more))),
    )
    model, stack = assemble(config, "cifar10")
    model.to(memory_format=torch.channels_last).train()
    stack.train()
    stack.seed(0, torch.device("cpu"))
    trained = [*model.parameters(), *stack.task_parameters()]
    optimizer = SGD(trained, lr=0.05, momentum=0.9, weight_decay=5e-4)
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 3, 32, 32, generator=draw)
    labels = torch.arange(batch) % _CLASSES

    def training_features() -> tuple[torch.Tensor, torch.Tensor]:
        features = torch.rand(_SURVEYED, *model.feature_shape, generator=draw)
        return features, torch.arange(_SURVEYED) % _CLASSES

    stack.on_epoch(EpochEnd(0, 10, training_features))
    return partial(training_step, model, stack, optimizer, images, labels, epoch=1, rate=1e-4)


@dataclass(frozen=True)
class Row:
    """A step, and how often the baseline's time it may take at full width."""

    stepper: Stepper
    limit: float | None = None


ROWS = {
    _BASELINE: Row(target_step),
    "cem": Row(partial(target_step, more=({"name": "cem"},)), limit=1.10),
    "nopeek": Row(partial(target_step, more=({"name": "nopeek"},))),
    # A threshold that random images are above: below it the game costs less.
    "ressfl": Row(partial(target_step, more=({"name": "ressfl", "ssim_threshold": -1},)), limit=1.8),
}


def timed(step: Callable[[], object]) -> float:
    """Processor seconds of one call."""
    start = time.process_time()
    step()
    return time.process_time() - start


def measure(names: list[str], width: float, batch: int, rounds: int) -> list[str]:
    """Prints a line a step; gives the names of those above their limit."""
    steps = {name: ROWS[name].stepper(width, batch) for name in names}
    for step in steps.values():
        step()
    times = [{name: timed(step) for name, step in steps.items()} for _ in range(rounds)]
    above = []
    for name in names:
        middle = statistics.median(each[name] for each in times)
        ratio = statistics.median(each[name] / each[_BASELINE] for each in times)
        limit = ROWS[name].limit
        allowed = "" if limit is None else f", limit {limit} at width 1"
        sys.stdout.write(f"vgg11 width {width}, {name}: {1e3 * middle:.1f} ms, {ratio:.3f} times{allowed}\n")
        if limit is not None and width == 1 and ratio > limit:
            above.append(name)
    sys.stdout.flush()
    return above


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--widths", type=float, nargs="+", default=[0.25, 1.0])
    parser.add_argument("--only", choices=sorted(set(ROWS) - {_BASELINE}), nargs="+", help="by default every step")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = [name for name in ROWS if name == _BASELINE or not options.only or name in options.only]
    sys.stdout.write(f"{hardware()}; batch {options.batch}, medians of {options.rounds} interleaved rounds\n")
    above = [name for width in options.widths for name in measure(names, width, options.batch, options.rounds)]
    if above:
        sys.stdout.write(f"above their limit: {', '.join(above)}\n")
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main())
