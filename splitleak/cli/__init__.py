"""The command line. Each command imports what it needs when it runs, from any room: that keeps ``--help`` instant."""

import contextlib
import os
import signal
import sys
from io import TextIOWrapper
from typing import Annotated, NoReturn

import typer

from splitleak.cli import (
    attacks,
    auditing,
    judging,
    latency,
    listing,
    live,
    measuring,
    networks,
    reports,
    scanning,
    services,
    targets,
)
from splitleak.cli.campaigns import campaign
from splitleak.cli.captures import capture
from splitleak.cli.choices import Command
from splitleak.logs import printable

# In the order in which --help lists them.
GROUPS = {
    "Your own network": (scanning.scan, networks.cuts, networks.import_),
    "Targets": (targets.split, targets.train, targets.inspect, targets.export, targets.purify, targets.poison),
    "Services": (services.cloud, services.edge, services.token, services.tap, services.link, live.watch, live.up),
    "Auditing": (auditing.audit,),
    "Attacks": (attacks.predict, attacks.query, attacks.attack, attacks.prior, attacks.import_prior, attacks.invert),
    "Judging": (judging.score, judging.score_classes, judging.extraction, judging.study, judging.study_score),
    "Measuring": (
        measuring.leakage,
        measuring.linkage,
        judging.layers,
        measuring.robustness,
        measuring.cost,
        measuring.training_time,
    ),
    "Deploying": (latency.latency, latency.recommend),
    "Reports": (reports.demo, reports.report, listing.list_),
}

app = typer.Typer(
    name="splitleak",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Measures what split inference leaks: edge, cloud and attacker as real processes over gRPC.",
)
for panel, commands in GROUPS.items():
    for command in commands:
        name = command.__name__.rstrip("_").replace("_", "-")
        app.command(name, cls=Command, rich_help_panel=panel)(command)
app.add_typer(campaign, name="campaign", rich_help_panel="Campaigns")
app.add_typer(capture, name="capture", rich_help_panel="Captures")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"splitleak {version('splitleak')}")
        raise typer.Exit


@app.callback()
def _common(
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error; to standard error.")] = "warning",
    log_to: Annotated[
        str | None,
        typer.Option(metavar="TRACKER:PLACE", help="Send all figures to tensorboard:FOLDER or mlflow:URI."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    from splitleak.logs import configure

    configure(log_level)
    if log_to is not None:
        from splitleak.trackers import LOG_TO, check_tracker

        os.environ[LOG_TO] = check_tracker(log_to)


def main() -> None:
    """Runs the command line; a foreseeable failure is one line on standard error, exit status 1 (2: wrong usage)."""
    from splitleak.parent_watch import exit_with_parent

    signal.signal(signal.SIGTERM, _terminated)
    exit_with_parent()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # else it is closed, or somebody's own
            with contextlib.suppress(OSError):  # of a warm child, whose pipe stands in another file's place: it is done
                stream.reconfigure(errors="backslashreplace")  # of names that are no UTF-8, and arrows on Windows
    os.environ.pop("MPLBACKEND", None)  # a notebook's, which matplotlib refuses outside of it; we draw to files alone
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what its log lines say, our errors and log lines say too
    try:
        sys.exit(app(standalone_mode=False))
    except typer.TyperException as error:  # a wrong argument; typer's own frame around it takes a moment to import
        if said := error.format_message():  # nothing where the help was shown instead
            _fail(said)
        sys.exit(error.exit_code)
    except (ValueError, OSError, RuntimeError, ArithmeticError, LookupError) as error:
        if os.environ.get("SPLITLEAK_DEBUG") or isinstance(error, (KeyError, IndexError)):
            raise
        from pydantic import ValidationError

        from splitleak.config import explain

        _fail(explain(error) if isinstance(error, ValidationError) else str(error))
        sys.exit(1)


def _fail(said: str) -> None:
    typer.secho(f"splitleak: {printable(said)}", fg="red", err=True)


def _terminated(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)
