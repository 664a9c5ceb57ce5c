"""Prints the result of a command: a line of text or of JSON, or a table."""

import json
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from splitleak.logs import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.table import Table

_BREAKING = 40  # characters that a column whose lines break is given, before the table is printed in parts
_UNBOUND = 10**4


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


@dataclass(frozen=True)
class Parts:
    """A table in as many parts as the console's width asks for, each with the columns that name its rows."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str | None
    left: Collection[str]
    wrap: Collection[str]
    framed: bool

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> Iterator["Table"]:
        from rich.cells import cell_len

        places = range(len(self.columns))
        widest = [max((row[place] for row in self.rows), key=cell_len, default="") for place in places]
        asked = replace(self, rows=[widest])  # is as wide

        def fits(part: Sequence[int], width: int) -> bool:
            made = asked._part(part, breaking=_BREAKING)
            return console.measure(made, options=options.update(width=_UNBOUND)).maximum <= width

        names = list(takewhile(lambda place: self.columns[place] in self.left, places))
        names = names if fits(names, options.max_width // 2) else names[:1]
        parts = [names]
        for place in places[len(names) :]:
            if fits([*parts[-1], place], options.max_width) or parts[-1] == names:
                parts[-1] = [*parts[-1], place]
            else:
                parts.append([*names, place])
        for number, part in enumerate(parts):
            yield self._part(part, title=None if number else self.title)

    def _part(self, part: Sequence[int], *, title: str | None = None, breaking: int | None = None) -> "Table":
        """The columns at these places; those whose lines break are ``breaking`` wide at most."""
        from rich import box
        from rich.table import Table

        frame: dict[str, Any] = {} if self.framed else {"box": box.SIMPLE_HEAD, "pad_edge": False}
        made = Table(title=title, title_justify="left", **frame)
        for name in (self.columns[place] for place in part):
            lines: dict[str, Any] = (
                {"max_width": breaking, "overflow": "fold"} if name in self.wrap else {"no_wrap": True}
            )
            made.add_column(name, justify="left" if name in self.left else "right", **lines)
        for row in self.rows:
            made.add_row(*(row[place] for place in part))
        return made


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str | None = None,
    left: Collection[str] = (),
    wrap: bool | Collection[str] = True,
    framed: bool = True,
) -> Parts:
    """A table of text; columns are aligned right but those in ``left``, and lines break in columns of ``wrap`` only.

    Where it is wider than the console it is printed in parts, so that no figure is cut off.
    """
    breaking = wrap if not isinstance(wrap, bool) else columns if wrap else ()
    return Parts(columns, list(rows), title, left, breaking, framed)
