"""A recommendation for the terminal: the candidates in a table, and below it the verdict in words."""

from collections.abc import Iterator, Mapping
from typing import Any

COLUMNS = (
    *("", "design", "cut", "codec", "accuracy %", "drop", "MSE", "SSIM", "strongest attack", "ms", "bytes", "seeds"),
    "why",
)


def rows(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The candidates as table rows of `COLUMNS`: ``*`` is recommended, ``-`` on the Pareto frontier, ``~`` assumed."""
    return [
        (
            "*" if option["label"] == document["recommended"] else "-" if option["on_frontier"] else "",
            *(option["design"], str(option["cut"]), option["codec"]),
            *(f"{'~' * option['assumed']}{text}" for text in (f"{option['accuracy']:.2f}", f"{option['drop']:.2f}")),
            *(f"{'~' * option['assumed']}{text}" for text in (f"{option['mse']:.4f}", _known(option["ssim"], 3))),
            option["attack"],
            _known(option["latency_ms"], 2),
            f"{option['bytes_per_image']:.0f}",
            str(option["seeds"]),
            option["why"],
        )
        for option in document["candidates"]
    ]


def _known(value: float | None, digits: int) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"


def verdict(document: Mapping[str, Any]) -> Iterator[str]:
    """The lines below the table: the recommendation, binding budgets, what was not measured."""
    yield "* recommended; - on the frontier of accuracy, leak (MSE), latency and bytes; ~ assumed to be fp32's"
    if document["recommended"]:
        yield f"Recommended: {document['recommended']}."
    else:
        yield f"Nothing measured fits these budgets. Nearest: {document['nearest']}."
    yield from (f"Binding: {line}." for line in document["binding"])
    yield from (f"Not measured: {line}." for line in document["not_measured"])
    yield from (f"Note: {line}." for line in document["notes"])
