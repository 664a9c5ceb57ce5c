"""Prints the result of a command: a line of text or of JSON, or a table."""

import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from splitleak.logs import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def result(as_json: bool, document: dict[str, Any], text: str, *, out: Path | None = None) -> None:
    """Prints ``document`` or ``text`` and flushes stdout; writes ``document`` to the file ``out`` too, if given."""
    keep(out, document)
    if as_json:
        print_json(document)
    else:
        typer.echo(printable(text))
    sys.stdout.flush()


def keep(out: Path | None, document: Mapping[str, Any]) -> None:
    """Writes ``document`` to the file ``out``, if given."""
    if out is not None:
        from splitleak.artifacts import write_json

        write_json(out, document)


def print_json(document: Mapping[str, Any]) -> None:
    typer.echo(json.dumps(document))


def console(width: int | None = None) -> "Console":
    """A console as wide as the terminal, or of ``width`` if stdout is not a terminal; default: rich's own choice.

    What it prints is taken as it is: no markup, and no control characters.
    """
    from rich.console import Console
    from rich.text import Text

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401  # of `Console.render_str`
            return super().render_str(printable(text), **{**options, "markup": False, "emoji": False})

    terminal = Plain()
    return terminal if terminal.is_terminal else Plain(width=width)


def table(
    columns: Sequence[str],
    rows: Iterable[Iterable[str]],
    *,
    title: str | None = None,
    left: Collection[str] = (),
    wrap: bool | Collection[str] = True,
    framed: bool = True,
) -> "Table":
    """A table of text; columns are aligned right but those in ``left``, and lines break in columns of ``wrap`` only."""
    from rich import box
    from rich.table import Table

    frame: dict[str, Any] = {} if framed else {"box": box.SIMPLE_HEAD, "pad_edge": False}
    shown = Table(title=title, title_justify="left", **frame)
    for column in columns:
        wrapped = wrap if isinstance(wrap, bool) else column in wrap
        shown.add_column(column, justify="left" if column in left else "right", no_wrap=not wrapped)
    for row in rows:
        shown.add_row(*row)
    return shown
