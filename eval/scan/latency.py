"""How long both halves of a cut take for one image, on one thread."""

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from splitleak.graphs.halves import CROSSING, cloud_half, edge_half
from splitleak.graphs.network import Cut, Network, session_of
from splitleak.graphs.prepared import IMAGES, OUTPUT
from splitleak.logs import Report

_MOST_BYTES = 2**29  # of the weights of all sessions at once
_LEAST_ROUNDS, _ROUNDS, _SECONDS = 3, 15, 6.0  # as many as take no longer than that


def evenly(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` indices, evenly spaced, the first and the last among them.

    >>> evenly(10, 4), evenly(3, 9)
    ([0, 3, 6, 9], [0, 1, 2])
    """
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most))}) if count and most else []


def time_halves(network: Network, cuts: Sequence[Cut], most: int, report: Report) -> dict[str, dict[str, float]]:
    """Medians in ms of up to 15 runs of one image (slow networks: 3), all halves in turn, in ONNX Runtime.

    Args:
        network: The network.
        cuts: Of these, ``most`` are timed, evenly spaced, or fewer where their weights would fill the memory.
        most: How many.
        report: Hears of the rounds.

    Returns:
        ``edge_ms`` and ``cloud_ms`` by the cut's name; under the empty name ``whole_ms``.
    """
    fitting = max(2, _MOST_BYTES // (2 * network.model.ByteSize()))
    timed = [cuts[place] for place in evenly(len(cuts), min(most, fitting))]
    image = np.random.default_rng(0).random((1, *network.image_shape), dtype=np.float32)
    runs: list[tuple[str, str, Any, str, dict[str, Any]]] = []
    runs.append(("", "whole_ms", session_of(network.model, 1), OUTPUT, {IMAGES: image}))
    for done, cut in enumerate(timed, 1):
        edge, cloud = session_of(edge_half(network, cut), 1), session_of(cloud_half(network, cut), 1)
        sent = edge.run([CROSSING], {IMAGES: image})[0]
        runs.append((cut.name, "edge_ms", edge, CROSSING, {IMAGES: image}))
        runs.append((cut.name, "cloud_ms", cloud, OUTPUT, {CROSSING: sent}))
        report("load halves", done, len(timed), {})
    spent: dict[tuple[str, str], list[float]] = {(name, half): [] for name, half, *_ in runs}
    rounds, started = _ROUNDS, time.perf_counter()
    for turn in range(_ROUNDS + 1):
        for name, half, session, output, given in runs:
            began = time.perf_counter()
            session.run([output], given)
            if turn:  # the first warms up
                spent[name, half].append(1e3 * (time.perf_counter() - began))
        if not turn:
            affordable = int(_SECONDS / (time.perf_counter() - started))
            rounds = min(_ROUNDS, max(_LEAST_ROUNDS, affordable))
        report("time halves", turn, rounds, {})
        if turn == rounds:
            break
    found: dict[str, dict[str, float]] = {}
    for (name, half), times in spent.items():
        found.setdefault(name, {})[half] = median(times)
    return found
