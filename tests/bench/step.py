"""What CEM adds to a training step: ``python -m tests.bench.step``. Interleaved, medians, one thread."""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch.optim import SGD

from defenses.base import EpochEnd
from defenses.stack import DefenseConfig
from defenses.training import TargetConfig, assemble, training_step
from splitleak.artifacts import hardware
from splitleak.models.split import ModelConfig

_CLASSES = 10
_SURVEYED = 640


def stepper(width: float, batch: int, defenses: tuple[str, ...]) -> Callable[[], object]:
    """A training step of VGG11 at 32 × 32 under ``defenses``, with statistics of a first epoch in place."""
    config = TargetConfig(
        model=ModelConfig(width=width, channels=3, size=32, classes=_CLASSES),
        defenses=tuple(DefenseConfig.model_validate({"name": name}) for name in defenses),
    )
    model, stack = assemble(config, "cifar10")
    model.to(memory_format=torch.channels_last).train()
    stack.seed(0, torch.device("cpu"))
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 3, 32, 32, generator=draw)
    labels = torch.arange(batch) % _CLASSES

    def survey() -> tuple[torch.Tensor, torch.Tensor]:
        features = torch.rand(_SURVEYED, *model.feature_shape, generator=draw)
        return features, torch.arange(_SURVEYED) % _CLASSES

    stack.on_epoch(EpochEnd(0, 10, survey))
    return partial(training_step, model, stack, optimizer, images, labels, epoch=1, rate=1e-4)


def timed(step: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--widths", type=float, nargs="+", default=[0.25, 1.0])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sys.stdout.write(f"{hardware()}; batch {options.batch}, medians of {options.rounds} interleaved rounds\n")
    for width in options.widths:
        plain = stepper(width, options.batch, ("bottleneck", "gaussian-noise"))
        with_cem = stepper(width, options.batch, ("bottleneck", "gaussian-noise", "cem"))
        for step in (plain, with_cem):
            step()
        pairs = [(timed(plain), timed(with_cem)) for _ in range(options.rounds)]
        before, after = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        sys.stdout.write(
            f"vgg11 width {width}: {1e3 * before:.1f} ms without cem, {1e3 * after:.1f} ms with, "
            f"ratio of medians {after / before:.3f}, median of ratios {ratio:.3f}\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
