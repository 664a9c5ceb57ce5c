r"""The speed of a link at which two ways of answering take the same time.

.. math:: t(r) = t_0 + \mathrm{rtt} + 8 b / r

with :math:`t_0` the median of a request over loopback (edge, gRPC's own work and cloud), :math:`b` the bytes it sends
and :math:`r` the link's rate. All on the device sends nothing and waits for no round trip. The answer's bytes, some
hundred, are left out; so is what a slow start of TCP costs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from splitleak.eval.latency.plan import NO_LINK

Verdict = Literal["always", "never", "below", "above"]


@dataclass(frozen=True)
class Line:
    """The time of a request over a link's rate: milliseconds at an infinite rate, and the bytes that it sends."""

    fixed_ms: float
    sent_bytes: float

    def at(self, mbit_s: float) -> float:
        """Milliseconds at a rate in Mbit/s.

        >>> Line(10, 1000).at(8)
        11.0
        """
        return self.fixed_ms + 8 * self.sent_bytes / (1000 * mbit_s)


def break_even(split: Line, other: Line) -> tuple[Verdict, float | None]:
    """When ``split`` is the faster: always, never, or below or above a rate in Mbit/s.

    >>> break_even(Line(12, 1000), Line(10, 5000))
    ('below', 16.0)
    """
    slower_ms, more_bytes = split.fixed_ms - other.fixed_ms, split.sent_bytes - other.sent_bytes
    if slower_ms * more_bytes >= 0:
        return ("always" if slower_ms < 0 or more_bytes < 0 else "never"), None
    rate = -8 * more_bytes / (1000 * slower_ms)
    return ("below" if more_bytes < 0 else "above"), rate


def line(cell: Mapping[str, Any], rtt_ms: float) -> Line:
    """The line of a measured cell (over loopback, or on the device)."""
    return Line(cell["parts"]["total_ms"]["p50"] + _away(cell, rtt_ms), cell["bytes_per_image"] * cell["batch"])


def _away(cell: Mapping[str, Any], rtt_ms: float) -> float:
    return 0.0 if cell["way"] == "device" else rtt_ms


def way_label(cell: Mapping[str, Any]) -> str:
    """A cell's way in words, with its codec.

    >>> way_label({"way": "image", "codec": "uint8"})
    'image to the cloud, uint8'
    """
    words = {"split": "split", "image": "image to the cloud", "device": "all on the device"}[cell["way"]]
    return f"{words}, {cell['codec']}" if cell["codec"] else words


def comparable(cells: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The cells that the model speaks of: one request in flight, over loopback or with nothing sent."""
    return [cell for cell in cells if cell["link"] in (NO_LINK, None) and cell["window"] in (1, None)]


def break_evens(cells: Iterable[Mapping[str, Any]], rtt_ms: float) -> list[dict[str, Any]]:
    """Each split beside each alternative of the same target, batch and engine; empty if loopback was not measured.

    ``within_noise`` says that the medians' intervals overlap, so that the verdict may be another tomorrow.
    """
    lines = comparable(cells)
    found = []
    for split in (cell for cell in lines if cell["way"] == "split"):
        same = {key: split[key] for key in ("target", "batch", "engine")}
        for other in (cell for cell in lines if cell["way"] != "split" and same.items() <= cell.items()):
            faster, rate = break_even(line(split, rtt_ms), line(other, rtt_ms))
            about = {**same, "codec": split["codec"], "beside": way_label(other)}
            found.append(
                {**about, "split_is_faster": faster, "mbit_s": rate, "within_noise": _alike(split, other, rtt_ms)}
            )
    return found


def _alike(split: Mapping[str, Any], other: Mapping[str, Any], rtt_ms: float) -> bool:
    """Whether the medians, without the bytes, may be the same: then a rate, or its absence, is not to be relied on."""
    (low, high), (other_low, other_high) = (
        [bound + _away(each, rtt_ms) for bound in each["median_interval_ms"]] for each in (split, other)
    )
    return bool(low <= other_high and other_low <= high)
