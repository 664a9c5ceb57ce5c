"""Reads what a command is given in files and by ``--set``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from splitleak.wire.client.channel import ChannelConfig
    from splitleak.wire.server.server import ServerConfig


def read_settings(file: Path | None, settings: list[str] | None) -> dict[str, Any]:
    """What a file says, or nothing, with single settings on top."""
    from splitleak.config import read_document

    return with_settings(read_document(file) if file else {}, settings)


def with_settings(document: dict[str, Any], settings: list[str] | None) -> dict[str, Any]:
    """``document`` with each ``key=value`` put in its place.

    A list of tables is entered by a table's name; the first part of a key may be a defense of the stack.
    """
    import tomllib

    for setting in settings or ():
        path, equals, text = setting.partition("=")
        if not equals or not path:
            raise ValueError(f"expected --set KEY=VALUE, got {setting!r}")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        *tables, key = path.split(".")
        place: Any = document
        stacked = {each["name"]: each for each in document.get("defenses", []) if "name" in each}
        for index, table in enumerate(tables):
            if index == 0 and table in stacked:
                place = stacked[table]
            elif isinstance(place, list):
                place = next((each for each in place if isinstance(each, dict) and each.get("name") == table), None)
            else:
                place = place.setdefault(table, {})
            if not isinstance(place, dict) and not (isinstance(place, list) and table != tables[-1]):
                raise ValueError(f"expected a table {table!r} for --set {setting}, got {place!r}")
        place[key] = value
    return document


def designed(
    base: dict[str, Any], config: Path | None, defense: list[str] | None, settings: list[str] | None
) -> dict[str, Any]:
    """A target's document: ``base``, with a file on top, defenses by name in place of its own, and single settings."""
    from splitleak.config import merged, read_document

    document = base if config is None else merged(base, read_document(config))
    if defense:
        document["defenses"] = [{"name": each} for each in defense]
    return with_settings(document, settings)


def server_config(listen: str, file: Path | None, *, metrics: str | None = None) -> "ServerConfig":
    from splitleak.wire.security import read_beside
    from splitleak.wire.server.server import ServerConfig

    given = {"address": listen} if metrics is None else {"address": listen, "metrics": metrics}
    document = read_beside(file) if file is not None else {}
    return ServerConfig.parse({**document, **given}, source=str(file or "server"))


def channel_config(file: Path | None) -> "ChannelConfig":
    from splitleak.wire.client.channel import ChannelConfig
    from splitleak.wire.security import read_beside

    return ChannelConfig() if file is None else ChannelConfig.parse(read_beside(file), source=str(file))


def half_of(folder: Path, half: str) -> Path:
    """The half itself, where an artifact was named."""
    return folder / half if (folder / "artifact.json").exists() else folder
