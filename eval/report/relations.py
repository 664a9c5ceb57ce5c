"""Relations in the published tables, tested against a campaign's records."""

import math
from collections.abc import Iterator
from dataclasses import replace
from statistics import fmean

from splitleak.config import digest
from splitleak.defenses.stack import DefenseConfig
from splitleak.eval.record.metrics import metric_named
from splitleak.eval.record.schema import Design
from splitleak.eval.report.results import Results, Row, Spread
from splitleak.eval.report.statements import Case, Statement, over_cases

_ACCURACY_POINTS = 0.7
_PSNR_DB = 0.14


def relations(results: Results) -> dict[str, list[Statement]]:
    """The relations of the CEM paper's tables S1 to S5, by table, for a campaign on features; else none.

    On means over the seeds that have all rows of it. A relation of many cells holds if it holds in every one that is
    measured.
    """
    if results.kind != "features":
        return {}
    return {
        table.name: [
            *_of_pairs(results, table.name),
            *_of_order(results, table.name),
            *_of_noise(results, table.name),
            _psnr_is_that_of_the_mse(results, table.name),
            _gaussian_estimate_is_below(results, table.name),
        ]
        for table in results.tables
    }


def _of_pairs(results: Results, table: str) -> Iterator[Statement]:
    pairs = results.pairs(table)
    for plus in dict.fromkeys(row.plus for _, row in pairs):
        of_plus = [pair for pair in pairs if pair[1].plus == plus]
        for attack in results.attacks(table):
            for name, label in (("mse", "MSE"), ("ssim", "zero-padded SSIM"), ("ssim_valid", "standard SSIM")):
                metric = metric_named(name, "victims")
                sign = 1 if metric and metric.better == "higher" else -1
                effect = f"{'raises the MSE' if name == 'mse' else f'lowers the {label}'} of every method"
                cases = _differences(results, table, of_plus, name, attack, sign)
                yield over_cases(f"+ {plus} {effect} against {attack}", cases)
        moves = [
            Case(f"{pair[0].label} {change.mean:+.2f}", (_ACCURACY_POINTS - abs(change.mean),))
            for pair in of_plus
            if (change := Spread.of(results.differences(table, pair, "accuracy").values()))
        ]
        yield over_cases(f"+ {plus} moves the accuracy by at most {_ACCURACY_POINTS} points", moves, strict=False)


def _differences(
    results: Results, table: str, pairs: list[tuple[Row, Row]], metric: str, attack: str | None, sign: int
) -> Iterator[Case]:
    for pair in pairs:
        changes = results.differences(table, pair, metric, attack).values()
        if changes:
            mean = sum(changes) / len(changes)
            yield Case(f"{pair[0].label} {mean:+.4f}", tuple(sign * change for change in changes))


def _of_order(results: Results, table: str) -> Iterator[Statement]:
    """The weakest and the strongest of the methods with nothing on top; a row without defenses is none."""
    ours = [(cell, record) for cell, record in results.measured if cell.table == table]
    undefended = {cell.row for cell, record in ours if not record.target.design.defenses}
    rows = [row for row in results.table(table).rows if row.plus is None and row not in undefended]
    for attack in results.attacks(table):
        by_seed = {row.name: values for row in rows if (values := results.by_seed(table, row, "mse", attack))}
        common = set.intersection(*map(set, by_seed.values())) if by_seed else set()
        errors = {name: fmean(values[seed] for seed in common) for name, values in by_seed.items() if common}
        order = sorted(errors, key=lambda name: errors[name])
        figures = "MSE " + " < ".join(f"{name} {errors[name]:.4f}" for name in order)
        weakest, strongest = "Bottleneck", {"PATROL", "Noise_ARL"}
        cases = []
        if weakest in errors and len(order) > 1:
            others = min(errors[name] for name in order if name != weakest)
            cases = [Case(figures, (others - errors[weakest],))]
        yield Statement(f"{weakest} is the weakest method against {attack}", tuple(cases), figures * bool(cases))
        cases = []
        if strongest < set(order):
            others = max(errors[name] for name in order if name not in strongest)
            cases = [Case(figures, (min(errors[name] for name in strongest) - others,))]
        text = f"PATROL and Noise_ARL are the two strongest methods against {attack}"
        yield Statement(text, tuple(cases), figures * bool(cases))


def _of_noise(results: Results, table: str) -> Iterator[Statement]:
    """Compares rows whose stacks differ only in the variance of the noise on the wire."""
    ours = [(cell, record) for cell, record in results.measured if cell.table == table]
    stacks = {cell.row: _noise(record.target.design, cell.codec) for cell, record in ours}
    pairs = [
        (low, high)
        for low in stacks
        for high in stacks
        if stacks[low][0] == stacks[high][0] and stacks[low][1] < stacks[high][1]
    ]
    for attack in results.attacks(table):
        cases = []
        for low, high in pairs:
            less, more = (results.by_seed(table, row, "mse", attack) for row in (low, high))
            if common := [seed for seed in less if seed in more]:
                means = [fmean(values[seed] for seed in common) for values in (more, less)]
                text = f"{high.label} {means[0]:.4f}, {low.label} {means[1]:.4f}"
                cases.append(Case(text, tuple(more[seed] - less[seed] for seed in common)))
        yield over_cases(f"More noise on the wire, all else equal, raises the MSE against {attack}", cases)


def _noise(design: Design, codec: str) -> tuple[str, float]:
    """The identity of a target and its codec without seed and noise, and the variance of the noise."""
    configs = [DefenseConfig.parse(step.document(), source=step.name) for step in design.defenses]
    variances = [config.build().noise_variance for config in configs]
    rest = [config.document() for config, variance in zip(configs, variances, strict=True) if not variance]
    return digest([design.model.document(), design.training, rest, codec]), sum(variances)


def _psnr_is_that_of_the_mse(results: Results, table: str) -> Statement:
    apart = []
    for cell in results.cells:
        error, psnr = cell.measure("mse"), cell.measure("psnr")
        if cell.table == table and error and psnr is not None:
            apart.append((abs(-10 * math.log10(error) - psnr), cell.label))
    text = f"-10 log10(MSE) is the batch's PSNR within {_PSNR_DB} dB"
    if not apart:
        return Statement(text, (), "")
    worst, label = max(apart)
    figures = f"{len(apart)} cells, at most {worst:.3f} dB apart ({label})"
    return Statement(text, (Case(label, (_PSNR_DB - worst,)),), figures)


def _gaussian_estimate_is_below(results: Results, table: str) -> Statement:
    cases = []
    for cell in results.cells:
        error, estimate = cell.measure("mse"), cell.measure("mse_gaussian_estimate")
        if cell.table == table and cell.views == 1 and error is not None and estimate:  # 0 without noise: no estimate
            cases.append(Case(f"{cell.label} ({error:.4f}, estimate {estimate:.4f})", (error - estimate,)))
    text = "The Gaussian estimate of the MSE is at most that of every attack that sees an image once"
    statement = over_cases(text, cases, strict=False)
    holds = statement.verdict == "holds"
    return replace(statement, figures=f"{len(cases)} of {len(cases)} cells") if holds else statement
