"""The report of a campaign, of loose records or of recorded results: HTML, Markdown, and data files."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from splitleak.artifacts import write_json, written_file
from splitleak.config import read_table
from splitleak.eval.campaign.audit.config import AUDIT
from splitleak.eval.campaign.forecast import TIMES, Times
from splitleak.eval.campaign.store import PLAN, Store
from splitleak.eval.record.schema import Provenance, Record, brief
from splitleak.eval.report.audits import audit_sheets, curves, verdicts
from splitleak.eval.report.beside_published import beside_the_papers
from splitleak.eval.report.claims import claims
from splitleak.eval.report.figures.curves import Curve, draw_curve
from splitleak.eval.report.figures.drawing import Plot, data_uri, file_name
from splitleak.eval.report.figures.frontier import draw_frontier, frontier_sheets
from splitleak.eval.report.figures.gallery import Gallery, draw_gallery, drawn, galleries
from splitleak.eval.report.figures.strip import Comparison, compare
from splitleak.eval.report.flag_guide import guide_of
from splitleak.eval.report.flags import doubts
from splitleak.eval.report.gains import gain_sheets
from splitleak.eval.report.headline import attacked, threat_model, verdict
from splitleak.eval.report.page import (
    PICTURES_BUDGET,
    Sheet,
    csv_table,
    latex_table,
    markdown_table,
    plain,
    render,
    write_csv,
    write_lines,
    write_text,
)
from splitleak.eval.report.relations import relations
from splitleak.eval.report.results import LATENCY, LINES, MEASURES, Doubt, Results, TableRows
from splitleak.eval.report.sheets import csv_rows, difference_sheet, score_sheets, summary_sheets
from splitleak.eval.report.statements import Statement
from splitleak.eval.report.target_measures import TargetMeasures, measure_sheets
from splitleak.outputs import FolderKind

_OLDER = "without baselines, so what is shown is not what was learnt by inversion"
_PICTURES = 12
_ERROR_LINES = 8
STRIP = "strip.png"
_STRIP_HEIGHT = 64
REPORT = FolderKind("report", "report.md", ("*",), text="\n- measured: ")  # notes of one's own may lie beside it


@dataclass(frozen=True)
class Section:
    """A table with its scores and its gallery, if it has pictures; ``drawn``: the gallery's PNG, if any."""

    table: TableRows
    sheets: list[Sheet]
    gallery: Gallery | None
    drawn: str | None


@dataclass(frozen=True)
class Report:
    """The contents of a report; ``statements`` are by heading."""

    results: Results
    measures: TargetMeasures
    facts: list[tuple[str, str]]
    statements: Mapping[str, list[Statement]]
    overview: list[Sheet]
    sections: list[Section]
    differences: list[Sheet]
    comparison: Comparison | None
    frontier: Plot | None
    points: list[Sheet]
    curves: list[tuple[Curve, Plot]]
    doubts: list[Doubt]

    @property
    def verdict(self) -> list[str]:
        return verdict(self.results, self.doubts)

    @property
    def threat_model(self) -> str:
        return threat_model(self.results)

    @property
    def attacked(self) -> str:
        return attacked(self.results)

    @property
    def contents(self) -> list[tuple[str, str]]:
        """The sections by their anchors, in order."""
        named = [("overview", "Overview")] if self.overview else []
        named += [(f"table-{place}", section.table.title) for place, section in enumerate(self.sections, 1)]
        named += [("figures", "Accuracy and leak")] if self.frontier or self.curves else []
        named += [("pictures", "Pictures")] if self.pictured else []
        named += [("flags", "Doubts"), *([("failures", "Failures")] if self.results.failures else [])]
        named += [(f"statements-{place}", heading) for place, heading in enumerate(self.statements, 1)]
        named += [("differences", "Paired differences")] if self.differences else []
        return [*named, ("provenance", "Where these numbers come from")]

    @property
    def pictured(self) -> list[Section]:
        """The sections with pictures."""
        return [section for section in self.sections if section.gallery or section.drawn]

    def sheets(self) -> Iterator[tuple[str, Sheet]]:
        """All tables, each with a name of its own."""
        for sheet in (*self.overview, *self.points, *(curve.sheet() for curve, _ in self.curves)):
            yield sheet.title, sheet
        for section in self.sections:
            yield from ((f"{section.table.name} {sheet.title}", sheet) for sheet in section.sheets)
        yield from ((f"differences {sheet.title}", sheet) for sheet in self.differences)


