"""Comparison with published figures for model inversion: a defense's change of accuracy and of attack accuracy."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from splitleak.eval.campaign.classes.config import STRONGEST
from splitleak.eval.report.page import NOTHING, Sheet, Text, decimals, seeds_note, spread_text
from splitleak.eval.report.published import UNDEFENDED, Figure, PublishedTable, Row, load
from splitleak.eval.report.published import names as tables
from splitleak.eval.report.results import Results, Spread
from splitleak.eval.report.results import Row as Target

_COLUMNS = (
    ("", "defense"),
    ("", "where"),
    ("", "strongest attack"),
    ("undefended", "accuracy %"),
    ("undefended", "attack accuracy %"),
    ("defended", "accuracy % ↑"),
    ("defended", "attack accuracy % ↓"),
    ("difference, points", "accuracy"),
    ("difference, points", "attack accuracy"),
)
_NOTE = (
    "Every model by the attack that recognises most on it: ours of all on the target (or of those named), a paper's of "
    "those in one table. A difference is to the undefended model of the same seed, or of the same table and network. "
    "The papers have other images, networks, evaluators and attacks: absolute figures do not compare with ours, "
    "differences in sign and order at most. Where a table prints several settings of a defense, the one that costs "
    "least accuracy is shown. What a printed ± is, and how an attack was run: the remarks in eval/published."
)


@dataclass(frozen=True)
class Published:
    """A published table's figures of a defense and of the undefended model, each under its strongest attack."""

    source: str
    attack: str
    accuracy: tuple[Figure, Figure]
    """Undefended, defended; in percent, as is the next."""
    recognised: tuple[Figure, Figure]

    @property
    def costs(self) -> float:
        """Change of accuracy by the defense, in points."""
        return self.accuracy[1].value - self.accuracy[0].value

    @property
    def takes(self) -> float:
        """Change of attack accuracy by the defense, in points."""
        return self.recognised[1].value - self.recognised[0].value


def published_of(defense: str) -> tuple[Published, ...]:
    """The published figures of a defense of `published.defenses`, for each table and setup with an undefended model.

    Of several settings, the one that costs least accuracy.
    """
    published = []
    for table in map(load, sorted(tables(), key=lambda name: (name.split("_")[0], len(name), name))):
        for setup in dict.fromkeys(row.setup for row in table.rows):
            undefended = next((row for row in table.rows if row.place == (UNDEFENDED, None, None, setup)), None)
            rows = [row for row in table.rows if (row.name, row.setup) == (defense, setup)]
            rated = [_compared(table, undefended, row) for row in rows if undefended is not None]
            if settings := list(filter(None, rated)):
                published.append(max(settings, key=lambda setting: setting.costs))
    return tuple(published)


def beside_the_papers(results: Results) -> list[Sheet]:
    """The comparison table, if targets name published defenses and one has no defense; else none.

    Rows are by defense: first ours, then the papers'.
    """
    known = {target.name for target in results.targets}
    targets = [entry for entry in results.config.get("targets", ()) if entry["name"] in known]
    undefended = next((entry["name"] for entry in targets if not entry["defenses"]), None)
    named = [entry for entry in targets if entry.get("published")]
    if undefended is None or not named:
        return []
    rows, misprints = [], dict[str, None]()
    for defense in dict.fromkeys(entry["published"] for entry in named):
        ours = [entry["name"] for entry in named if entry["published"] == defense]
        rows += [(defense, *_ours(results, target, undefended, group)) for target in ours for group in results.groups]
        for paper in published_of(defense):
            rows.append((defense, *_theirs(paper)))
            misprints |= dict.fromkeys(_misprints(paper))
    notes = (f"{seeds_note(results.seeds)} {_NOTE}", *misprints)
    return [Sheet("Beside the papers", _COLUMNS, tuple(tuple(map(Text, row)) for row in rows), notes)]


def _compared(table: PublishedTable, undefended: Row, row: Row) -> Published | None:
    """Both rows under the strongest attack on each; None if the table has no attack on one of them."""
    strongest = []
    for model in (undefended, row):
        rated = {column.attack: _figure(table, model, "attack_accuracy", column.attack) for column in table.columns}
        known = {attack: figure for attack, figure in rated.items() if figure is not None}
        if not known:
            return None
        strongest.append(max(known.items(), key=lambda item: item[1].value))
    attack = str(strongest[1][0])
    accuracies = [
        _figure(table, model, "accuracy", attack) or _figure(table, model, "accuracy", None)
        for model in (undefended, row)
    ]
    if accuracies[0] is None or accuracies[1] is None:
        return None
    details = ", ".join(filter(None, (row.setup or table.dataset, row.setting)))
    recognised = (strongest[0][1], strongest[1][1])
    return Published(f"{table.source}: {details}", attack, (accuracies[0], accuracies[1]), recognised)


def _figure(table: PublishedTable, row: Row, metric: str, attack: str | None) -> Figure | None:
    key = table.key(attack, metric)
    return table.figure_at(row, key) if key else None


def _ours(results: Results, target: str, undefended: str, group: str) -> Iterator[str]:
    names = (undefended, target)
    measured = [
        {name: _accuracy(results, name) for name in names},
        {name: results.by_seed(group, Target(name), "recognised") for name in names},
    ]
    yield f"ours: {target}" if group == STRONGEST else f"ours: {target}, {group}"
    yield results.strongest_names(Target(target), group) or NOTHING
    yield from (_spread(results, values[name].values()) for name in names for values in measured)
    for values in measured:
        before, after = values[undefended], values[target]
        paired = [after[seed] - before[seed] for seed in before if seed in after]
        yield "+" * (sum(paired) > 0) + _spread(results, paired)


def _accuracy(results: Results, target: str) -> dict[int, float]:
    """By seed; it is the same under every attack."""
    of_attacks = [results.by_seed(name, Target(target), "accuracy") for name in results.together]
    return {seed: value for values in of_attacks for seed, value in values.items()}


def _spread(results: Results, values: Collection[float]) -> str:
    return spread_text(Spread.of(values), decimals(1), len(results.seeds))


def _theirs(paper: Published) -> Iterator[str]:
    yield paper.source
    yield paper.attack
    for place in (0, 1):
        for figure in (paper.accuracy[place], paper.recognised[place]):
            yield f"{figure.value:g}{'†' if figure.reason else ''}"
    yield from (f"{round(points, 1) + 0.0:+.1f}" for points in (paper.costs, paper.takes))


def _misprints(paper: Published) -> Iterator[str]:
    for figure in (*paper.accuracy, *paper.recognised):
        if figure.reason:
            yield f"† {paper.source}: printed {figure.printed:g}, must be {figure.value:g}: {figure.reason}."
