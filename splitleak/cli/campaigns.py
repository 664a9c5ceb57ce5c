"""The commands of a campaign: its plan, its run, how far it is, and its report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from splitleak.cli.choices import Command
from splitleak.cli.documents import with_settings
from splitleak.cli.options import DataRoot, Device, Json, Measures, Replace, Settings
from splitleak.cli.output import console, print_json, result, table
from splitleak.logs import printable

if TYPE_CHECKING:
    from splitleak.eval.campaign.plan import Plan
    from splitleak.eval.campaign.runner import Outcome
    from splitleak.eval.campaign.shards import ShardOf

campaign = typer.Typer(no_args_is_help=True, help="Run a grid of targets and attacks from one file; resumable.")
CampaignFile = Annotated[Path, typer.Argument(help="TOML file: data sets, models, methods, attacks, seeds.")]
CampaignSeeds = Annotated[list[int] | None, typer.Option("--seed", help="Only this seed of the file's; repeatable.")]
CampaignData = Annotated[str | None, typer.Option(help="What the file's data set is made from, as `split --data`.")]
CampaignOut = Annotated[Path | None, typer.Option(help="Folder of the campaign; default: runs/<its name>.")]


CampaignWorkers = Annotated[
    int | None, typer.Option("--workers", min=1, max=1024, help="Jobs at a time; default: as cores allow.")
]


@campaign.command("plan", cls=Command)
def plan(
    file: CampaignFile,
    out: CampaignOut = None,
    workers: CampaignWorkers = None,
    times: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of a campaign, or of recorded results, that tells how long jobs take, where --out does not; "
            "repeatable; default: the recorded results of the campaign's name."
        ),
    ] = None,
    seed: CampaignSeeds = None,
    data: CampaignData = None,
    data_root: DataRoot = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Check a campaign's file, build every target and attack of it, and show its grid and what is left to do.

    How long that will take is told by the wall times of jobs that were done before.
    """
    from splitleak.eval.campaign.forecast import RECORDED, Forecast
    from splitleak.eval.campaign.plan import KINDS
    from splitleak.eval.campaign.runner import jobs_at_a_time
    from splitleak.eval.campaign.store import Store

    planned = _campaign(file, data, data_root, settings)
    folder = out or Path("runs") / planned.config.name
    store = Store(folder)
    counts = {kind: {"jobs": 0, "done": 0} for kind in KINDS}
    waiting = []
    for job in planned.of_seeds(seed):
        done = store.is_done(job)
        counts[job.kind]["jobs"] += 1
        counts[job.kind]["done"] += done
        waiting += [] if done else [job]
    counts = {kind: count for kind, count in counts.items() if count["jobs"]}
    sources = [folder, *(times or [RECORDED / planned.config.name])]
    forecast = Forecast.of(waiting, sources, workers or jobs_at_a_time(store.threads(None)))
    if as_json:
        cells = planned.document()["cells"]
        print_json({"folder": str(folder), "jobs": counts, "forecast": forecast.document(), "cells": cells})
        return
    shown = console()
    columns, *rows = planned.config.overview()
    seeds = ", ".join(map(str, seed or planned.config.seeds))
    used = [index for index in range(len(columns)) if any(row[index] for row in rows)]
    titles, lines = [columns[index] for index in used], [[row[index] for index in used] for row in rows]
    shown.print(table(titles, lines, title=f"{planned.config.name}: seeds {seeds}", left=titles))
    for kind, count in counts.items():
        shown.print(f"{kind:8} {count['jobs']:4} jobs, {count['done']:4} done", highlight=False)
    shown.print(str(forecast), highlight=False, soft_wrap=True)
    shown.print(f"Folder: {folder}")


@campaign.command("run", cls=Command)
def run(
    file: CampaignFile,
    out: CampaignOut = None,
    workers: CampaignWorkers = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Threads of each job, kept by the folder; default: its own, or 1."),
    ] = None,
    seed: CampaignSeeds = None,
    data: CampaignData = None,
    data_root: DataRoot = None,
    settings: Settings = None,
    device: Device = "auto",
    shard: Annotated[
        str | None, typer.Option(metavar="K/N", help="Share the jobs with other runs: this is the K-th of N.")
    ] = None,
    on: Annotated[
        str | None, typer.Option(metavar="ray[:ADDRESS]", help="Let the nodes of a cluster of Ray do the jobs.")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Put outputs there too, and fetch those that are there: s3://bucket/folder."),
    ] = None,
    measure: Measures = None,
    as_json: Json = False,
) -> None:
    """Run what is not done yet of a campaign: train, capture, attack, score, each in processes of its own.

    May be killed at any moment and run again: what is done stays done, and trainings go on where they were. A job that
    fails is recorded, and tried again by the next run.

    With --shard, runs on several machines share the jobs. In one folder, each takes over what another that died was at,
    and ends when all is done. In folders of their own, each does its part, and `splitleak campaign merge` joins them.

    With --store, what is done is put behind a URL, too, each output whole or not at all, and another run, on any
    machine, fetches what it finds there.
    """
    from splitleak.eval.campaign.shards import ShardOf

    planned = _campaign(file, data, data_root, settings)
    folder = out or Path("runs") / planned.config.name
    share = None if shard is None else ShardOf.parse(shard)
    cluster = None if on is None else _cluster(on)
    if share is not None and cluster is not None:
        raise ValueError("expected --shard or --on, got both")
    report, outcome = run_and_report(
        planned,
        folder,
        seeds=seed,
        workers=workers,
        threads=threads,
        device=device,
        shard=share,
        cluster=cluster,
        remote=store,
    )
    written = None if report is None else str(report)
    ended = {
        "folder": str(folder),
        "done": len(outcome.done),
        "failed": [job.id for job in outcome.failed],
        "skipped": len(outcome.skipped),
        "report": written,
    }
    next_step = written or f"`splitleak campaign report {folder}` or `merge` is next"
    text = f"{len(outcome.done)} jobs done, {len(outcome.failed)} failed, {len(outcome.skipped)} skipped; {next_step}"
    result(as_json, ended, text)
    if outcome.failed:
        raise typer.Exit(1)


