"""The command line. Each command imports what it needs when it runs, from any room: that keeps ``--help`` instant."""

import os
import signal
import sys
from typing import Annotated, NoReturn

import typer

from splitleak.cli import attacks, judging, latency, measuring, reports, services, targets
from splitleak.cli.campaigns import campaign

# In the order in which --help lists them.
COMMANDS = (
    *(targets.split, targets.train, targets.inspect, targets.export, targets.purify),
    *(services.cloud, services.edge, services.token, services.tap, services.link),
    *(attacks.predict, attacks.query, attacks.attack, attacks.prior, attacks.invert),
    *(judging.score, judging.score_classes, judging.extraction, judging.layers),
    *(latency.latency, latency.recommend),
    *(measuring.cost, measuring.training_time, measuring.leakage, targets.poison, measuring.robustness),
    *(judging.study, judging.study_score),
    *(reports.report, reports.demo),
)

app = typer.Typer(
    name="splitleak",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Measures what split inference leaks: edge, cloud and attacker as real processes over gRPC.",
)
for command in COMMANDS:
    app.command(command.__name__.replace("_", "-"))(command)
app.add_typer(campaign, name="campaign")


@app.callback()
def _common(
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error; to standard error.")] = "warning",
) -> None:
    from splitleak.logs import configure

    configure(log_level)


def main() -> None:
    """Runs the command line; a foreseeable failure is one line on standard error and exit status 1."""
    from splitleak.parent_watch import exit_with_parent

    signal.signal(signal.SIGTERM, _terminated)
    exit_with_parent()
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, RuntimeError, ArithmeticError, LookupError) as error:
        if os.environ.get("SPLITLEAK_DEBUG") or isinstance(error, (KeyError, IndexError)):
            raise
        from pydantic import ValidationError

        from splitleak.config import explain

        said = explain(error) if isinstance(error, ValidationError) else error
        typer.secho(f"splitleak: {said}", fg="red", err=True)
        sys.exit(1)


def _terminated(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)
