"""The report of a campaign of predictions: the paper's figures, the numbers it does not give, every claim checked."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from splitleak.eval.report.beside_published import beside_the_papers
from splitleak.eval.report.claims import Checked, ClaimEntry, check
from splitleak.eval.report.classes_tables import summary
from splitleak.eval.report.figures_gallery import draw_gallery, figure_galleries
from splitleak.eval.report.figures_results import PredictionFigure, PredictionResults
from splitleak.eval.report.figures_tables import csv_rows, sheets
from splitleak.eval.report.flags import prediction_flags
from splitleak.eval.report.page import (
    PICTURES_BUDGET,
    Sheet,
    brief,
    facts,
    gathered,
    markdown_end,
    markdown_table,
    plain,
    render,
    write_csv,
    write_lines,
    write_text,
)
from splitleak.eval.report.target_measures import Besides, besides_csv, besides_sheets

_PICTURES = 12


def write_prediction_report(folder: Path, out: Path) -> Path:
    """Writes the report of the campaign in ``folder`` to the folder ``out``, whatever of it is measured so far.

    ``report.html`` needs no other file; ``report.md`` has the same, with the galleries of ``gallery-<figure>.png``;
    ``table.csv`` has one row a planned cell and place in a figure; ``records.jsonl`` one line a measured cell, with its
    places and without the values of single images. ``besides.csv`` and ``besides.jsonl``, where the campaign measures
    its targets beside the attacks, hold that: a row a target and seed, and a line a measure.

    Returns:
        The path of ``report.html``.

    Raises:
        FileNotFoundError: ``folder`` is no campaign's.
        ValueError: The plan's claims are none.
    """
    results = PredictionResults.load(folder)
    claims = [ClaimEntry.parse(each, source=str(folder)) for each in results.config.get("claims", ())]
    checked, records = check(results, claims), list(_records(results))
    besides = Besides.load(folder)
    planned, seeds = len({cell.id for cell in results.cells}), results.seeds or besides.seeds
    origin = facts(results.provenance, planned, records, seeds)
    overview = [*summary(results), *beside_the_papers(results), *besides_sheets(besides)]
    doubts, tables = _doubts(results, checked), {figure.name: sheets(results, figure) for figure in results.figures}
    out.mkdir(parents=True, exist_ok=True)
    for figure in results.figures:
        draw_gallery(results, figure, _PICTURES, out / _gallery_file(figure))
    write_lines(out / "records.jsonl", map(brief, records))
    write_csv(out / "table.csv", list(csv_rows(results)))
    if besides.places:
        origin.append(("beside the attacks", besides.counted()))
        write_lines(out / "besides.jsonl", map(brief, besides.lines()))
        write_csv(out / "besides.csv", list(besides_csv(besides)))
    galleries = figure_galleries(results, _PICTURES, PICTURES_BUDGET)
    write_text(out / "report.md", _markdown(results, overview, tables, set(galleries), checked, origin, doubts))
    html = render(
        "predictions.html.jinja",
        campaign=results,
        overview=overview,
        tables=tables,
        galleries=galleries,
        checked=[_judged(each) for each in checked],
        facts=origin,
        doubts=doubts,
        config=json.dumps(results.config, indent=2),
    )
    write_text(out / "report.html", html)
    return out / "report.html"


def _records(results: PredictionResults) -> Iterator[dict[str, Any]]:
    """Each record once, and where it stands."""
    places: dict[str, list[list[str]]] = {}
    for cell, _ in results.measured:
        places.setdefault(cell.id, []).append([cell.figure, cell.row])
    for cell, record in results.measured:
        if cell.id in places:
            yield {**record, "places": places.pop(cell.id)}


def _doubts(results: PredictionResults, checked: Sequence[Checked]) -> list[tuple[str, str]]:
    """Each flag once, and what it is about, seeds together."""
    flagged = prediction_flags([record for _, record in results.measured])
    found = [(f"{cell['figure']}, {cell['row']}", cell["seed"], flag) for cell, flag in flagged]
    found += [
        (each.claim.text, each.seeds[0], "one seed: too few to tell the claim from luck; run more")
        for each in checked
        if len(each.seeds) == 1
    ]
    found += [
        (each.claim.text, seed, "its margin is less than two standard errors over seeds: luck is not excluded")
        for each in checked
        for seed in each.seeds
        if each.doubtful
    ]
    return gathered(found)


def _judged(each: Checked) -> dict[str, str]:
    statement = f"{each.claim.text} [{each.claim.figure}; {each.claim.statement}]"
    return {"statement": statement, "verdict": each.verdict, "figures": each.figures}


def _gallery_file(figure: PredictionFigure) -> str:
    name = re.sub(r"[^\w.-]+", "_", figure.name)
    return f"gallery-{name}.png"


def _markdown(
    results: PredictionResults,
    overview: list[Sheet],
    tables: dict[str, list[Sheet]],
    pictured: set[str],
    checked: Sequence[Checked],
    origin: list[tuple[str, str]],
    doubts: list[tuple[str, str]],
) -> str:
    def lines() -> Iterator[str]:
        yield f"# {results.title}\n"
        yield from (f"- {name}: {text}" for name, text in origin)
        if checked:
            yield "\n## Claims\n\n| claim | | figures |\n|---|---|---|"
            judged = map(_judged, checked)
            yield from (f"| {plain(c['statement'])} | {c['verdict']} | {plain(c['figures'])} |" for c in judged)
        for table in overview:
            yield ""
            yield from markdown_table(table)
        for figure in results.figures:
            yield f"\n## {figure.title}\n"
            yield from [f"{figure.note}\n"] if figure.note else []
            for table in tables[figure.name]:
                yield from markdown_table(table)
            if figure.name in pictured:
                yield f"![{figure.title}]({_gallery_file(figure)})\n"
        yield from markdown_end(doubts, results.failures)

    return "\n".join(lines()) + "\n"
