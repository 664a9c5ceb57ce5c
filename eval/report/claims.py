"""Tests the claims of a campaign's file against its results."""

from statistics import fmean

from splitleak.eval.campaign.predictions.claims import ClaimEntry
from splitleak.eval.report.results import Results, Row
from splitleak.eval.report.statements import Case, Statement


def claims(results: Results) -> list[Statement]:
    """The verdict on each claim, on means over seeds with both rows.

    Raises:
        ValueError: A claim of the campaign is invalid.
    """
    entries = [ClaimEntry.parse(entry, source=results.name) for entry in results.config.get("claims", ())]
    return [_checked(results, claim) for claim in entries]


def _checked(results: Results, claim: ClaimEntry) -> Statement:
    text = f"{claim.text} [{claim.figure}; {claim.statement}]"
    lower, higher = (results.by_seed(table, Row(row), claim.metric) for table, row in claim.places)
    seeds = tuple(seed for seed in lower if seed in higher)
    if not seeds:
        return Statement(text, (), "", claimed=True)
    means = [fmean(values[seed] for seed in seeds) for values in (lower, higher)]
    margins = tuple(claim.margin(lower[seed], higher[seed]) for seed in seeds)
    case = Case(claim.text, margins, of_means=claim.margin(*means))
    names = [f"{row} ({table})" if claim.against else row for table, row in claim.places]
    held = sum(margin >= 0 for margin in margins)
    figures = f"{names[0]}: {means[0]:.4g}, {names[1]}: {means[1]:.4g}"
    if case.error is not None:
        figures += f"; margin {fmean(margins):.3g} ± {case.error:.2g}"
    figures += f"; in {held} of {len(seeds)} seed{'s' * (len(seeds) > 1)}"
    return Statement(text, (case,), figures, seeds, claimed=True)