def write_report(folder: Path, out: Path, *, force: bool = False) -> Path:
    """Writes the report of a folder of results, as far as they are measured.

    ``report.html`` is self-contained; ``report.md`` has the same tables, with ``gallery-<table>.png``, ``strip.png``
    and ``frontier.png``; figures lie beside them as SVG and PDF, too, and ``tables/`` has each table as LaTeX.
    ``table.csv`` has one row per planned cell and place; ``records.jsonl`` one line per measured cell, without the
    values of single images; ``campaign.json`` the plan, the flags and the failures; ``latency.json`` the latencies;
    ``times.jsonl`` the wall times of jobs, where the campaign recorded them.
    ``besides.csv`` and ``besides.jsonl`` have the target measures, if any: a row per target and seed, and a line per
    measure. The folder ``out`` is itself one of recorded results.

    Args:
        folder: Of a campaign, of recorded results, or with records below it, see `Results.load`.
        out: Folder to write.
        force: Whether the report of another campaign at ``out`` is replaced.

    Returns:
        The path of ``report.html``.

    Raises:
        FileExistsError: ``out`` is a file, or a folder with files but no report: so a campaign has none in its own
            folder, where the report's plan would replace its own. Or, without ``force``, the report of another
            campaign.
        FileNotFoundError: There is neither a campaign nor a record at ``folder``.
        ValueError: A file is invalid, or a claim of the campaign is.
    """
    REPORT.check(out)
    results = Results.load(folder)
    if not force:
        check_campaign(results.name, out)
    out.mkdir(parents=True, exist_ok=True)
    if not (out / REPORT.mark).exists():
        write_text(out / REPORT.mark, f"# {results.title}\n{REPORT.text}nothing so far\n")
    report = _collected(results, out)
    _write_data(report, out)
    write_text(out / REPORT.mark, _markdown(report))
    drawn = [name for section in report.sections if (name := section.drawn)]
    html = render(
        "report.html.jinja",
        report=report,
        contents=report.contents,
        drawn={name: data_uri((out / name).read_bytes(), "image/png") for name in drawn},
        recorded_strip=data_uri((out / STRIP).read_bytes(), "image/png") if (out / STRIP).is_file() else None,
        config=json.dumps(results.config, indent=2),
        exports=_exports,
        file_name=file_name,
        guide_of=guide_of,
    )
    write_text(out / "report.html", html)
    return out / "report.html"


def check_campaign(name: str, out: Path) -> None:
    """Refuses to replace the report of another campaign.

    Raises:
        FileExistsError: There is one at ``out``.
    """
    if not (out / PLAN).is_file():
        return
    there = read_table(out / PLAN).get("name")
    if there != name:
        expected = f"expected a report of the campaign {name} or none at {out}"
        raise FileExistsError(f"{expected}, got one of {there}; `splitleak campaign report --force` replaces it")


def _exports(sheet: Sheet) -> dict[tuple[str, str], str]:
    """A table's files as data URIs, by format and suffix."""
    texts = {
        ("CSV", "csv"): (csv_table(sheet), "text/csv"),
        ("Markdown", "md"): ("\n".join(markdown_table(sheet)), "text/markdown"),
        ("LaTeX", "tex"): (latex_table(sheet), "application/x-tex"),
    }
    return {form: data_uri(text.encode(), kind) for form, (text, kind) in texts.items()}


def _collected(results: Results, out: Path) -> Report:
    """The contents of the report; its pictures are drawn to ``out``."""
    claimed = claims(results)
    statements = {"Claims": claimed} if claimed else {}
    statements |= {f"Relations: {table}": held for table, held in relations(results).items()}
    pictures = int(results.config.get("report", {}).get("pictures", _PICTURES))
    shown = galleries(results, pictures, PICTURES_BUDGET)
    sections = [
        Section(table, score_sheets(results, table.name), shown.get(table.name), _drawn(results, table, pictures, out))
        for table in results.tables
    ]
    differences = [difference_sheet(results, table.name) for table in results.tables]
    measures = TargetMeasures.of(results)
    comparison = compare(results)
    if comparison is not None:
        with written_file(out / STRIP) as partial:
            partial.write_bytes(drawn(comparison.gallery(), _STRIP_HEIGHT))
    else:
        _copied(results, STRIP, out)
    of_features = results.kind == "features"
    return Report(
        results=results,
        measures=measures,
        facts=[*_verdicts(results), *_facts(results, measures)],
        statements=statements,
        overview=[
            *audit_sheets(results),
            *summary_sheets(results),
            *gain_sheets(results),
            *beside_the_papers(results),
            *measure_sheets(measures),
        ],
        sections=sections,
        differences=[sheet for sheet in differences if sheet is not None],
        comparison=comparison,
        frontier=draw_frontier(results, out) if of_features else None,
        points=frontier_sheets(results) if of_features else [],
        curves=[(curve, draw_curve(curve, out)) for curve in curves(results)],
        doubts=doubts(results, claimed),
    )


def _drawn(results: Results, table: TableRows, pictures: int, out: Path) -> str | None:
    """Draws the gallery and returns its file name; recorded results have a copy of the run's."""
    name = f"gallery-{file_name(table.name)}.png"
    if not draw_gallery(results, table, pictures, out / name):
        _copied(results, name, out)
    return name if (out / name).is_file() else None