def run_and_report(
    plan: "Plan",
    folder: Path,
    *,
    seeds: list[int] | None = None,
    workers: int | None = None,
    threads: int | None = None,
    device: str = "auto",
    shard: "ShardOf | None" = None,
    cluster: str | None = None,
    remote: str | None = None,
) -> "tuple[Path | None, Outcome]":
    """Runs what is not done of a plan, says on standard error how it goes, and writes the report (a shard: None)."""
    from splitleak.eval.campaign.runner import run_campaign
    from splitleak.eval.report.report import check_campaign, write_report

    check_campaign(plan.config.name, folder / "report")  # now, and not after hours

    def say(line: str) -> None:
        typer.echo(printable(line), err=True)

    try:
        outcome = run_campaign(
            plan,
            folder,
            seeds=seeds,
            workers=workers,
            threads=threads,
            device=device,
            shard=shard,
            cluster=cluster,
            remote=remote,
            say=say,
        )
    except KeyboardInterrupt:
        say(f"Stopped. The same command goes on from here; `splitleak campaign status {folder}` shows how far it is.")
        raise
    for job in outcome.failed:
        say(f"failed: {job.kind} {job.label}; why is in {folder / 'failures' / job.id}.json")
    for skipped, needed in outcome.skipped:
        say(f"skipped: {skipped}, which needs {needed}")
    return None if shard is not None else write_report(folder, folder / "report"), outcome


@campaign.command("merge", cls=Command)
def merge(
    out: Annotated[Path, typer.Argument(help="Folder to join them in: a new one, or one of the same campaign.")],
    folders: Annotated[list[Path], typer.Argument(help="Folders of one campaign, made on separate machines.")],
    as_json: Json = False,
) -> None:
    """Join folders of one campaign that shards, or runs of single seeds, made on separate machines; write the report.

    Refused, with nothing copied, where they are of different files, or have different records of one cell.
    """
    from splitleak.eval.campaign.merging import merge as merge_folders
    from splitleak.eval.report.report import write_report

    merged = merge_folders(out, folders)
    report = write_report(out, out / "report")
    counts = {"jobs": merged.jobs, "done": merged.done, "copied": merged.copied}
    text = f"{out}: {merged.done} of {merged.jobs} jobs done, {merged.copied} copied; {report}"
    result(as_json, {"folder": str(out), **counts, "report": str(report)}, text)


@campaign.command("status", cls=Command)
def status(
    folder: Annotated[Path, typer.Argument(help="Folder of a campaign.")],
    as_json: Json = False,
) -> None:
    """Show how far a campaign is: jobs done, failed and to do, the last scores, and why jobs failed."""
    from splitleak.eval.campaign.store import Store

    progress = Store(folder).status()
    if as_json:
        print_json(progress)
        return
    states = ("done", "failed", "to do")
    rows = [(kind, *(str(counts[state]) for state in states)) for kind, counts in progress["jobs"].items()]
    shown = console()
    shown.print(table(("jobs", *states), rows, title=progress["name"], left=("jobs",)))
    for score in progress["scores"]:
        shown.print(f"{score['cell']}: {score['text']}", highlight=False, soft_wrap=True)
    for failure in progress["failures"]:
        shown.print(f"failed: {failure['job']} ({failure['label']}): {failure['error']}", markup=False, soft_wrap=True)


@campaign.command("report", cls=Command)
def report(
    folder: Annotated[
        Path, typer.Argument(help="Folder of a campaign, finished or not, or of recorded results (eval/results/NAME).")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for the report; default: report in the campaign's.")] = None,
    measure: Measures = None,
    force: Replace = False,
    as_json: Json = False,
) -> None:
    """Write the report of a campaign as it stands: the table beside the published one, relations, flags, gallery."""
    from splitleak.eval.report.report import write_report

    path = write_report(folder, out or folder / "report", force=force)
    result(as_json, {"report": str(path)}, f"Report: {path}")


def _cluster(on: str) -> str:
    """The address in ``ray:ADDRESS``, which may be missing."""
    from importlib.util import find_spec

    name, _, address = on.partition(":")
    if name != "ray":
        raise ValueError(f"expected --on ray or ray:ADDRESS, got {on!r}")
    if find_spec("ray") is None:
        raise ValueError("expected the extra for --on ray: pip install 'splitleak[ray]'")
    return address


def _campaign(file: Path, data: str | None, data_root: Path | None, settings: list[str] | None) -> "Plan":
    from splitleak.eval.campaign.extending import read_campaign
    from splitleak.eval.campaign.kinds import plan_campaign

    document = with_settings(read_campaign(file), settings)
    for key, value in (("data", data), ("data_root", data_root and str(data_root))):
        if value is not None:
            datasets = document.get("datasets", [])
            if len(datasets) != 1:
                raise ValueError(f"expected one data set in {file} for --{key.replace('_', '-')}, got {len(datasets)}")
            datasets[0][key] = value
    return plan_campaign(document, str(file))
