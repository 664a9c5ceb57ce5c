"""Reads the settings of a command from files and ``--set``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from splitleak.cli.choices import TABLES
from splitleak.plugins import allow, is_address

if TYPE_CHECKING:
    from splitleak.config import Config
    from splitleak.wire.client.channel import ChannelConfig
    from splitleak.wire.server.server import ServerConfig

_Config = TypeVar("_Config", bound="Config")


def read_settings(file: Path | None, settings: list[str] | None) -> dict[str, Any]:
    """The document of a file, if given, with single settings on top."""
    from splitleak.config import read_document

    return with_settings(read_document(file) if file else {}, settings)


def read_config(
    kind: type[_Config], file: Path | None, settings: list[str] | None, source: str, /, **defaults: object
) -> _Config:
    """The config of a command.

    Args:
        kind: Its type.
        file: TOML or JSON, if given.
        settings: Single settings on top of it.
        source: What an error names if there is no file.
        defaults: Values of fields below both.

    Raises:
        ValueError: A key is unknown or a value invalid.
    """
    return kind.parse({**defaults, **read_settings(file, settings)}, source=str(file or source))


def with_settings(document: dict[str, Any], settings: list[str] | None) -> dict[str, Any]:
    """``document`` with each ``key=value`` set.

    An entry of a list of tables is addressed by its name; the first part of a key may be a defense of the stack.
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
        place: Any = document
        stacked = {entry["name"]: entry for entry in document.get("defenses", []) if "name" in entry}
        own = next((name for name in stacked if path.startswith(f"{name}.")), None)  # which may have dots of its own
        *tables, key = path.split(".") if own is None else (own, *path.removeprefix(f"{own}.").split("."))
        _named_by_user(key, value)
        for index, table in enumerate(tables):
            if index == 0 and table in stacked:
                place = stacked[table]
            elif isinstance(place, list):
                place = next((entry for entry in place if isinstance(entry, dict) and entry.get("name") == table), None)
            else:
                place = place.setdefault(table, {})
            if not isinstance(place, dict) and not (isinstance(place, list) and table != tables[-1]):
                raise ValueError(f"expected a table {table!r} for --set {setting}, got {place!r}")
        place[key] = value
    return document


def _named_by_user(key: str, value: object) -> None:
    """Allows the code that a setting of the command line names."""
    if key == "architecture" and isinstance(value, str):
        TABLES["models"].permit(value)
    elif is_address(value):
        allow(str(value))


def designed(
    base: dict[str, Any], config: Path | None, defense: list[str] | None, settings: list[str] | None
) -> dict[str, Any]:
    """A target's document: ``base``, a file on top, defenses by name that replace its own, and single settings."""
    from splitleak.config import merged, read_document

    document = base if config is None else merged(base, read_document(config))
    if defense:
        document["defenses"] = [{"name": name} for name in defense]
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
    """The folder of a half, given that of an artifact or of the half."""
    return folder / half if (folder / "artifact.json").exists() else folder
