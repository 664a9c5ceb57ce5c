"""The Pareto frontier of a campaign: accuracy against leakage under the strongest attack, one point a target."""

import operator
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from splitleak.artifacts import written_file
from splitleak.eval.report.results import Results, Row, TableRows

_PANELS = {
    "mse": ("MSE of the strongest attack (higher: better protected)", 1.0),
    "ssim": ("SSIM (lower: better)", -1.0),
}


def non_dominated(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the Pareto-optimal points, sorted by the first value.

    Both values are better the higher they are.

    >>> non_dominated([(1, 1), (2, 0), (0, 2), (1, 0)])
    [2, 0, 1]
    """
    kept = (index for index, point in enumerate(points) if not dominated(point, points))
    return sorted(kept, key=lambda index: points[index])


def dominated(point: Sequence[float], others: Iterable[Sequence[float]]) -> bool:
    """Whether one of ``others`` is at least as high in every value, and not equal (Pareto dominance).

    >>> dominated((1, 2), [(1, 2), (0, 5)]), dominated((1, 2), [(1, 3)])
    (False, True)
    """
    return any(other != point and all(map(operator.ge, other, point)) for other in others)


def draw_frontier(results: Results, out: Path) -> Path:
    """Writes ``frontier.svg`` and ``frontier.png`` to the folder ``out``; an empty frame if nothing is measured.

    Accuracy against the MSE, and against the SSIM, of the strongest attack; means over seeds. An arrow leads from each
    method to its twin; the line joins the Pareto-optimal targets.

    Returns:
        The path of the SVG.
    """
    with mpl.rc_context({"svg.hashsalt": "splitleak", "font.size": 9}):
        figure = Figure(figsize=(11, 4.4 * max(1, len(results.tables))), layout="constrained")
        panels = figure.subplots(max(1, len(results.tables)), len(_PANELS), squeeze=False)
        for table, line in zip(results.tables, panels, strict=False):
            for metric, axes in zip(_PANELS, line, strict=True):
                _panel(results, table, metric, axes)
        for suffix in ("png", "svg"):
            with written_file(out / f"frontier.{suffix}") as partial:
                figure.savefig(partial, format=suffix, dpi=110, metadata={"Date": None} if suffix == "svg" else None)
    return out / "frontier.svg"


def _panel(results: Results, table: TableRows, metric: str, axes: Axes) -> None:
    title, sign = _PANELS[metric]
    places: dict[Row, tuple[float, float]] = {}
    for row in table.rows:
        accuracy, figure = results.spread(table.name, row, "accuracy"), results.closest(table.name, row, metric)
        if accuracy and figure:
            places[row] = (accuracy.mean, figure.mean)
    names = list(dict.fromkeys(row.name for row in table.rows))
    for row, place in places.items():
        colour, twin = f"C{names.index(row.name) % 10}", places.get(Row(row.name))
        axes.scatter(*place, color=colour, marker="^" if row.plus else "o", s=36, zorder=3)
        axes.annotate(row.label, place, xytext=(4, 4), textcoords="offset points", fontsize=7, color=colour)
        if row.plus and twin:
            axes.annotate("", place, twin, arrowprops={"arrowstyle": "->", "color": colour, "alpha": 0.5})
    points = list(places.values())
    best = [points[index] for index in non_dominated([(x, sign * y) for x, y in points])]
    if best:
        axes.plot(*zip(*best, strict=True), color="0.6", linestyle="--", linewidth=1, zorder=1, label="not dominated")
        axes.legend(fontsize=7)
    if metric == "ssim":
        axes.invert_yaxis()
    axes.set(xlabel="accuracy %", ylabel=title, title=table.name)
    axes.ticklabel_format(useOffset=False)
    axes.margins(0.2, 0.12)
