"""How often the page finds a picture that comes again: ``python -m tests.bench.again FOLDER`` of a demo that has run.

For each target with a capture of single crossings: 500 test images cross the wire, and then 300 of them once more, the
same or moved by a pixel, or 1,000 new ones. Found is a picture beside the right one; falsely, beside any.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from splitleak.attacker.arrays import read_pairs
from splitleak.attacker.likeness import Apart
from splitleak.attacker.rebuilders import Rebuilder
from splitleak.attacker.watch.watcher import Gallery
from splitleak.datasets.splits import Splits
from splitleak.defenses.artifact import EdgeHalf, load_edge
from splitleak.eval.campaign.store import Store

_BEFORE, _AGAIN, _NEW, _BATCH = 500, 300, 1000, 64


def sent(half: EdgeHalf, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """What crosses the wire of images ``(N, C, H, W)``."""
    return np.concatenate([half.encode(images[at : at + _BATCH]) for at in range(0, len(images), _BATCH)])


def figures(half: EdgeHalf, images: NDArray[np.float32], apart: Apart | None) -> Iterator[str]:
    """The shares that are found, of each kind of pictures that come later."""
    rebuilder = Rebuilder("none", half.feature_shape, lambda rows: rows, apart=apart)
    again = images[:_AGAIN]
    later = {"same": again, "moved": np.roll(again, (1, 0), (2, 3)), "new": images[_BEFORE : _BEFORE + _NEW]}
    for kind, come in later.items():
        gallery = Gallery(_BEFORE + _NEW, rebuilder)
        stream = enumerate(np.concatenate([sent(half, images[:_BEFORE]), sent(half, come)]))
        found = [gallery.find(number, feature, "") for number, feature in stream][_BEFORE:]
        hits = sum(each is not None and (kind == "new" or each["number"] == place) for place, each in enumerate(found))
        yield f"{kind} {100 * hits / len(come):.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    jobs = {(job["kind"], job["label"]): folder / job["output"] for job in Store(folder).read_plan()["jobs"]}
    images = next(Splits.load(path.parent).test.floats().numpy() for (kind, _), path in jobs.items() if kind == "split")
    for (kind, label), path in jobs.items():
        if kind == "train":
            half = load_edge(path / "edge", torch.device("cpu"))
            apart = Apart.of(read_pairs(jobs["capture", label] / "pairs.npz").features[0])
            for rule, known in (("public pictures", apart), ("usual distance", None)):
                print(f"{label}, {rule}: {', '.join(figures(half, images, known))}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
