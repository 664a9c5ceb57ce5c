"""The audit: one command that attacks a target with a fixed list, from the cheapest attack to the strongest."""

from pathlib import Path
from typing import Annotated

import typer

from splitleak.cli.campaigns import run_and_report
from splitleak.cli.choices import choice
from splitleak.cli.options import Device, Json, Seed
from splitleak.cli.output import console, print_json, table


def audit(
    artifact: Annotated[Path, typer.Argument(help="The target: what `splitleak train` or `splitleak import` wrote.")],
    images: Annotated[Path, typer.Option(help="Folder of `splitleak split`: victims.npz and public.npz.")],
    threat: Annotated[str, choice("threats", "What the attacker has beside the wire. One of")] = "black-box",
    minutes: Annotated[
        float, typer.Option(min=0.1, help="Budget of one core, nominal: it decides which attacks run, and how long.")
    ] = 15,
    codec: Annotated[str, choice("codecs", "How features travel. One of")] = "fp32",
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Folder; the same command goes on where it was.")] = Path("runs/audit"),
    workers: Annotated[int | None, typer.Option(min=1, max=1024, help="Attacks at a time.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help="Threads of each; default: 1.")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure what a target leaks, with the strongest attacks there are: no knobs but a threat model and a budget.

    Brings up cloud, tap and edge, captures once, and runs a fixed, versioned list of attacks. Which run follows from
    budget, target and images alone, so an audit that was killed ends with the same records. Prints a verdict and the
    strongest attack by each measure, and writes a report with every flag, and curves against queries and crossings.
    """
    from splitleak.eval.campaign.audit.config import AuditedTarget
    from splitleak.eval.campaign.audit.plan import AuditCampaign, make_audit_plan
    from splitleak.eval.report.audits import audit_sheets, verdicts
    from splitleak.eval.report.flags import doubts
    from splitleak.eval.report.results import Results

    found = AuditedTarget.found(artifact, images, codec=codec)
    about = {"name": artifact.resolve().name, "title": f"Audit of {artifact.resolve().name}", "seeds": [seed]}
    given = {"target": found.document(), "audit": {"threat": threat, "minutes": minutes}}
    plan = make_audit_plan(AuditCampaign.parse({**about, **given}, source="audit"))
    report, outcome = run_and_report(plan, out, workers=workers, threads=threads, device=device)
    results = Results.load(out)
    said, flags = verdicts(results), doubts(results, ())
    if as_json:
        strongest = {
            sheet.title: [[text.ours for text in row] for row in sheet.rows] for sheet in audit_sheets(results)
        }
        print_json({"report": str(report), "verdict": said, "flags": flags, "tables": strongest})
    else:
        shown = console()
        for sheet in audit_sheets(results):
            names = [f"{heading}, {name}" if heading else name for heading, name in sheet.columns]
            lines = [
                list(each) for each in zip(names, *([text.ours for text in row] for row in sheet.rows), strict=True)
            ]
            shown.print(table(lines[0], lines[1:], title=sheet.title, left=lines[0][:1]))
        for sentence in said:
            shown.print(sentence, highlight=False, soft_wrap=True)
        for flag, where in flags:
            shown.print(f"flag: {flag} ({where})", highlight=False, markup=False, soft_wrap=True)
        shown.print(f"Report: {report}", highlight=False, soft_wrap=True)
    if outcome.failed:
        raise typer.Exit(1)
