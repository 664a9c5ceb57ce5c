"""The Pareto frontier of a campaign: accuracy against leakage under the strongest attack, one point a target."""

import operator
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from splitleak.eval.report.figures.drawing import Plot, draw_plot
from splitleak.eval.report.figures.labels import freeze_layout, place_labels
from splitleak.eval.report.page import NOTHING, Sheet, Text, decimals, seeds_note, spread_text
from splitleak.eval.report.results import Results, Row, Spread, TableRows

_PANELS = {
    "mse": ("MSE of the strongest attack (higher: better protected)", 1.0),
    "ssim": ("Zero-padded SSIM of the strongest attack (lower: better protected)", -1.0),
}
_MARGIN = 0.12  # of each axis, that labels have room
_LETTERS = 7.0
_NOTE = (
    "Each target under the attack that came closest to the victims in each seed, by each measure. Not dominated: no "
    "other target is as accurate and leaks as little, and is better in one of the two."
)

Place = tuple[Spread, Spread]
"""Accuracy in percent, and the measure of the strongest attack."""


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


def draw_frontier(results: Results, out: Path) -> Plot:
    """Writes ``frontier.svg``, ``.pdf`` and ``.png`` to the folder ``out``; an empty frame if nothing is measured.

    Accuracy against the MSE, and against the SSIM, of the strongest attack; means over seeds, with bars of their
    standard errors. An arrow leads from each method to its twin; the line joins the Pareto-optimal targets.
    """
    alt = (
        "Two scatter plots of all targets: accuracy against the MSE and against the zero-padded SSIM of the strongest "
        "attack. The table below has the same figures."
    )
    return draw_plot("frontier", alt, partial(frontier_figure, results), out)


def frontier_figure(results: Results) -> Figure:
    """The figure of `draw_frontier`."""
    figure = Figure(figsize=(11, 4.8 * max(1, len(results.tables))), layout="constrained")
    panels = figure.subplots(max(1, len(results.tables)), len(_PANELS), squeeze=False)
    places = {
        axes: _panel(results, table, metric, axes)
        for table, line in zip(results.tables, panels, strict=False)
        for metric, axes in zip(_PANELS, line, strict=True)
    }
    freeze_layout(figure)
    for axes, (rows, colours) in places.items():
        label_points(axes, rows, colours)
    return figure


def label_points(axes: Axes, places: dict[Row, Place], colours: dict[Row, str]) -> list[Annotation]:
    """Names the points of a panel."""
    points = [(accuracy.mean, figure.mean) for accuracy, figure in places.values()]
    bars = []
    for accuracy, figure in places.values():
        across, along = accuracy.error or 0.0, figure.error or 0.0
        bars.append(Bbox.from_extents(accuracy.mean - across, figure.mean, accuracy.mean + across, figure.mean))
        bars.append(Bbox.from_extents(accuracy.mean, figure.mean - along, accuracy.mean, figure.mean + along))
    texts, inks = [row.label for row in places], [colours[row] for row in places]
    return place_labels(axes, points, texts, inks, size=_LETTERS, spared=bars)


def frontier_sheets(results: Results) -> list[Sheet]:
    """The points of the frontier as tables."""
    return [_sheet(results, table) for table in results.tables]


def _places(results: Results, table: TableRows, metric: str) -> dict[Row, Place]:
    places: dict[Row, Place] = {}
    for row in table.rows:
        accuracy, figure = results.spread(table.name, row, "accuracy"), results.closest(table.name, row, metric)
        if accuracy and figure:
            places[row] = accuracy, figure
    return places


def _best(places: dict[Row, Place], sign: float) -> list[Row]:
    points = [(accuracy.mean, sign * figure.mean) for accuracy, figure in places.values()]
    rows = list(places)
    return [rows[index] for index in non_dominated(points)]


def _panel(results: Results, table: TableRows, metric: str, axes: Axes) -> tuple[dict[Row, Place], dict[Row, str]]:
    title, sign = _PANELS[metric]
    places = _places(results, table, metric)
    names = list(dict.fromkeys(row.name for row in table.rows))
    colours = {row: f"C{names.index(row.name) % 10}" for row in places}
    for row, (accuracy, figure) in places.items():
        axes.errorbar(
            accuracy.mean,
            figure.mean,
            xerr=accuracy.error,
            yerr=figure.error,
            color=colours[row],
            marker="^" if row.plus else "o",
            markersize=6,
            elinewidth=0.8,
            capsize=2,
            zorder=3,
        )
        twin = places.get(Row(row.name))
        if row.plus and twin:
            start = (twin[0].mean, twin[1].mean)
            arrow = {"arrowstyle": "->", "color": colours[row], "alpha": 0.5}
            axes.annotate("", (accuracy.mean, figure.mean), start, arrowprops=arrow)
    best = [(places[row][0].mean, places[row][1].mean) for row in _best(places, sign)]
    if best:
        axes.plot(*zip(*best, strict=True), color="0.6", linestyle="--", linewidth=1, zorder=1, label="not dominated")
        axes.legend(fontsize=_LETTERS, loc="upper center", bbox_to_anchor=(0.9, 1.08))
    if metric == "ssim":
        axes.invert_yaxis()
    axes.set(xlabel="accuracy %", ylabel=title, title=table.name)
    axes.ticklabel_format(useOffset=False)
    axes.margins(_MARGIN)
    return places, colours


def _sheet(results: Results, table: TableRows) -> Sheet:
    by_metric = {metric: _places(results, table, metric) for metric in _PANELS}
    best = {metric: _best(by_metric[metric], sign) for metric, (_, sign) in _PANELS.items()}
    shown = {"mse": decimals(4), "ssim": decimals(3)}
    rows = []
    for row in table.rows:
        accuracy = results.spread(table.name, row, "accuracy")
        texts = [row.label, spread_text(accuracy, decimals(2), len(results.seeds))]
        for metric, places in by_metric.items():
            figure = places[row][1] if row in places else None
            told = NOTHING if figure is None else "yes" if row in best[metric] else "no"
            texts += [spread_text(figure, shown[metric], len(results.seeds)), told]
        rows.append(tuple(map(Text, texts)))
    strongest = "strongest attack"
    columns = [("", "target"), ("classifier", "accuracy %")]
    for metric in _PANELS:
        columns += [(strongest, metric.upper()), (strongest, "not dominated")]
    return Sheet(
        f"The frontier of {table.name}", tuple(columns), tuple(rows), (f"{seeds_note(results.seeds)} {_NOTE}",)
    )
