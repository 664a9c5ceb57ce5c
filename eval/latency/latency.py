"""Latency breakdown of a request from edge to cloud, from durations only, so that no clocks are compared."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from splitleak.artifacts import provenance
from splitleak.edge.profiles import DEVICES
from splitleak.eval.latency.break_even import break_evens
from splitleak.eval.latency.measure import ROUND, Runner, Sample, bench, link_profiles
from splitleak.eval.latency.plan import SweepConfig
from splitleak.logs import Report
from splitleak.wire.protocol.codec import DEFLATE

PARTS = (
    "encode_ms",
    "serialise_ms",
    "network_ms",
    "queue_ms",
    "compute_ms",
    "edge_ms",
    "wire_ms",
    "cloud_ms",
    "total_ms",
)
"""The five parts of a request's latency; then edge = encode + serialise, wire = network, cloud = queue + compute."""

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
BEYOND = 5
"""Samples that must lie beyond a quantile for it to be reported: p99 needs 500."""


def measure(config: SweepConfig, report: Report) -> dict[str, Any]:
    """Measures every setting of ``config`` in interleaved rounds of random order, after one warm-up round.

    Images are built-in ones at the model's size. ``targets`` has the parts of each artifact's first setting, ``cells``
    those of all; for ``break_even`` see `break_evens`. A quantile is null with fewer than `BEYOND` samples beyond it;
    the median never is.

    Returns:
        ``{samples, codec, engine, targets: {name: {part: {p50, p95, p99}}}, cells, break_even, rtt_ms,
        emulated_device, links, sweep, notes, provenance}``, times in milliseconds.

    Raises:
        FileNotFoundError: There is no artifact.
        ValueError: An architecture has no such cut, or there is no such device profile or link.
        RuntimeError: A cloud or link did not start; the end of its log is in the message.
    """
    with bench(config) as runners:
        samples_of: list[list[Sample]] = [[] for _ in runners]
        rates: list[list[float]] = [[] for _ in runners]
        rounds = -(-config.samples // ROUND)
        for round_index in range(rounds + 1):
            for index in np.random.default_rng(round_index).permutation(len(runners)):
                samples, rate = runners[index].round(round_index)
                if round_index:
                    samples_of[index] += samples
                    rates[index].append(rate)
            report("rounds", round_index, rounds, {})
    cells = [_cell(*measured) for measured in zip(runners, samples_of, rates, strict=True)]
    firsts = {cell["target"]: cell for cell in reversed(cells) if cell["way"] == "split" and not cell["fresh_weights"]}
    profile = DEVICES.choose(config.device_profile) if config.device_profile else None
    return {
        "samples": rounds * ROUND,
        "codec": config.codecs[0],
        "engine": config.engines[0],
        "targets": {name: firsts[name]["parts"] for name in reversed(firsts)},
        "cells": cells,
        "break_even": break_evens(cells, config.rtt_ms),
        "rtt_ms": config.rtt_ms,
        "emulated_device": profile.document() if profile else None,
        "links": {name: link.document() for name, link in link_profiles(config).items()},
        "sweep": config.document(),
        "notes": list(_notes(config, cells)),
        "provenance": provenance(),
    }


def _notes(config: SweepConfig, cells: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "The edge is the measuring process; each cloud and each link is a process of its own on this machine."
    if any(cell["fresh_weights"] for cell in cells):
        yield "Weights of further cuts are fresh: time does not depend on them, but the bytes that deflate saves do."
    if any(DEFLATE in codec for codec in config.codecs):
        yield "What deflate saves and takes is that of the built-in images; `splitleak edge` tells the bytes of others."
    if max(config.windows) > 1:
        yield "With several requests in flight, a latency excludes the wait for a slot; images/s counts whole rounds."
    if config.device_profile:
        profile = DEVICES.choose(config.device_profile)
        limits = f"{profile.factor:g} times as long, {profile.threads} threads at most"
        yield f"The device is emulated, {profile.name}: {limits}; {profile.basis}."


def _cell(runner: Runner, samples: Sequence[Sample], rates: Sequence[float]) -> dict[str, Any]:
    sent = float(np.median([sample["sent_bytes"] for sample in samples]))
    return {
        **runner.facts,
        "requests": len(samples),
        "bytes_per_image": sent / runner.setting.batch,
        "parts": summarise(samples),
        "median_interval_ms": median_interval([sample["total_ms"] for sample in samples]),
        "images_per_s": float(np.median(rates)),
    }


def summarise(samples: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """`QUANTILES` of each of `PARTS` over ``samples``, in milliseconds; null with too few samples."""
    parts = {
        part: np.array([sample[part] for sample in samples])
        for part in ("encode_ms", "serialise_ms", "network_ms", "queue_ms", "compute_ms", "total_ms")
    }
    parts["edge_ms"] = parts["encode_ms"] + parts["serialise_ms"]
    parts["wire_ms"] = parts["network_ms"]
    parts["cloud_ms"] = parts["queue_ms"] + parts["compute_ms"]
    return {part: {name: _quantile(parts[part], share) for name, share in QUANTILES.items()} for part in PARTS}


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % confidence interval of the median, by binomial order statistics; the whole range for few values.

    >>> median_interval(list(range(100)))
    (39, 60)
    """
    ranked, count = sorted(values), len(values)
    half_width = 0.98 * math.sqrt(count)
    low, high = math.floor((count - 1) / 2 - half_width), math.ceil((count - 1) / 2 + half_width)
    return ranked[max(low, 0)], ranked[min(high, count - 1)]


def _quantile(values: np.typing.NDArray[np.float64], share: float) -> float | None:
    enough = share == QUANTILES["p50"] or len(values) * (1 - share) >= BEYOND - 1e-9
    return float(np.quantile(values, share)) if enough else None
