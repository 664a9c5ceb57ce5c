r"""Break-even bandwidth: the link rate at which two deployments (split, cloud-only, on-device) have equal latency.

.. math:: t(r) = t_0 + \mathrm{rtt} + 8 b / r

with :math:`t_0` the median latency of a request over loopback (edge, gRPC overhead and cloud), :math:`b` the bytes sent
and :math:`r` the link's rate. On-device inference sends nothing and has no round trip. The model neglects the bytes of
the response, about a hundred, and TCP slow start.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from splitleak.eval.latency.plan import NO_LINK

Verdict = Literal["always", "never", "below", "above"]


@dataclass(frozen=True)
class Line:
    """Linear latency model of a request: milliseconds at infinite bandwidth, and bytes sent."""

    fixed_ms: float
    sent_bytes: float

    def at(self, mbit_s: float) -> float:
        """Latency in milliseconds at a rate in Mbit/s.

        >>> Line(10, 1000).at(8)
        11.0
        """
        return self.fixed_ms + 8 * self.sent_bytes / (1000 * mbit_s)


def break_even(split: Line, other: Line) -> tuple[Verdict, float | None]:
    """When ``split`` is faster than ``other``: always, never, or below or above a rate in Mbit/s.

    >>> break_even(Line(12, 1000), Line(10, 5000))
    ('below', 16.0)
    """
    slower_ms, more_bytes = split.fixed_ms - other.fixed_ms, split.sent_bytes - other.sent_bytes
    if slower_ms * more_bytes >= 0:
        return ("always" if slower_ms < 0 or more_bytes < 0 else "never"), None
    rate = -8 * more_bytes / (1000 * slower_ms)
    return ("below" if more_bytes < 0 else "above"), rate


def line(cell: Mapping[str, Any], rtt_ms: float) -> Line:
    """The latency model of a measured cell (over loopback, or on the device), for a round trip of ``rtt_ms``."""
    return Line(cell["parts"]["total_ms"]["p50"] + _away(cell, rtt_ms), cell["bytes_per_image"] * cell["batch"])


def _away(cell: Mapping[str, Any], rtt_ms: float) -> float:
    return 0.0 if cell["way"] == "device" else rtt_ms


def way_label(cell: Mapping[str, Any]) -> str:
    """A cell's deployment (``way``) in words, with its codec.

    >>> way_label({"way": "image", "codec": "uint8"})
    'image to the cloud, uint8'
    """
    words = {"split": "split", "image": "image to the cloud", "device": "all on the device"}[cell["way"]]
    return f"{words}, {cell['codec']}" if cell["codec"] else words


def comparable(cells: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The cells that the model applies to: one request in flight, over loopback or on the device."""
    return [cell for cell in cells if cell["link"] in (NO_LINK, None) and cell["window"] in (1, None)]


def break_evens(cells: Iterable[Mapping[str, Any]], rtt_ms: float) -> list[dict[str, Any]]:
    """Each split compared with each alternative of the same target, batch and engine.

    Args:
        cells: Of a latency sweep.
        rtt_ms: Round trip time of the link.

    Returns:
        Empty if loopback was not measured. ``within_noise``: the confidence intervals of the medians overlap, so the
        verdict is not significant.
    """
    lines = comparable(cells)
    comparisons = []
    for split in (cell for cell in lines if cell["way"] == "split"):
        same = {key: split[key] for key in ("target", "batch", "engine")}
        for other in (cell for cell in lines if cell["way"] != "split" and same.items() <= cell.items()):
            verdict, rate = break_even(line(split, rtt_ms), line(other, rtt_ms))
            setting = {**same, "codec": split["codec"], "beside": way_label(other)}
            comparisons.append(
                {**setting, "split_is_faster": verdict, "mbit_s": rate, "within_noise": _alike(split, other, rtt_ms)}
            )
    return comparisons


def _alike(split: Mapping[str, Any], other: Mapping[str, Any], rtt_ms: float) -> bool:
    """Whether the confidence intervals of the medians overlap, transmission time excluded."""
    (low, high), (other_low, other_high) = (
        [bound + _away(cell, rtt_ms) for bound in cell["median_interval_ms"]] for cell in (split, other)
    )
    return bool(low <= other_high and other_low <= high)