def _copied(results: Results, name: str, out: Path) -> None:
    """A picture of recorded results, whose cells are gone; there is none of cells that an earlier plan had."""
    recorded, drawn = results.folder / name, out / name
    if recorded.is_file():
        if not (drawn.is_file() and drawn.samefile(recorded)):
            shutil.copyfile(recorded, drawn)
    elif drawn.is_file() and not _has_cells(out, results):
        drawn.unlink()


def _has_cells(out: Path, results: Results) -> bool:
    """Whether the report at ``out`` is of the same cells."""
    before = Store(out).read_plan()["cells"] if (out / PLAN).is_file() else ()
    return [cell["id"] for cell in before] == [cell.id for cell in results.cells]


def _verdicts(results: Results) -> list[tuple[str, str]]:
    """What an audit says of its target; in a campaign, the audit's table says it of each."""
    return [("verdict", each) for each in verdicts(results)] if results.kind == AUDIT else []


def _facts(results: Results, measures: TargetMeasures) -> list[tuple[str, str]]:
    """The provenance of the numbers, as text."""
    sources = [part for _, record in results.measured for part in _provenances(record)] or [results.provenance]

    def distinct(key: str) -> str:
        return "; ".join(sorted({value for source in sources if (value := getattr(source, key))}))

    planned = len({cell.id for cell in results.cells})
    facts = [
        ("measured", f"{len(results.records)} of {planned} cells"),
        ("command", results.provenance.command),
        ("commit", distinct("commit")),
        ("hardware", distinct("hardware")),
        ("torch", distinct("torch")),
        ("seeds", ", ".join(map(str, results.seeds))),
    ]
    facts += [("beside the attacks", measures.counted())] if measures.places else []
    judged = results.judged_beside_baselines
    if older := sum(not beside for _, beside in judged):
        facts.append(("judged", f"{older} of {len(judged)} places by the older rule: {_OLDER}"))
    return facts


def _provenances(record: Record) -> Iterator[Provenance]:
    yield from (record.provenance, record.target.provenance, record.attack.provenance)


def _write_data(report: Report, out: Path) -> None:
    results, measures = report.results, report.measures
    places: dict[str, list[tuple[str, str]]] = {}
    for cell, _ in results.measured:
        places.setdefault(cell.id, []).append((cell.table, cell.row.label))
    beside = {cell.id: {"leakage": cell.leakage, "linkage": cell.linkage} for cell, _ in results.measured}
    records = (
        record.brief().model_copy(update={"places": tuple(places[cell.id]), **beside[cell.id]})
        for cell, record in results.records
    )
    write_lines(out / LINES, (record.document() for record in records))
    write_csv(out / "table.csv", list(csv_rows(results)))
    if times := Times.recorded(results.folder).jobs:
        write_lines(out / TIMES, (took.document() for took in times))
    if results.config:
        plan = {
            "name": results.name,
            "title": results.title,
            "config": results.config,
            "cells": [cell.place.document() | {"id": cell.id} for cell in results.cells],
            "besides": list(results.measures),
            "doubts": report.doubts,
            "failures": list(results.failures),
            "provenance": results.provenance.document(),
        }
        write_json(out / PLAN, plan)
    if latencies := {cell.place.target: dict(cell.latency) for cell in results.cells if cell.latency is not None}:
        write_json(out / LATENCY, {"targets": latencies})
    for name, sheet in report.sheets():
        write_text(out / "tables" / f"{file_name(name)}.tex", latex_table(sheet))
    if measures.places:
        write_lines(out / MEASURES, map(brief, measures.lines()))
        write_csv(out / "besides.csv", list(measures.csv_rows()))


def _markdown(report: Report) -> str:
    def lines() -> Iterator[str]:
        yield f"# {report.results.title}\n"
        yield from (f"- {name}: {text}" for name, text in report.facts)
        for heading, statements in report.statements.items():
            yield f"\n## {heading}\n\n| statement | | margin | figures |\n|---|---|---:|---|"
            for held in statements:
                yield f"| {plain(held.text)} | {held.verdict} | {held.margin_text} | {plain(held.figures)} |"
        for sheet in report.overview:
            yield ""
            yield from markdown_table(sheet)
        for section in report.sections:
            yield f"\n## {section.table.title}\n"
            yield from [f"{section.table.note}\n"] if section.table.note else []
            for sheet in section.sheets:
                yield from markdown_table(sheet)
            if section.drawn:
                yield f"![{section.table.title}]({section.drawn})\n"
        if report.differences:
            yield "## Paired differences\n"
            for sheet in report.differences:
                yield from markdown_table(sheet)
        if report.frontier:
            yield "## Frontier\n\n![accuracy against leakage](frontier.png)\n"
        yield "## Doubts\n"
        yield from (f"- {flag}: {where}" for flag, where in report.doubts or [("none", "no flag was raised")])
        if report.results.failures:
            yield "\n## Failures\n"
            for failure in report.results.failures:
                end = "\n".join(f"    {line}" for line in failure["error"].splitlines()[-_ERROR_LINES:])
                yield f"- {failure['job']}, {failure['label']}:\n\n{end}\n"

    return "\n".join(lines()) + "\n"
