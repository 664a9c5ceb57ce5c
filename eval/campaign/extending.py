"""A campaign's file that builds on another: ``extends = "other.toml"``, relative to the folder of the file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from splitleak.config import Document, merged, read_table, string_alone
from splitleak.tables import nearest

_KEY = "extends"


class ExtendsEntry(Document):
    """The file that is built on, and its keys that are left out."""

    file: str
    without: tuple[str, ...] = ()

    _file_alone = string_alone("file")


def read_campaign(path: Path) -> dict[str, Any]:
    """The document of a campaign's file, with what it takes from the file that it extends.

    Tables are merged, key by key; any other value replaces the other file's, a list too. But an entry of a list whose
    ``name`` is in the other file's list as well is merged with the entry of that name: a name alone is the other's.

    Raises:
        FileNotFoundError: A file is not there; the message says which file extends it.
        ValueError: The files extend each other in a circle, one leaves out a key that is not there, one is invalid, or
            an entry is to be merged with one of two that have its name.
    """
    return _extended(path, ())


def _extended(path: Path, above: Sequence[Path]) -> dict[str, Any]:
    document = read_table(path)
    if _KEY not in document:
        return document
    entry = ExtendsEntry.parse(document.pop(_KEY), source=f"{path}: {_KEY}")
    base, below = path.parent / entry.file, (*above, path)
    if not base.is_file():
        raise FileNotFoundError(f"{path}: expected a file that it extends, but {base} is not there")
    if any(base.samefile(file) for file in below):
        circle = " -> ".join(map(str, (*below, base)))
        raise ValueError(f"expected files that do not extend each other, got {circle}")
    taken = _extended(base, below)
    for key in entry.without:
        if key not in taken:
            raise ValueError(f"{path}: expected to leave out a key of {base}, got {key!r}{nearest(key, list(taken))}")
        del taken[key]
    try:
        return merged(taken, {key: _over(taken.get(key), value) for key, value in document.items()})
    except ValueError as error:
        raise ValueError(f"{path}: {error}, in {base}") from None


def _over(base: object, value: Any) -> Any:  # noqa: ANN401  # as `read_document`
    """``value`` with entries of its lists merged with those of ``base`` that have their names."""
    if isinstance(base, Mapping) and isinstance(value, Mapping):
        return {key: _over(base.get(key), each) for key, each in value.items()}
    if not isinstance(base, Sequence) or not isinstance(value, Sequence) or isinstance(value, str):
        return value
    return [merged(_named(name, base), each) if (name := _name(each)) else each for each in value]


def _named(name: str, base: Sequence[Any]) -> Mapping[str, Any]:
    """The entry of that name in a list; an empty one if there is none."""
    found = [each for each in base if _name(each) == name]
    if len(found) > 1:
        raise ValueError(f"expected one entry {name!r} to build on, got {len(found)} of that name")
    return found[0] if found else {}


def _name(entry: object) -> str | None:
    name = entry.get("name") if isinstance(entry, Mapping) else None
    return name if isinstance(name, str) else None
