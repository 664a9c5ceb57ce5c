"""The first table of a campaign against classes: targets × attacks, and the strongest of them."""

from collections import Counter
from collections.abc import Iterator

from splitleak.eval.report.figures_results import PredictionResults
from splitleak.eval.report.page import NOTHING, Sheet, Text, decimals, seeds_note, spread_text

_NOTE = (
    "Share of the pictures that the evaluator puts in the attacked class, in percent. ± over seeds is over targets "
    "that were trained anew; (±) is the standard error over the pictures of one target, on average over seeds. "
    "Strongest: the attack that did most in a seed, where all on that target are measured, and which that was, with "
    "the number of seeds. A defense is worth what it does against that one."
)


def summary(results: PredictionResults) -> list[Sheet]:
    """The table of a campaign that has attacks and targets, or none."""
    if not results.together:
        return []
    columns = (
        ("", "target"),
        ("classifier", "accuracy %"),
        *(("recognised %", name) for name in results.together),
        *(column for name in results.groups for column in (("recognised %", name), ("recognised %", "which"))),
    )
    rows = tuple(tuple(map(Text, _row(results, target))) for target in results.targets)
    return [Sheet("Targets and attacks", columns, rows, (f"{seeds_note(results.seeds)} {_NOTE}",))]


def _row(results: PredictionResults, target: str) -> Iterator[str]:
    yield target
    figures = [figure.name for figure in results.figures if figure.name in results.together and target in figure.rows]
    accuracy = results.spread(figures[0], target, "accuracy")
    yield spread_text(accuracy, decimals(1), len(results.seeds))
    for name in results.together:
        yield _share(results, name, target)
    for name in results.groups:
        yield _share(results, name, target)
        which = Counter(cell.figure for cell in results.strongest(target, name).values())
        yield ", ".join(f"{figure} {count}" for figure, count in which.most_common()) or NOTHING


def _share(results: PredictionResults, figure: str, target: str) -> str:
    shown = spread_text(results.spread(figure, target, "recognised"), decimals(1), len(results.seeds))
    error = results.spread(figure, target, "recognised_error")
    return shown if error is None else f"{shown} (±{error.mean:.1f})"
