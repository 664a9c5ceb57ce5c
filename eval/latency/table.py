"""A latency sweep as tables for the terminal: one row per setting, and the break-even rates."""

from collections.abc import Mapping, Sequence
from typing import Any

from splitleak.eval.latency.break_even import way_label

_SWEPT = ("target", "cut", "batch", "engine", "link", "window")
_PARTS = ("encode", "serialise", "network", "queue", "compute")
BREAK_EVEN = ("target", "batch", "split", "beside", "the split is faster")


def engine_text(cell: Mapping[str, Any]) -> str:
    """The engines in use on the edge and in the cloud; a dash for none.

    >>> engine_text({"edge_engine": "onnx", "cloud_engine": "torch"}), engine_text({"cloud_engine": "onnx"})
    ('onnx → torch', '- → onnx')
    """
    return " → ".join(cell.get(key, "-") for key in ("edge_engine", "cloud_engine"))


def cell_rows(cells: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]], str]:
    """Columns, rows, and a text with the settings that are constant over all rows."""
    swept = [{name: _swept(cell, name) for name in _SWEPT} for cell in cells]
    shown = [name for name in _SWEPT if len({values[name] for values in swept} - {"-"}) > 1]
    same = ", ".join(f"{name} {_only(swept, name)}" for name in _SWEPT if name not in shown)
    columns = (*shown, "way", "bytes/image", *_PARTS, "total", "p95", "p99", "images/s")
    rows = [
        (
            *(values[name] for name in shown),
            way_label(cell),
            f"{cell['bytes_per_image']:.0f}",
            *(quantile_text(cell["parts"][f"{part}_ms"], ("p50",)) for part in _PARTS),
            *(quantile_text(cell["parts"]["total_ms"], (name,)) for name in ("p50", "p95", "p99")),
            f"{cell['images_per_s']:.0f}",
        )
        for values, cell in zip(swept, cells, strict=True)
    ]
    return columns, rows, same


def _swept(cell: Mapping[str, Any], name: str) -> str:
    value = engine_text(cell) if name == "engine" else cell[name]
    return "-" if value is None else str(value)


def _only(swept: Sequence[Mapping[str, str]], name: str) -> str:
    return next((values[name] for values in swept if values[name] != "-"), "-")


def quantile_text(quantiles: Mapping[str, float | None], shown: Sequence[str]) -> str:
    """Quantiles in milliseconds, ``n/a`` with too few samples.

    >>> quantile_text({"p50": 1.5, "p99": None}, ("p50", "p99"))
    '1.50 / n/a'
    """
    return " / ".join("n/a" if (value := quantiles[name]) is None else f"{value:.2f}" for name in shown)


def break_even_rows(comparisons: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Rows of the columns `BREAK_EVEN`; with several engines, the requested engine is shown."""
    several = len({row["engine"] for row in comparisons}) > 1

    def split(row: Mapping[str, Any]) -> str:
        return f"{row['codec']}, {row['engine']}" if several else str(row["codec"])

    return [(row["target"], str(row["batch"]), split(row), row["beside"], verdict_text(row)) for row in comparisons]


def verdict_text(comparison: Mapping[str, Any]) -> str:
    """When a split is the faster, in words.

    >>> verdict_text({"split_is_faster": "below", "mbit_s": 12.34, "within_noise": True})
    '~ below 12.3 Mbit/s'
    """
    rate = comparison["mbit_s"]
    shown = "" if rate is None else f" {rate:.3g} Mbit/s" if rate < 1000 else f" {rate:.0f} Mbit/s"
    verdict = f"{comparison['split_is_faster']}{shown}"
    return f"~ {verdict}" if comparison["within_noise"] else verdict
