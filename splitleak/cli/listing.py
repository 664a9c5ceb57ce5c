"""The command that lists what can be chosen: attacks, defenses, models, codecs and whatever else has a table."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from splitleak.cli.choices import TABLES, completed
from splitleak.cli.options import Json
from splitleak.cli.output import print_json

if TYPE_CHECKING:
    from splitleak.config import Config
    from splitleak.tables import Table

_YEAR = re.compile(r"\b(?:19|20)\d\d\b(?:,? \(?arXiv:\d+\.\d+\)?)?")


def _names(context: typer.Context, incomplete: str) -> list[str]:
    kind = context.params.get("kind")
    return completed(kind)(incomplete) if isinstance(kind, str) and kind in TABLES else []


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            help=f"{', '.join(TABLES)}; default: all, by name alone.",
            autocompletion=lambda incomplete: [kind for kind in TABLES if kind.startswith(incomplete)],
        ),
    ] = None,
    name: Annotated[str | None, typer.Argument(help="One of them, in full.", autocompletion=_names)] = None,
    as_json: Json = False,
) -> None:
    """List what can be chosen, with descriptions, settings (name = default) and sources: `list attacks gan`.

    Where the paper's preset of an attack differs from the default, its value stands behind it.
    """
    if kind is None:
        names = {table: list(entries) for table, entries in TABLES.items()}
        if as_json:
            print_json(names)
        for heading in () if as_json else names:
            typer.echo(f"{heading}: {', '.join(names[heading])}")
        return
    table = TABLES.choose(kind)
    elsewhere = next((other for other, names in TABLES.items() if name in names), kind)
    if name not in table and elsewhere != kind:
        raise ValueError(f"expected one of {kind}, got {name!r}, which is one of {elsewhere}")
    shown = list(table) if name is None else [table.known(name)]
    entries = [{"name": entry, **_described(table, entry)} for entry in shown]
    if as_json:
        print_json({kind: entries})
        return
    for entry in entries:
        typer.echo("\n".join(_lines(entry, full=name is not None)))


def _described(table: "Table[Any]", name: str) -> dict[str, Any]:
    """As `describe`, with the ``plugin`` that it is of, whose code is run; the ``error`` alone where that fails."""
    try:
        table.permit(name)
        plugin, about = table.plugin(name), describe(table[name])
    except ValueError as error:
        return {"error": str(error)}
    return about if plugin is None else {**about, "plugin": asdict(plugin)}


def describe(entry: Any) -> dict[str, Any]:  # noqa: ANN401  # tables hold classes, functions, configs and texts
    """An entry of a table as JSON values.

    Returns:
        ``summary``, its first sentence; ``settings``, each with name, default and description, and the paper preset's
        value where that is another; ``source``, a paper or None; ``about``, all that is said of it.
    """
    about = entry if isinstance(entry, str) else getattr(entry, "about", None) or inspect.getdoc(entry) or ""
    source = getattr(entry, "source", None) or getattr(entry, "basis", None) or _paper(about)
    summary = re.split(r"(?<=\.)\s", _line(about.split("\n\n")[0]), maxsplit=1)[0]
    return {"summary": summary, "settings": list(_settings(entry)), "source": source, "about": about}


def _settings(entry: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401
    from splitleak.config import Config

    if isinstance(entry, Config):
        yield from (row for row in _flat(entry) if row["name"] not in ("name", "basis"))
    elif isinstance(config := getattr(entry, "config", None), Config):
        yield from _flat(config)
    elif (kind := getattr(entry, "config_type", None)) is not None:
        paper = {} if not hasattr(entry, "paper_config") else {row["name"]: row for row in _flat(entry.paper_config())}
        for row in _flat(kind()):
            other = paper.get(row["name"], row)["default"]
            yield row if other == row["default"] else {**row, "paper": other}
    elif is_dataclass(entry):
        for field in fields(entry):
            value = getattr(entry, field.name)
            if field.name not in ("about", "source") and isinstance(value, str | int | float | None):
                yield {"name": field.name, "default": value, "description": ""}


def _flat(config: "Config", prefix: str = "") -> Iterator[dict[str, Any]]:
    """The fields of a config, those of a config inside it by dotted names, as ``--set`` takes them."""
    from pydantic_core import to_jsonable_python

    from splitleak.config import Config

    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Config):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield {"name": prefix + name, "default": to_jsonable_python(value), "description": field.description or ""}


def _paper(about: str) -> str | None:
    """The first work that a text cites: from the start of the sentence to the year, and the number on arXiv."""
    for paragraph in map(_line, about.split("\n\n")):
        if year := _YEAR.search(paragraph):
            return re.split(r"(?<=\.) (?=[A-Z])", paragraph[: year.end()])[-1]
    return None


def _line(text: str) -> str:
    return " ".join(text.split())


def _lines(entry: dict[str, Any], *, full: bool) -> Iterator[str]:
    if "error" in entry:
        yield f"{entry['name']}: {entry['error']}"
        return
    yield f"{entry['name']}: {entry['summary']}"
    if full and entry["about"] != entry["summary"]:
        yield from ("", *(f"    {line}".rstrip() for line in entry["about"].splitlines()), "")
    if plugin := entry.get("plugin"):
        yield f"    from: {plugin['package'] or 'no package'} {plugin['version'] or ''} ({plugin['address']})"
    if entry["source"]:
        yield f"    source: {entry['source']}"
    for row in entry["settings"]:
        paper = f" (paper: {row['paper']})" if "paper" in row else ""
        yield f"    {row['name']} = {row['default']}{paper}{'  ' * bool(row['description'])}{row['description']}"
