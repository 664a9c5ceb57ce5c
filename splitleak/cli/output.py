"""Prints what a command found: a line of text or of JSON, or a table."""

import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def result(as_json: bool, document: dict[str, Any], text: str) -> None:
    """Prints ``document`` or ``text``, at once: whoever reads a pipe may wait for it."""
    if as_json:
        print_json(document)
    else:
        typer.echo(text)
    sys.stdout.flush()


def keep(out: Path | None, document: Mapping[str, Any]) -> None:
    """Writes ``document`` to the file that a command was given for it, if it was."""
    if out is not None:
        from splitleak.artifacts import write_json

        write_json(out, document)


def print_json(document: Mapping[str, Any]) -> None:
    typer.echo(json.dumps(document))


def console(width: int | None = None) -> "Console":
    """As wide as the terminal, and ``width`` wide where the output is none; default: rich's own choice."""
    from rich.console import Console

    made = Console()
    return made if made.is_terminal else Console(width=width)


def table(
    columns: Sequence[str],
    rows: Iterable[Iterable[str]],
    *,
    title: str | None = None,
    left: Collection[str] = (),
    wrap: bool | Collection[str] = True,
    framed: bool = True,
) -> "Table":
    """A table of text; columns are set to the right but those in ``left``, and ``wrap`` says which may break lines."""
    from rich import box
    from rich.table import Table

    frame: dict[str, Any] = {} if framed else {"box": box.SIMPLE_HEAD, "pad_edge": False}
    made = Table(title=title, title_justify="left", **frame)
    for column in columns:
        broken = wrap if isinstance(wrap, bool) else column in wrap
        made.add_column(column, justify="left" if column in left else "right", no_wrap=not broken)
    for row in rows:
        made.add_row(*row)
    return made
