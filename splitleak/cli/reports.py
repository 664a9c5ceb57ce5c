"""The commands that end in a report: of a run that is there, and of the whole chain."""

from pathlib import Path
from typing import Annotated, Any

import typer

from splitleak.cli.options import Json, Seed
from splitleak.cli.output import console, print_json, table


def report(
    run: Annotated[Path, typer.Argument(help="Folder with records below it (`splitleak score`).")],
    out: Annotated[Path | None, typer.Option(help="HTML file; default: report.html in the folder.")] = None,
    title: Annotated[str, typer.Option(help="Heading.")] = "What split inference leaks",
    pictures: Annotated[int, typer.Option(min=1, help="Victims in the gallery.")] = 12,
    as_json: Json = False,
) -> None:
    """Print a run's table and write its report, one HTML file that needs no other."""
    from splitleak.eval.report.run_report import load_run, write_report

    path = out or run / "report.html"
    write_report(run, path, title=title, pictures=pictures)
    if as_json:
        print_json({"report": str(path)})
        return
    _print_table(*load_run(run))
    typer.echo(f"Report: {path}")


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/demo"),
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Run the whole chain on the built-in images: train, serve, stream, tap, invert, score, report.

    Takes minutes on two CPU cores. What is already done in the folder, with the same settings, is reused.
    """
    from splitleak.eval.campaign.demo import run_demo
    from splitleak.eval.report.run_report import load_run

    path = run_demo(out, seed)
    if as_json:
        print_json({"report": str(path)})
        return
    _print_table(*load_run(out))
    typer.echo(f"Report: {path}")


def _print_table(records: list[dict[str, Any]], latency: dict[str, Any] | None) -> None:
    from splitleak.eval.report.run_table import COLUMNS, LEGEND, rows

    shown = console(width=180)
    shown.print(table(COLUMNS, rows(records, latency), left=("target",), wrap=False, framed=False))
    shown.print(LEGEND)
