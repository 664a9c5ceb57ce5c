"""How long both halves of a cut take for one image, on one thread."""

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from splitleak.graphs.halves import CROSSING, cloud_half, edge_half
from splitleak.graphs.network import Cut, Network
from splitleak.graphs.prepared import IMAGES, OUTPUT
from splitleak.logs import Report
from splitleak.onnx_runtime import session_of

_AT_ONCE = 3  # cuts whose halves are in memory
_LEAST_ROUNDS, _ROUNDS, _SECONDS = 3, 15, 1.5  # as many as take no longer than that

_Run = tuple[str, str, Any, str, dict[str, Any]]  # cut, what is timed, session, its output, what it is given


def evenly(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` indices, evenly spaced, the first and the last among them.

    >>> evenly(10, 4), evenly(3, 9)
    ([0, 3, 6, 9], [0, 1, 2])
    """
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most))}) if count and most else []


def time_halves(network: Network, cuts: Sequence[Cut], most: int, report: Report) -> dict[str, dict[str, float]]:
    """Medians in ms of up to 15 runs of one image (3, of slow networks) in ONNX Runtime; a few cuts' halves in turn.

    Args:
        network: The network.
        cuts: Of these, ``most`` are timed, evenly spaced.
        most: How many.
        report: Hears of the cuts.

    Returns:
        ``edge_ms`` and ``cloud_ms`` by the cut's name; under the empty name ``whole_ms``.
    """
    timed = [cuts[place] for place in evenly(len(cuts), most)]
    image = np.random.default_rng(0).random((1, *network.image_shape), dtype=np.float32)
    whole: _Run = ("", "whole_ms", session_of(network.model.SerializeToString(), 1), OUTPUT, {IMAGES: image})
    spent: dict[tuple[str, str], list[float]] = {}
    for start in range(0, len(timed), _AT_ONCE):
        runs = [whole]
        for cut in timed[start : start + _AT_ONCE]:
            halves = edge_half(network, cut), cloud_half(network, cut)
            edge, cloud = (session_of(half.SerializeToString(), 1) for half in halves)
            runs.append((cut.name, "edge_ms", edge, CROSSING, {IMAGES: image}))
            runs.append((cut.name, "cloud_ms", cloud, OUTPUT, {CROSSING: edge.run([CROSSING], {IMAGES: image})[0]}))
        _time(runs, spent)
        report("time halves", min(start + _AT_ONCE, len(timed)), len(timed), {})
    found: dict[str, dict[str, float]] = {}
    for (name, half), times in spent.items():
        found.setdefault(name, {})[half] = median(times)
    return found


def _time(runs: Sequence[_Run], spent: dict[tuple[str, str], list[float]]) -> None:
    """Runs all in turn, and adds the ms of each; the first turn warms up, and tells how many are affordable."""
    rounds, started = 0, time.perf_counter()
    for turn in range(_ROUNDS + 1):
        for name, half, session, output, given in runs:
            began = time.perf_counter()
            session.run([output], given)
            if turn:
                spent.setdefault((name, half), []).append(1e3 * (time.perf_counter() - began))
        if not turn:
            affordable = int(_SECONDS / (time.perf_counter() - started))
            rounds = min(_ROUNDS, max(_LEAST_ROUNDS, affordable))
        if turn == rounds:
            return
