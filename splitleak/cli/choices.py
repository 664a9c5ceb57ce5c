"""Options whose values are entries of the library's tables, looked up when a value is read, completed or explained."""

import pkgutil
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperOption

if TYPE_CHECKING:
    from splitleak.tables import Table

TABLES = {
    "attacks": "splitleak.attacker.reconstruction:ATTACKS",
    "class-attacks": "splitleak.attacker.class_inversion:CLASS_ATTACKS",
    "defenses": "splitleak.defenses:DEFENSES",
    "models": "splitleak.models:ARCHITECTURES",
    "codecs": "splitleak.wire.protocol:CODECS",
    "links": "splitleak.wire.link.link:PROFILES",
    "devices": "splitleak.edge.profiles:DEVICES",
    "engines": "splitleak.models:ENGINES",
    "auxiliary": "splitleak.attacker.auxiliary:AUXILIARY",
    "scores": "splitleak.wire.client:SCORES",
    "backends": "splitleak.models:TRITON_BACKENDS",
    "presets": "splitleak.config:PRESETS",
}
"""Where each table of choices is; their modules load neither torch nor numpy."""


def table_of(kind: str) -> "Table[Any]":
    """The library's table of that kind, one of `TABLES`."""
    table: Table[Any] = pkgutil.resolve_name(TABLES[kind])
    return table


def choice(kind: str, text: str, *declarations: str, also: Sequence[str] = (), listed: bool = False) -> Any:  # noqa: ANN401  # typer's own type of an option
    """An option that takes the names of a table.

    Args:
        kind: Which of `TABLES`.
        text: Its help; the names as they then are follow it.
        declarations: The option's own name, where it is not that of the parameter.
        also: Values that are taken beside the names.
        listed: Whether a value may be several names, separated by commas.
    """

    def read(value: str) -> str:
        for name in value.split(",") if listed else (value,):
            try:
                name in also or table_of(kind).known(name)
            except ValueError as error:
                raise typer.BadParameter(str(error)) from None
        return value

    return typer.Option(
        *declarations,
        metavar="NAME,NAME" if listed else "NAME",
        help=f"{text} {', '.join([*also, f'{{{kind}}}'])}.",
        parser=read,
        autocompletion=completed(kind, also),
    )


def completed(kind: str, also: Sequence[str] = ()) -> Callable[[str], list[str]]:
    """Gives a shell the names that complete what is typed, the last of a list."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in (*also, *table_of(kind)) if name.startswith(last)]

    return complete


class Command(TyperCommand):
    """A command whose help names the entries of tables as they are when it is shown."""

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401  # typer's, which has no public name
        for option in self.params:
            if isinstance(option, TyperOption) and option.help:
                option.help = re.sub(r"\{([a-z-]+)\}", lambda found: ", ".join(table_of(found[1])), option.help)
        super().format_help(ctx, formatter)
