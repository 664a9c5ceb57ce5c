"""Options whose values are entries of the library's tables, looked up when a value is read, completed or explained."""

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from splitleak.plugins import ALLOW_CODE, ALLOW_PLUGIN, allow, allow_code
from splitleak.tables import Imported, Table

TABLES: Table[Table[Any]] = Table(
    "kind",
    {
        "attacks": Imported("splitleak.attacker.reconstruction:ATTACKS"),
        "class-attacks": Imported("splitleak.attacker.class_inversion:CLASS_ATTACKS"),
        "defenses": Imported("splitleak.defenses:DEFENSES"),
        "models": Imported("splitleak.models:ARCHITECTURES"),
        "codecs": Imported("splitleak.wire.protocol:CODECS"),
        "links": Imported("splitleak.wire.link.link:PROFILES"),
        "devices": Imported("splitleak.edge.profiles:DEVICES"),
        "engines": Imported("splitleak.models:ENGINES"),
        "auxiliary": Imported("splitleak.attacker.auxiliary:AUXILIARY"),
        "measures": Imported("splitleak.eval.record:MEASURES"),
        "datasets": Imported("splitleak.datasets:DATASETS"),
        "pools": Imported("splitleak.datasets:POOLS"),
        "scores": Imported("splitleak.wire.client:SCORES"),
        "backends": Imported("splitleak.models:TRITON_BACKENDS"),
        "priors": Imported("splitleak.attacker:PRIORS"),
        "presets": Imported("splitleak.config:PRESETS"),
        "threats": Imported("splitleak.eval.campaign.audit:THREATS"),
    },
)
"""The tables that can be chosen from; to import one loads neither torch nor numpy."""


_EAGER: dict[str, Any] = {"is_eager": True, "expose_value": False, "rich_help_panel": "Plug-ins"}


def choice(  # typer's own type of an option is what it gives
    kind: str, text: str, *declarations: str, also: Sequence[str] = (), listed: bool = False
) -> Any:  # noqa: ANN401
    """An option that takes the names of a table; to name a plug-in, or code by its address, allows it.

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
                if name not in also:
                    TABLES[kind].permit(TABLES[kind].known(name))
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
        return [f"{before}{comma}{name}" for name in (*also, *TABLES[kind]) if name.startswith(last)]

    return complete


def _allowed(_: typer.Context, value: list[str] | None) -> None:
    allow(*value or ())


def _code_allowed(_: typer.Context, value: bool) -> None:
    if value:
        allow_code()


def _of_all(
    allow_plugin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PACKAGE",
            help=f"Run this package's code where a file names it; repeatable. Also ${ALLOW_PLUGIN}.",
            callback=_allowed,
            **_EAGER,
        ),
    ] = None,
    allow_code: Annotated[
        bool,
        typer.Option(
            "--allow-code",
            help=f"Run code that a file names as module:attribute. Also ${ALLOW_CODE}=1.",
            callback=_code_allowed,
            **_EAGER,
        ),
    ] = False,
) -> None:
    """The options that all commands have, and that are read before all others: code that is not ours may run."""


@cache
def _shared_options() -> list[Any]:
    app = typer.Typer(add_completion=False)
    app.command()(_of_all)
    return typer.main.get_command(app).params


class Command(TyperCommand):
    """A command with the options of all, whose help names the entries of tables as they are when it is shown."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # typer's own
        super().__init__(*args, **kwargs)
        self.params += _shared_options()

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401  # typer's, which has no public name
        for option in self.params:
            if isinstance(option, TyperOption) and option.help:
                option.help = re.sub(r"\{([a-z-]+)\}", lambda found: ", ".join(TABLES[found[1]]) or "none", option.help)
        super().format_help(ctx, formatter)
