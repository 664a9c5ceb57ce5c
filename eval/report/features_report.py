"""The report of a campaign: the paper's table with the published figures beside ours, and every reason to doubt it."""

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from splitleak.eval.report.features_gallery import galleries
from splitleak.eval.report.features_results import Campaign, row_label
from splitleak.eval.report.features_tables import csv_rows, differences, scores
from splitleak.eval.report.flags import campaign_flags
from splitleak.eval.report.frontier import draw_frontier
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
from splitleak.eval.report.relations import Relation, relations


def write_campaign_report(folder: Path, out: Path) -> Path:
    """Writes the report of the campaign in ``folder`` to the folder ``out``, whatever of it is measured so far.

    ``report.html`` needs no other file; ``report.md`` has the same without the gallery; ``table.csv`` has one row a
    planned cell; ``records.jsonl`` one line a measured cell, with its target's attack-free measures and without the
    values of single images; ``frontier.svg`` and ``frontier.png`` are the plot.

    Returns:
        The path of ``report.html``.

    Raises:
        FileNotFoundError: ``folder`` is no campaign's.
    """
    campaign = Campaign.load(folder)
    out.mkdir(parents=True, exist_ok=True)
    draw_frontier(campaign, out)
    tables = [scores(campaign, group) for group in campaign.groups]
    changes = [differences(campaign, group) for group in campaign.groups] if campaign.pairs else []
    checked = {", ".join(group): relations(campaign, group) for group in campaign.groups}
    records = [record for _, record in campaign.measured]
    origin, doubts = facts(campaign.provenance, len(campaign.cells), records, campaign.seeds), _doubts(campaign)
    write_lines(
        out / "records.jsonl",
        ({**brief(record), "leakage": _figures(cell.leakage)} for cell, record in campaign.measured),
    )
    write_csv(out / "table.csv", list(csv_rows(campaign)))
    write_text(out / "report.md", _markdown(campaign, tables, changes, checked, origin, doubts))
    frontier = base64.b64encode((out / "frontier.svg").read_bytes()).decode()
    pictures = int(campaign.config.get("report", {}).get("pictures", 12))
    html = render(
        "campaign.html.jinja",
        campaign=campaign,
        tables=tables,
        changes=changes,
        checked=checked,
        facts=origin,
        doubts=doubts,
        frontier=f"data:image/svg+xml;base64,{frontier}",
        galleries=galleries(campaign, pictures, PICTURES_BUDGET),
        config=json.dumps(campaign.config, indent=2),
    )
    write_text(out / "report.html", html)
    return out / "report.html"


def _doubts(campaign: Campaign) -> list[tuple[str, str]]:
    """Each flag once, and what it is about, seeds together."""
    records = [record for _, record in campaign.measured]
    leakage = {cell.target: cell.leakage for cell in campaign.cells if cell.leakage}

    def what(cell: Mapping[str, Any]) -> str:
        parts = [row_label((cell["method"], cell["plus"])), cell["attack"]]
        parts += [f"{cell['dataset']}, {cell['model']}"] if len(campaign.groups) > 1 else []
        return ", ".join(part for part in parts if part)

    return gathered((what(cell), cell["seed"], flag) for cell, flag in campaign_flags(records, leakage))


def _figures(leakage: Mapping[str, Any]) -> dict[str, float | None]:
    return {name: value for name, value in leakage.items() if value is None or isinstance(value, int | float)}


def _markdown(
    campaign: Campaign,
    tables: list[Sheet],
    changes: list[Sheet],
    checked: Mapping[str, list[Relation]],
    origin: list[tuple[str, str]],
    doubts: list[tuple[str, str]],
) -> str:
    def lines() -> Iterator[str]:
        yield f"# {campaign.title}\n"
        yield from (f"- {name}: {text}" for name, text in origin)
        yield "\n## Scores\n"
        for table in tables:
            yield from markdown_table(table)
        if changes:
            yield "## Paired differences\n"
            for table in changes:
                yield from markdown_table(table)
        yield "## Relations\n"
        for title, found in checked.items():
            yield f"### {title}\n\n| relation | | figures |\n|---|---|---|"
            yield from (f"| {plain(r.statement)} | {r.verdict} | {plain(r.figures)} |" for r in found)
            yield ""
        yield "## Frontier\n\n![accuracy against leakage](frontier.png)\n"
        yield from markdown_end(doubts, campaign.failures)

    return "\n".join(lines()) + "\n"
