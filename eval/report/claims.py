"""Tests the claims of a campaign's file against its results."""

from dataclasses import replace
from statistics import fmean

from splitleak.eval.campaign.predictions.claims import ClaimEntry
from splitleak.eval.report.results import Results, Row
from splitleak.eval.report.seed_tests import SeedTest, corrected
from splitleak.eval.report.statements import Case, Statement


def claims(results: Results) -> list[Statement]:
    """The verdict on each claim, by a paired test over the seeds with both rows, corrected for the number of claims.

    Raises:
        ValueError: A claim of the campaign is invalid.
    """
    entries = [ClaimEntry.parse(entry, source=results.name) for entry in results.config.get("claims", ())]
    statements = [_measured(results, claim) for claim in entries]
    tests = iter(corrected([each.tested for each in statements if each.tested is not None]))
    return [each if each.tested is None else _told(each, next(tests)) for each in statements]


def _measured(results: Results, claim: ClaimEntry) -> Statement:
    text = f"{claim.text} [{claim.figure}; {claim.statement}]"
    lower, higher = (results.by_seed(table, Row(row), claim.metric) for table, row in claim.places)
    seeds = tuple(seed for seed in lower if seed in higher)
    if not seeds:
        return Statement(text, (), "", claimed=True)
    of_seeds = [[values[seed] for seed in seeds] for values in (lower, higher)]
    means = [fmean(values) for values in of_seeds]
    margins = tuple(map(claim.margin, *of_seeds))
    case = Case(claim.text, margins, of_means=claim.margin(*means))
    names = [f"{row} ({table})" if claim.against else row for table, row in claim.places]
    held = sum(margin >= 0 for margin in margins)
    figures = f"{names[0]}: {means[0]:.4g}, {names[1]}: {means[1]:.4g}"
    figures += f"; in {held} of {len(seeds)} seed{'s' * (len(seeds) > 1)}"
    return Statement(text, (case,), figures, seeds, claimed=True, tested=claim.tested(*of_seeds))


def _told(statement: Statement, tested: SeedTest) -> Statement:
    return replace(statement, tested=tested, figures=f"{statement.figures}; {tested.told}")
