"""What attacks gain over baselines, what a defense takes of it at equal accuracy, and which defenses differ."""

from collections.abc import Iterator, Mapping
from itertools import pairwise, product
from statistics import fmean

import numpy as np

from splitleak.eval.record.metrics import best_baseline, open_hits, recognised_hits
from splitleak.eval.report.page import NOTHING, Sheet, Text, decimals, seeds_note, spread_text
from splitleak.eval.report.results import Cell, Results, Row, Spread
from splitleak.eval.report.seed_tests import SeedTest, corrected

_JUDGES = {"closed set": "gain", "open set": "open_gain"}
_READ = {"gain": ("recognised", recognised_hits), "open_gain": ("open_set", open_hits)}
_GAIN_NOTE = (
    "In points, the attack of each group that is recognised most often: by how much more often than as many pictures "
    "of the best baseline for the access that the whole group has, which were picked and not rebuilt. (±) is the "
    "standard error of the paired "
    "difference over the classes of one target, on average over seeds. Open set: by a judge that knows the prior's "
    "classes too."
)
_WORTH_NOTE = (
    "In points, the gain over the baseline that a defense takes from the strongest attack: that on the undefended "
    "target less its own, by seed; at equal accuracy where undefended targets of several accuracies were measured "
    "(label_noise), between which it is interpolated, so that these are worth nothing themselves; seeds in which it is "
    "less accurate than all of these are left out. A target that is less accurate is recognised less, and so are its "
    "baselines: that is worth nothing. Paired t tests over seeds, p corrected for the number of those that differ "
    "(Holm)."
)
_APART_NOTE = (
    "Targets in the order of the gain over the baseline that the strongest attack keeps: whether each differs from the "
    "next. Paired t tests over seeds, p corrected for the number of those that differ (Holm); accuracy: difference of "
    "the two, in points."
)
_WORTH = {"above": "protects", "below": "harms", "cannot be told": "cannot be told", "nothing": "worth nothing"}
_APART = {"above": "apart", "below": "apart", "cannot be told": "cannot be told"}


def gain_sheets(results: Results) -> list[Sheet]:
    """The gain over baselines of a campaign against classes, the worth of its defenses, and which differ; else none."""
    cases = product(results.targets, results.groups, _READ)
    if not any(_gains(results, row, group, metric) for row, group, metric in cases):
        return []
    return [_gain_sheet(results), *_worth_sheets(results), *_apart_sheets(results)]


def _gain_sheet(results: Results) -> Sheet:
    columns = [("", "target"), ("", "attacks"), ("classifier", "accuracy %"), ("classifier", "private confidence")]
    for judge in _JUDGES:
        columns += [(judge, name) for name in ("best baseline %", "strongest attack %", "gain", "which")]
    rows = [tuple(map(Text, _gain_row(results, row, group))) for row in results.targets for group in results.groups]
    return Sheet(
        "Gain over the best baseline", tuple(columns), tuple(rows), (f"{seeds_note(results.seeds)} {_GAIN_NOTE}",)
    )


def _gain_row(results: Results, row: Row, group: str) -> Iterator[str]:
    seeds, cells = len(results.seeds), results.strongest(row, group).values()

    def over_seeds(values: list[float | None], digits: int = 1) -> str:
        return spread_text(Spread.of([value for value in values if value is not None]), decimals(digits), seeds)

    yield row.label
    yield group
    yield over_seeds([cell.measure("accuracy") for cell in cells])
    yield over_seeds([cell.measure("private_confidence") for cell in cells], 2)
    for metric in _JUDGES.values():
        strongest = results.strongest(row, group, metric).values()
        yield over_seeds([_baseline(cell, metric) for cell in strongest])
        yield over_seeds([cell.measure(_READ[metric][0]) for cell in strongest])
        errors = [error for cell in strongest if (error := cell.measure(f"{metric}_error")) is not None]
        gain = over_seeds([cell.measure(metric) for cell in strongest])
        yield f"{gain} (±{sum(errors) / len(errors):.1f})" if errors else gain
        yield results.strongest_names(row, group, metric) or NOTHING


def _baseline(cell: Cell, metric: str) -> float | None:
    best = None if cell.reading is None else best_baseline(cell.reading, _READ[metric][1])
    return None if best is None else 100 * float(best.mean())


