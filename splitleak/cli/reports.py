"""The commands that end in a report: of a run that is there, and of the whole chain."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from splitleak.cli.documents import read_settings
from splitleak.cli.options import Json, Replace, Seed, Settings
from splitleak.cli.output import console, print_json, table

if TYPE_CHECKING:
    from splitleak.eval.campaign.plan import Plan
    from splitleak.eval.report.results import Results


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a campaign, of recorded results, or of records.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the report; default: report in the folder.")] = None,
    force: Replace = False,
    as_json: Json = False,
) -> None:
    """Print the table of a folder's records and write their report, one HTML file that needs no other."""
    from splitleak.eval.report.report import write_report
    from splitleak.eval.report.results import Results

    path = write_report(folder, out or folder / "report", force=force)
    if as_json:
        print_json({"report": str(path)})
        return
    _print_table(Results.load(folder))
    typer.echo(f"Report: {path}")


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/demo"),
    seed: Seed = 0,
    settings: Settings = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Then stream the victims' images once more, and serve the live page of it."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Run the whole chain on the built-in images: train, serve, stream, tap, invert, score, report.

    It is the campaign of demo.toml, for one seed. Takes minutes on two CPU cores. What is already done in the folder is
    reused.
    """
    from importlib.resources import as_file, files

    from splitleak.cli.campaigns import run_and_report
    from splitleak.eval.campaign.kinds import plan_campaign
    from splitleak.eval.report.results import Results

    with as_file(files("splitleak.eval") / "campaigns" / "demo.toml") as file:
        plan = plan_campaign({**read_settings(file, settings), "seeds": [seed]}, str(file))
    path, outcome = run_and_report(plan, out)
    if as_json:
        print_json({"report": str(path)})
    else:
        _print_table(Results.load(out))
        typer.echo(f"Report: {path}")
    if outcome.failed:
        raise typer.Exit(1)
    if watch:
        _watch(plan, out, as_json)


def _watch(plan: "Plan", out: Path, as_json: bool) -> None:
    """Streams the victims' images through the first target, each twice, beside what its attack makes of them."""
    from splitleak.cli.live import run_up
    from splitleak.eval.live.up import PageConfig, UpConfig

    cell = next(job for job in plan.jobs if job.kind == "cell")
    victims, folder = out / cell.settings["images"] / "victims.npz", out / "watched"
    page = PageConfig(capture=folder / "tap.capture", attack=(out / cell.output).with_name("attack"), truth=victims)
    artifact = out / cell.settings["artifact"]
    run_up(UpConfig(artifact=artifact, images=victims, out=folder, repeat=2, rate=4, force=True, page=page), as_json)


def _print_table(results: "Results") -> None:
    from splitleak.eval.report.terminal import columns, legend, rows

    shown = console(width=220)
    shown.print(table(columns(results), rows(results), left=("target", "table", "attack"), wrap=False, framed=False))
    shown.print(legend(results))
