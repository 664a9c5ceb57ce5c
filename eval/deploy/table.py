"""A recommendation for the terminal: the candidates in a table, and below it the verdict in words."""

from collections.abc import Iterator, Mapping
from typing import Any

COLUMNS = (
    *("", "design", "cut", "codec", "accuracy %", "drop", "MSE", "SSIM", "strongest attack", "ms", "bytes", "seeds"),
    "why",
)


def rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What was found, in `COLUMNS`: ``*`` is recommended, ``-`` on the frontier, ``~`` assumed."""
    return [
        (
            "*" if each["label"] == found["recommended"] else "-" if each["on_frontier"] else "",
            *(each["design"], str(each["cut"]), each["codec"]),
            *(f"{'~' * each['assumed']}{text}" for text in (f"{each['accuracy']:.2f}", f"{each['drop']:.2f}")),
            *(f"{'~' * each['assumed']}{text}" for text in (f"{each['mse']:.4f}", f"{each['ssim']:.3f}")),
            each["attack"],
            "n/a" if each["latency_ms"] is None else f"{each['latency_ms']:.2f}",
            f"{each['bytes_per_image']:.0f}",
            str(each["seeds"]),
            each["why"],
        )
        for each in found["candidates"]
    ]


def verdict(found: Mapping[str, Any]) -> Iterator[str]:
    """The lines below the table: the recommendation, what binds, what was not measured."""
    yield "* recommended; - on the frontier of accuracy, leak (MSE), latency and bytes; ~ assumed to be fp32's"
    if found["recommended"]:
        yield f"Recommended: {found['recommended']}."
    else:
        yield f"Nothing measured fits these budgets. Nearest: {found['nearest']}."
    yield from (f"Binding: {each}." for each in found["binding"])
    yield from (f"Not measured: {each}." for each in found["not_measured"])
    yield from (f"Note: {each}." for each in found["notes"])
