"""What a step of the decoder attack costs beside one of the undefended target: ``python -m tests.bench.attack_step``.

Both with the paper's networks, from features 8 × 8 × 8 to images 3 × 32 × 32, at batch 128 on one thread. Interleaved,
in processor seconds; the ratio is the median over rounds. Exit status 1 if it is above its limit.
"""

import argparse
import statistics
import sys
from collections.abc import Callable

import torch

from splitleak.artifacts import hardware
from splitleak.attacker.base import Run, Shapes
from splitleak.attacker.reconstruction.decoder import DecoderAttack, DecoderTraining
from tests.bench.step import target_step, timed

LIMIT = 0.6


def attack_step(batch: int) -> Callable[[], object]:
    """A step of the attack at its paper preset."""
    training = DecoderTraining(DecoderAttack.paper_config(), Shapes((8, 8, 8), (3, 32, 32), 1000), Run())
    training.decoder.train()
    draw = torch.Generator().manual_seed(0)
    features, images = torch.rand(batch, 8, 8, 8, generator=draw), torch.rand(batch, 3, 32, 32, generator=draw)
    return lambda: training.descend(features, images, 0.5)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    target, attack = target_step(1.0, options.batch), attack_step(options.batch)
    for step in (target, attack):
        step()
    pairs = [(timed(target), timed(attack)) for _ in range(options.rounds)]
    before, after = (1e3 * statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    sys.stdout.write(
        f"{hardware()}; batch {options.batch}, medians of {options.rounds} interleaved rounds\n"
        f"vgg11, undefended: {before:.1f} ms; decoder attack: {after:.1f} ms, {ratio:.3f} times, limit {LIMIT}\n"
    )
    return 1 if ratio > LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
