"""The report of a campaign: the paper's table with the published figures beside ours, and every reason to doubt it."""

import base64
import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from eval.campaign_gallery import galleries
from eval.campaign_results import Campaign, row_label
from eval.campaign_tables import Sheet, csv_rows, differences, scores
from eval.frontier import draw_frontier
from eval.relations import Relation, relations
from eval.sanity import campaign_flags
from splitleak.artifacts import written_file

_PICTURES_BUDGET = 4_000_000  # characters, so that the page stays under 5 MB
_LONG_LIST = 16
_ERROR_LINES = 8


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
    facts, doubts = _facts(campaign), _doubts(campaign)
    lines = (json.dumps({**_brief(record), "leakage": _figures(cell.leakage)}) for cell, record in campaign.measured)
    _write(out / "records.jsonl", "".join(f"{line}\n" for line in lines))
    _write_csv(out / "table.csv", campaign)
    _write(out / "report.md", _markdown(campaign, tables, changes, checked, facts, doubts))
    environment = Environment(
        loader=PackageLoader("eval", "."),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    frontier = base64.b64encode((out / "frontier.svg").read_bytes()).decode()
    pictures = int(campaign.config.get("report", {}).get("pictures", 12))
    html = environment.get_template("campaign.html.jinja").render(
        campaign=campaign,
        tables=tables,
        changes=changes,
        checked=checked,
        facts=facts,
        doubts=doubts,
        frontier=f"data:image/svg+xml;base64,{frontier}",
        galleries=galleries(campaign, pictures, _PICTURES_BUDGET),
        config=json.dumps(campaign.config, indent=2),
    )
    _write(out / "report.html", html)
    return out / "report.html"


def _facts(campaign: Campaign) -> list[tuple[str, str]]:
    """Where the numbers come from."""
    measured = list(campaign.measured)
    made = [campaign.provenance] if not measured else []
    for _, record in measured:
        made += [part["provenance"] for part in (record, record["target"], record["attack"])]

    def distinct(key: str) -> str:
        return "; ".join(sorted({str(each[key]) for each in made if key in each}))

    return [
        ("measured", f"{len(measured)} of {len(campaign.cells)} cells"),
        ("command", str(campaign.provenance["command"])),
        ("commit", distinct("commit")),
        ("hardware", distinct("hardware")),
        ("torch", distinct("torch")),
        ("seeds", ", ".join(map(str, campaign.seeds))),
    ]


def _doubts(campaign: Campaign) -> list[tuple[str, str]]:
    """Each flag once, and what it is about, seeds together."""
    records = [record for _, record in campaign.measured]
    leakage = {cell.target: cell.leakage for cell in campaign.cells if cell.leakage}
    about: dict[str, dict[str, list[int]]] = {}
    for cell, flag in campaign_flags(records, leakage):
        parts = [row_label((cell["method"], cell["plus"]))]
        parts += [cell["attack"]] if cell["attack"] else []
        parts += [f"{cell['dataset']}, {cell['model']}"] if len(campaign.groups) > 1 else []
        seeds = about.setdefault(flag, {}).setdefault(", ".join(parts), [])
        seeds += [cell["seed"]] if cell["seed"] not in seeds else []
    return [
        (flag, "; ".join(f"{what} (seed {', '.join(map(str, seeds))})" for what, seeds in places.items()))
        for flag, places in about.items()
    ]


def _brief(document: Any) -> Any:  # noqa: ANN401  # any JSON
    """``document`` without values of single images, histories and other long lists."""
    if isinstance(document, Mapping):
        kept = {key: value for key, value in document.items() if key not in ("values", "history")}
        return {key: _brief(v) for key, v in kept.items() if not (isinstance(v, list) and len(v) > _LONG_LIST)}
    return [_brief(each) for each in document] if isinstance(document, list) else document


def _figures(leakage: Mapping[str, Any]) -> dict[str, float | None]:
    return {name: value for name, value in leakage.items() if value is None or isinstance(value, int | float)}


def _write(path: Path, text: str) -> None:
    with written_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _write_csv(path: Path, campaign: Campaign) -> None:
    rows = list(csv_rows(campaign))
    with written_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0] if rows else ["id"])
        writer.writeheader()
        writer.writerows(rows)


def _markdown(
    campaign: Campaign,
    tables: list[Sheet],
    changes: list[Sheet],
    checked: Mapping[str, list[Relation]],
    facts: list[tuple[str, str]],
    doubts: list[tuple[str, str]],
) -> str:
    def lines() -> Iterator[str]:
        yield f"# {campaign.title}\n"
        yield from (f"- {name}: {text}" for name, text in facts)
        yield "\n## Scores\n"
        for table in tables:
            yield from _markdown_table(table)
        if changes:
            yield "## Paired differences\n"
            for table in changes:
                yield from _markdown_table(table)
        yield "## Relations\n"
        for title, found in checked.items():
            yield f"### {title}\n\n| relation | | figures |\n|---|---|---|"
            yield from (f"| {_plain(r.statement)} | {r.verdict} | {_plain(r.figures)} |" for r in found)
            yield ""
        yield "## Frontier\n\n![accuracy against leakage](frontier.png)\n\n## Doubts\n"
        yield from (f"- {flag}: {where}" for flag, where in doubts or [("none", "no flag was raised")])
        if campaign.failures:
            yield "\n## Failures\n"
            for failure in campaign.failures:
                end = "\n".join(f"    {line}" for line in failure["error"].splitlines()[-_ERROR_LINES:])
                yield f"- {failure['job']}, {failure['label']}:\n\n{end}\n"

    return "\n".join(lines()) + "\n"


def _markdown_table(table: Sheet) -> Iterator[str]:
    yield f"### {table.title}\n"
    yield "| " + " | ".join(_plain(f"{heading} {name}".strip()) for heading, name in table.columns) + " |"
    yield "|" + "|".join("---" if index == 0 else "---:" for index in range(len(table.columns))) + "|"
    yield from ("| " + " | ".join(_plain(str(text)) for text in row) + " |" for row in table.rows)
    yield ""
    yield from (f"{note}\n" for note in table.notes)


def _plain(text: str) -> str:
    """``text`` within a cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())
