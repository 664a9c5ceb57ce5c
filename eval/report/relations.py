"""Relations that the published tables obey, checked one by one against a campaign's records."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from splitleak.config import digest
from splitleak.defenses.stack import DefenseConfig
from splitleak.eval.report.features_results import Campaign, row_label

Verdict = Literal["holds", "does not hold", "not measured"]
Group = tuple[str, str]

_ACCURACY_POINTS = 0.7
_PSNR_DB = 0.14


@dataclass(frozen=True)
class Relation:
    """A statement, whether the records bear it out, and the figures."""

    statement: str
    verdict: Verdict
    figures: str


def relations(campaign: Campaign, group: Group) -> list[Relation]:
    """The relations of the CEM paper's tables S1 to S5, for one data set and model, on means over seeds.

    A relation of many cells holds if it holds in every one that is measured; those that break it are named.
    """
    return [
        *_of_pairs(campaign, group),
        *_of_order(campaign, group),
        *_of_noise(campaign, group),
        _psnr_is_that_of_the_mse(campaign, group),
        _bound_is_below(campaign, group),
    ]


def _judged(statement: str, found: list[tuple[str, bool]]) -> Relation:
    """``found``: each case in words with its figures, and whether it is as stated."""
    if not found:
        return Relation(statement, "not measured", "")
    breaking = [text for text, fine in found if not fine]
    count = f"{len(found) - len(breaking)} of {len(found)}"
    if breaking:
        return Relation(statement, "does not hold", f"{count}; not in {'; '.join(breaking)}")
    return Relation(statement, "holds", f"{count}: {'; '.join(text for text, _ in found)}")


def _of_pairs(campaign: Campaign, group: Group) -> Iterator[Relation]:
    for plus in dict.fromkeys(plus for _, plus in campaign.rows if plus):
        pairs = [pair for pair in campaign.pairs if pair[1][1] == plus]
        for attack in campaign.attacks:
            for metric, name, sign in (("mse", "MSE", 1), ("ssim", "SSIM", -1), ("ssim_valid", "standard SSIM", -1)):
                found = []
                for pair in pairs:
                    differences = campaign.differences(group, pair, metric, attack).values()
                    if differences:
                        mean = sum(differences) / len(differences)
                        found.append((f"{pair[0][0]} {mean:+.4f}", sign * mean > 0))
                effect = "raises the MSE" if metric == "mse" else f"lowers the {name}"
                yield _judged(f"+ {plus} {effect} of every method against {attack}", found)
        found = []
        for pair in pairs:
            differences = campaign.differences(group, pair, "accuracy").values()
            if differences:
                mean = sum(differences) / len(differences)
                found.append((f"{pair[0][0]} {mean:+.2f}", abs(mean) <= _ACCURACY_POINTS))
        yield _judged(f"+ {plus} moves the accuracy by at most {_ACCURACY_POINTS} points", found)


def _of_order(campaign: Campaign, group: Group) -> Iterator[Relation]:
    """Who is weakest and who strongest of the methods with nothing on top."""
    for attack in campaign.attacks:
        errors = {
            method: spread.mean
            for method, plus in campaign.rows
            if plus is None and (spread := campaign.spread(group, (method, None), "mse", attack))
        }
        order = sorted(errors, key=lambda method: errors[method])
        figures = "MSE " + " < ".join(f"{method} {errors[method]:.4f}" for method in order)
        weakest = f"Bottleneck is the weakest method against {attack}"
        strongest = f"PATROL and Noise_ARL are the two strongest methods against {attack}"
        if "Bottleneck" in errors and len(order) > 1:
            yield Relation(weakest, "holds" if order[0] == "Bottleneck" else "does not hold", figures)
        else:
            yield Relation(weakest, "not measured", "")
        if {"PATROL", "Noise_ARL"} < set(order):
            holds = set(order[-2:]) == {"PATROL", "Noise_ARL"}
            yield Relation(strongest, "holds" if holds else "does not hold", figures)
        else:
            yield Relation(strongest, "not measured", "")


def _of_noise(campaign: Campaign, group: Group) -> Iterator[Relation]:
    """Pairs of rows whose stacks are equal but for the variance of the noise on the wire."""
    stacks = {}
    for cell, record in campaign.measured:
        if cell.group == group:
            defenses = [DefenseConfig.model_validate(each) for each in record["target"]["target"]["defenses"]]
            variances = [(each.build().noise_variance, each.document()) for each in defenses]
            made = {**record["target"]["target"], "defenses": [each for variance, each in variances if not variance]}
            rest = digest({key: value for key, value in made.items() if key != "seed"})
            stacks[cell.row] = (rest, sum(variance for variance, _ in variances))
    pairs = [
        (low, high)
        for low in stacks
        for high in stacks
        if stacks[low][0] == stacks[high][0] and stacks[low][1] < stacks[high][1]
    ]
    for attack in campaign.attacks:
        found = []
        for low, high in pairs:
            errors = [campaign.spread(group, row, "mse", attack) for row in (low, high)]
            if errors[0] and errors[1]:
                text = f"{row_label(high)} {errors[1].mean:.4f}, {row_label(low)} {errors[0].mean:.4f}"
                found.append((text, errors[1].mean > errors[0].mean))
        yield _judged(f"More noise on the wire, all else equal, raises the MSE against {attack}", found)


def _psnr_is_that_of_the_mse(campaign: Campaign, group: Group) -> Relation:
    statement = f"-10 log10(MSE) is the batch's PSNR within {_PSNR_DB} dB"
    found = []
    for cell in campaign.cells:
        error, psnr = cell.figure("mse"), cell.figure("psnr")
        if cell.group == group and error and psnr is not None:
            found.append((abs(-10 * math.log10(error) - psnr), cell.label))
    if not found:
        return Relation(statement, "not measured", "")
    worst, label = max(found)
    figures = f"{len(found)} cells, at most {worst:.3f} dB apart ({label})"
    return Relation(statement, "holds" if worst <= _PSNR_DB else "does not hold", figures)


def _bound_is_below(campaign: Campaign, group: Group) -> Relation:
    statement = "The bound is at most the MSE of every attack that sees an image once"
    found = []
    for cell in campaign.cells:
        error, bound = cell.figure("mse"), cell.figure("bound")
        if cell.group == group and cell.views == 1 and error is not None and bound is not None:
            found.append((f"{cell.label} ({error:.4f}, bound {bound:.4f})", bound <= error))
    judged = _judged(statement, found)
    return judged if judged.verdict != "holds" else Relation(statement, "holds", f"{len(found)} of {len(found)} cells")
