"""How a leak grows with what the attacker is allowed: against its queries, and against crossings of a picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from splitleak.eval.report.figures.drawing import Plot, draw_plot
from splitleak.eval.report.page import Sheet, Text, decimals, spread_text
from splitleak.eval.report.results import Spread

_WIDTH, _HEIGHT = 7.5, 4.2  # inches


@dataclass(frozen=True)
class Curve:
    """The MSE of each row at each of several places, over ``seeds`` seeds; ``name`` is its file's."""

    name: str
    title: str
    axis: str
    rows: Mapping[str, Mapping[int, Spread]]
    seeds: int

    @property
    def places(self) -> list[int]:
        """All places, in order."""
        return sorted({place for values in self.rows.values() for place in values})

    def sheet(self) -> Sheet:
        """The curve as a table."""
        rows = [
            (label, *(spread_text(values.get(place), decimals(4), self.seeds) for place in self.places))
            for label, values in self.rows.items()
        ]
        columns = (("", "target"), *(("MSE at", f"{place:,}") for place in self.places))
        return Sheet(self.title, columns, tuple(tuple(map(Text, row)) for row in rows))

    def figure(self) -> Figure:
        """The curve as a plot, with bars of standard errors over seeds."""
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        axes = figure.subplots()
        for index, (label, values) in enumerate(self.rows.items()):
            at = sorted(values)
            axes.errorbar(
                at,
                [values[place].mean for place in at],
                yerr=[values[place].error or 0.0 for place in at],
                marker="o",
                markersize=4,
                linestyle=("-", "--", ":")[index // 10 % 3],
                capsize=2,
                label=label,
            )
        axes.set_xscale("log")
        axes.set_xticks(self.places, [f"{place:,}" for place in self.places])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel=self.axis, ylabel="MSE (lower: more leaks)", title=self.title)
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside right upper", fontsize=7, handlelength=3)
        return figure


def draw_curve(curve: Curve, out: Path) -> Plot:
    """Writes a curve as SVG, PDF and PNG to the folder ``out``."""
    alt = f"{curve.title}: one line for each target. The table below has the same figures."
    return draw_plot(curve.name, alt, partial(Curve.figure, curve), out)