def _worth_sheets(results: Results) -> list[Sheet]:
    undefended = _undefended(results)
    tests: dict[tuple[str, str, str], SeedTest] = {}
    for row in results.targets:
        for group in results.groups:
            for judge, metric in _JUDGES.items():
                if row not in undefended[:1] and (worth := _worth(results, row, group, metric, undefended)):
                    tests[row.label, group, judge] = SeedTest.of(worth.values())
    return _tested_sheet("What a defense is worth", ("target", "attacks", "judge"), tests, _WORTH, _WORTH_NOTE, results)


def _undefended(results: Results) -> list[Row]:
    entries = results.config.get("targets", ())
    names = [entry["name"] for entry in entries if not entry["defenses"]]
    return [row for row in results.targets if row.name in names]


def _worth(results: Results, row: Row, group: str, metric: str, controls: list[Row]) -> dict[int, float]:
    """By seed, the gain on undefended targets at the row's accuracy, less its own; none below all of theirs."""
    own, worth = _gains(results, row, group, metric), dict[int, float]()
    of_controls = [_gains(results, each, group, metric) for each in controls]
    for seed, (accuracy, gain) in own.items():
        known = [gains[seed] for gains in of_controls if seed in gains]
        if known and (len(known) == 1 or accuracy >= min(known)[0]):
            # Of equal accuracies, which `np.interp` takes none of, the mean gain counts; an undefended one is as it is.
            equal = {level: fmean(of for at, of in known if at == level) for level, _ in sorted(known)}
            there = gain if row in controls else float(np.interp(accuracy, list(equal), list(equal.values())))
            worth[seed] = there - gain
    return worth


def _apart_sheets(results: Results) -> list[Sheet]:
    tests: dict[tuple[str, str, str], SeedTest] = {}
    accuracies: dict[tuple[str, str, str], str] = {}
    for group in results.groups:
        for judge, metric in _JUDGES.items():
            gains = {row: of for row in results.targets if (of := _gains(results, row, group, metric))}
            means = {row: sum(gain for _, gain in of.values()) / len(of) for row, of in gains.items()}
            for lower, higher in pairwise(sorted(means, key=lambda row: means[row])):
                seeds = [seed for seed in gains[lower] if seed in gains[higher]]
                if seeds:
                    key = (f"{lower.label} < {higher.label}", group, judge)
                    tests[key] = SeedTest.of(gains[higher][seed][1] - gains[lower][seed][1] for seed in seeds)
                    moved = [gains[lower][seed][0] - gains[higher][seed][0] for seed in seeds]
                    accuracies[key] = f"{sum(moved) / len(moved):+.1f}"
    columns = ("neighbours", "attacks", "judge")
    return _tested_sheet("Which can be told apart", columns, tests, _APART, _APART_NOTE, results, accuracies)


def _gains(results: Results, row: Row, group: str, metric: str) -> Mapping[int, tuple[float, float]]:
    """By seed, the target's accuracy and the strongest attack's gain."""
    gains = {}
    for seed, cell in results.strongest(row, group, metric).items():
        accuracy, gain = cell.measure("accuracy"), cell.measure(metric)
        if accuracy is not None and gain is not None:
            gains[seed] = accuracy, gain
    return gains


def _tested_sheet(
    title: str,
    columns: tuple[str, ...],
    tests: Mapping[tuple[str, str, str], SeedTest],
    verdicts: Mapping[str, str],
    note: str,
    results: Results,
    accuracies: Mapping[tuple[str, str, str], str] | None = None,
) -> list[Sheet]:
    if not tests:
        return []
    rows, distinct = [], list(dict.fromkeys(tests.values()))  # two groups may have one strongest attack
    of = dict(zip(distinct, corrected(distinct), strict=True))
    for key, alone in tests.items():
        test = of[alone]
        more = () if accuracies is None else (accuracies[key],)
        verdict = verdicts[test.sign] if test.p is not None else "cannot be told"
        verdict = verdict if any(test.values) else verdicts.get("nothing", verdict)
        rows.append(tuple(map(Text, (*key, *more, f"{round(test.mean, 1) + 0.0:+.1f}", verdict, test.told))))
    named = (*columns, *(() if accuracies is None else ("accuracy",)), "points", "verdict", "figures")
    return [Sheet(title, tuple(("", name) for name in named), tuple(rows), (f"{seeds_note(results.seeds)} {note}",))]
