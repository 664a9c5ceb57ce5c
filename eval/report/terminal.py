"""Results as one table for the terminal: a line per measured cell, with its latency."""

from collections.abc import Callable, Mapping, Sequence

from splitleak.eval.latency.table import quantile_text
from splitleak.eval.record.schema import Record
from splitleak.eval.report.results import Cell, Results, Row

_FOUND = "refound_moved"
_TIMES = ("edge_ms", "wire_ms", "cloud_ms", "total_ms")
_LEGEND = (
    "MSE, SSIM, PSNR of what the attacker rebuilt: mean ± standard deviation over victims (high MSE, low SSIM: better "
    "protected).",
    "Found again: victims whose picture, moved by a pixel, is found by its feature among all.",
    "Latencies: p50 / p95 of one image in flight; edge = encode + serialise, wire = network, cloud = queue + compute.",
)


def legend(results: Results) -> str:
    """What stands in the columns that there are."""
    scores, found, times = _LEGEND
    return " ".join((scores, *((found,) if _linked(results) else ()), times))


def columns(results: Results) -> tuple[str, ...]:
    """The columns of `rows`, with table, attack and seed if there are several, and what else is measured."""
    times = tuple(f"{name.removesuffix('_ms')} ms" for name in _TIMES)
    scores = ("MSE", "SSIM", "PSNR dB", *(f"MSE, {views} crossings" for views in _often(results)))
    found = ("found again %",) if _linked(results) else ()
    return ("target", *_labels(results), "accuracy %", *scores, *found, *times, "bytes/image", "queries")


def rows(results: Results) -> list[tuple[str, ...]]:
    """One row per record of victims who were seen once; ``-`` is what is not measured for the target.

    The errors of attacks that saw each victim several times stand beside them; a target that has these alone has a row
    with nothing but them.
    """
    often, labels = _often(results), _labels(results).values()
    return [
        (
            cell.row.label,
            *(label(cell) for label in labels),
            f"{100 * record.target.accuracy:.1f}",
            *(_scores(record) if record.threat_model.views == 1 or not often else ["-"] * 3),
            *(_after(results, cell, views) for views in often),
            *(_text(cell.measure(_FOUND), 1) for _ in range(_linked(results))),
            *_quantiles(cell.latency),
            "-" if record.wire is None else f"{record.wire.bytes_per_image:.0f}",
            str(record.threat_model.queries),
        )
        for cell, record in _shown(results)
    ]


def _shown(results: Results) -> list[tuple[Cell, Record]]:
    """The records that have a row."""
    often = _often(results)
    once = {_target(cell) for cell, record in results.records if record.threat_model.views == 1 or not often}
    alone = {_target(cell): cell.id for cell, _ in reversed(results.records) if _target(cell) not in once}
    return [
        (cell, record)
        for cell, record in results.records
        if record.threat_model.views == 1 or not often or cell.id in alone.values()
    ]


def _target(cell: Cell) -> tuple[str, Row, int]:
    return cell.table, cell.row, cell.seed


def _often(results: Results) -> list[int]:
    """The numbers of crossings after which victims were attacked, where others were attacked after one."""
    views = {record.threat_model.views for _, record in results.records}
    return sorted(views - {1}) if 1 in views else []


def _after(results: Results, cell: Cell, views: int) -> str:
    """The least error on a cell's target after so many crossings."""
    others = [
        record.mse
        for other, record in results.records
        if (_target(other), record.threat_model.views) == (_target(cell), views)
    ]
    return _text(min(others, default=None), 4)


def _linked(results: Results) -> bool:
    return any(cell.linkage is not None for cell in results.cells)


def _text(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _labels(results: Results) -> dict[str, Callable[[Cell], str]]:
    """What tells rows of one target apart, by its column: of those that differ."""
    labels: dict[str, Callable[[Cell], str]] = {
        "table": lambda cell: cell.table,
        "attack": lambda cell: cell.attack or cell.place.attack,
        "seed": lambda cell: str(cell.seed),
    }
    shown = _shown(results)
    return {name: of for name, of in labels.items() if len({of(cell) for cell, _ in shown}) > 1}


def _scores(record: Record) -> list[str]:
    shown = ((record.scores.get(name), digits) for name, digits in (("mse", 4), ("ssim", 3), ("psnr", 2)))
    return ["-" if score is None else score.text(digits) for score, digits in shown]


def _quantiles(latency: Mapping[str, Mapping[str, float | None]] | None) -> Sequence[str]:
    return ["-" if latency is None else quantile_text(latency[part], ("p50", "p95")) for part in _TIMES]
