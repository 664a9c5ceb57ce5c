"""What each engine takes to compute a half: ``python -m tests.bench.serving_engine``.

Interleaved rounds of the engines, batch 1 by default, one thread, on an untrained VGG-11 cut at its usual place;
times are milliseconds of the processor, which neighbours on the machine disturb least, and they and the ratios to torch
are medians over rounds. "eager" is torch as it comes; "torch", as our services always had it, lies channels last.
The edge is the encoder alone, from an array to an array.
"""

import argparse
import copy
import logging
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from splitleak.artifacts import hardware
from splitleak.models.engine import Engine, choose_engine, feature_probes, image_probes, torch_engine
from splitleak.models.split import ModelConfig, build

_LOGGER = logging.getLogger(__name__)
_CHOICES: tuple[str, ...] = ("torch", "fused", "onnx")
_WARM_UP = 5


def halves(width: float, channels: int) -> dict[str, dict[str, Engine]]:
    """Both halves of a VGG-11, laid out as a service has them, by name of the engine."""
    model = build(ModelConfig(width=width, channels=channels, size=32, classes=10))
    model.to(memory_format=torch.channels_last).eval()
    cpu, last = torch.device("cpu"), torch.channels_last
    images, features = image_probes(model.image_shape), feature_probes(model.feature_shape)
    made = {
        "edge": {each: choose_engine(each, model.encoder, cpu, images, last) for each in _CHOICES},
        "cloud": {each: choose_engine(each, model.head, cpu, features) for each in _CHOICES},
    }
    for half, module in (("edge", model.encoder), ("cloud", model.head)):
        made[half]["eager"] = torch_engine(copy.deepcopy(module).to(memory_format=torch.contiguous_format), cpu)
    return made


def timed(run: Callable[[], object], calls: int) -> float:
    """Milliseconds of the processor a call."""
    start = time.process_time()
    for _ in range(calls):
        run()
    return 1000 * (time.process_time() - start) / calls


def compare(engines: dict[str, Engine], rows: np.ndarray, rounds: int, calls: int) -> dict[str, tuple[float, float]]:
    """By engine: median milliseconds, and median ratio to torch in the same round."""
    taken: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(rounds + _WARM_UP):
        for name, engine in engines.items():
            spent = timed(lambda run=engine: run(rows).float().contiguous().numpy(), calls)
            if turn >= _WARM_UP:
                taken[name].append(spent)
    plain = taken["torch"]
    return {
        name: (statistics.median(found), statistics.median(a / b for a, b in zip(found, plain, strict=True)))
        for name, found in taken.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--calls", type=int, default=5, help="calls of one engine in a round")
    parser.add_argument("--batch", type=int, default=1)
    asked = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(message)s")
    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    _LOGGER.info("%s; batch %d, one thread, %d rounds of %d", hardware(), asked.batch, asked.rounds, asked.calls)
    for size, width, channels in (("demo", 0.25, 1), ("paper", 1.0, 3)):
        start = time.process_time()
        made = halves(width, channels)
        _LOGGER.info("%s: all engines ready in %.2f s of the processor", size, time.process_time() - start)
        shapes = {"edge": image_probes((channels, 32, 32))[0].shape[1:]}
        shapes["cloud"] = made["edge"]["torch"](np.zeros((1, *shapes["edge"]), np.float32)).shape[1:]
        for half, engines in made.items():
            rows = draw.random((asked.batch, *shapes[half]), dtype=np.float32)
            with torch.inference_mode():
                found = compare(engines, rows, asked.rounds, asked.calls)
            for name, (milliseconds, ratio) in found.items():
                _LOGGER.info("%-5s %-5s %-5s %8.3f ms  %.2f of torch", size, half, name, milliseconds, ratio)


if __name__ == "__main__":
    main()
