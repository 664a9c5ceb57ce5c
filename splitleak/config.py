"""The base class of every configuration: typed, closed and frozen, read from TOML or JSON, identified by its hash."""

import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from splitleak.tables import Table, nearest

_SECRETS = ("token", "tokens", "key", "password", "secret", "credential", "authorization", "bearer")
_ALIKE = 0.75  # of the letters, so that a misspelt one is found
_WORD = re.compile("[a-z]+")

PRESETS: Table[str] = Table(
    "preset",
    {
        "cpu": "small enough for minutes on two cores",
        "paper": "the published settings, made for a GPU",
        "fast": "of a target's training: few epochs of large batches, for tens of thousands of pictures; else as cpu",
    },
)

Preset = Annotated[str, AfterValidator(PRESETS.known)]
"""Which set of a method's settings one's own are put on top of."""


Seconds = Annotated[float, Field(le=2_000_000)]
"""A duration of at most 23 days: gRPC counts milliseconds in 31 bits, and no wait of a thread is endless."""


TAGS = OWN, IMPORTED = ("<own>", "<imported>")
"""Of the kinds of network that a field may hold; no user writes them, so no message names them."""


def kind_of_network(given: object) -> str:
    """Which of `TAGS` a network is, by its ``architecture``."""
    named = given.get("architecture") if isinstance(given, dict) else getattr(given, "architecture", None)
    return IMPORTED if named == "imported" else OWN


class Document(BaseModel):
    """A frozen pydantic model that is read from and written to JSON; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a ``.toml`` or ``.json`` file.

        Raises:
            ValueError: The file is neither, cannot be parsed, or is invalid; the message names file and key.
        """
        return cls.parse(read_document(path), source=str(path))

    @classmethod
    def parse(cls, values: object, *, source: str) -> Self:
        """Validates ``values``; the error names ``source``, the key, what was expected and the value."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ValueError(f"{source}: {explain(error, cls)}") from None

    def document(self) -> dict[str, Any]:
        """All fields as JSON values, defaults included."""
        return self.model_dump(mode="json")


def string_alone(key: str) -> Any:  # noqa: ANN401  # pydantic's own type of a validator
    """A validator, for the body of a document's class: a string stands for the table with that ``key`` alone."""

    def table(values: object) -> object:
        return {key: values} if isinstance(values, str) else values

    return model_validator(mode="before")(table)


class Config(Document):
    """A frozen configuration; an unknown key is an error, so that a misspelt setting is not ignored.

    A document leaves out those of its ``later`` keys that have the value beside them: settings that came after the
    first recorded results, whose hashes hold the rest.
    """

    later: ClassVar[Mapping[str, object]] = {}

    @model_serializer(mode="wrap")
    def _without_unused(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return self._used(plain(self))

    def _used(self, document: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in document.items() if key not in self.later or value != self.later[key]}

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that change with any value of the configuration."""
        return digest(self.document())


def explain(error: ValidationError, model: type[Document] | None = None) -> str:
    """Every fault of a configuration in one line: its key, what was expected and what came.

    With the ``model`` that was validated, an unknown key gets the nearest field, or all where none resembles it.
    """
    faults = []
    for fault in error.errors(include_url=False):
        fault["loc"] = tuple(part for part in fault["loc"] if part not in TAGS)
        own = fault["type"] == "value_error"  # the message of one of our validators says itself what came
        said = str(fault["ctx"]["error"]) if own else fault["msg"]
        if not own and _may_be_shown(fault["input"], fault["loc"], known=fault["type"] != "extra_forbidden"):
            said += f", got {fault['input']!r:.80}"
        if model is not None and fault["type"] == "extra_forbidden":
            *path, key = fault["loc"]
            fields = list(_fields(model, path))
            said += nearest(key, fields) or (f"; there are {', '.join(fields)}" if fields else "")
        faults.append(f"{'.'.join(map(str, fault['loc'])) or 'document'}: {said}")
    return f"expected a {error.title}, but {'; '.join(faults)}"


def _may_be_shown(value: object, path: Iterable[int | str], *, known: bool) -> bool:
    """Whether an error may quote a value: not at a key that sounds like a secret's, nor text at an unknown key."""
    words = [word for part in path for word in _WORD.findall(str(part).lower())]
    return (known or isinstance(value, (int, float))) and not any(
        get_close_matches(word, _SECRETS, 1, _ALIKE) for word in words
    )


def _fields(model: type[Document], path: Iterable[int | str]) -> list[str]:
    """The fields at ``path`` in a model; where several models may be there, the fields of all of them."""
    models = [model]
    for part in path:  # an index, or the tag of a union, leads to no other model
        below = [each.model_fields[part].annotation for each in models if part in each.model_fields]
        models = [each for annotation in below for each in _models(annotation)] or models
    return [name for each in models for name in each.model_fields]


def _models(annotation: object) -> Iterator[type[Document]]:
    """The models that a field may hold, at any depth of its type."""
    if isinstance(annotation, type) and issubclass(annotation, Document):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


class _Table(dict[str, Any]):
    """A table of a file; a key that it lacks is an error that names the file."""

    source: Path | str

    def __missing__(self, key: str) -> Any:  # noqa: ANN401  # never returns
        raise ValueError(f"{self.source}: expected a key {key!r}, got {', '.join(self) or 'none'}")


def read_document(path: Path) -> Any:  # noqa: ANN401  # whatever the file holds; `Config.parse` decides
    """The contents of a TOML or JSON file, with or without a byte-order mark.

    To ask a table of it for a key that it lacks is a ValueError that names the file.

    Raises:
        ValueError: Another suffix, or contents that do not parse.
    """
    if path.suffix not in (".toml", ".json"):
        raise ValueError(f"{path}: expected a .toml or .json file, got {path.suffix or 'no suffix'!r}")
    if path.is_dir():
        raise ValueError(f"{path}: expected a file, got a folder")
    try:
        text = path.read_text(encoding="utf-8-sig")
        return _named(tomllib.loads(text) if path.suffix == ".toml" else _json(text), path)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected valid {path.suffix[1:].upper()}, but {error}") from None


def read_table(path: Path) -> dict[str, Any]:
    """As `read_document`, of a file that is to hold a table.

    Raises:
        ValueError: As there, or the file holds something else.
    """
    document = read_document(path)
    if not isinstance(document, dict):
        raise ValueError(f"{path}: expected a table of keys and values, got {document!r:.40}")
    return document


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The tables of a file of JSON lines, each with the name of its place.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is no table; the message has its number.
    """
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        source = f"{path}, line {number}"
        try:
            document = _named(_json(line), source)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{source}: expected valid JSON, but {error}") from None
        if not isinstance(document, dict):
            raise ValueError(f"{source}: expected a table of keys and values, got {document!r:.40}")
        yield source, document


def _json(text: str | bytes) -> Any:  # noqa: ANN401  # as `read_document`
    """What ``text`` says; a key that is there twice is an error, as it is in TOML."""

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            twice = next(key for key in made if sum(key == other for other, _ in pairs) > 1)
            raise ValueError(f"the key {twice!r} is there twice")
        return made

    return json.loads(text, object_pairs_hook=table)


def _named(value: Any, source: Path | str) -> Any:  # noqa: ANN401  # as `read_document`
    """``value`` with each table in it as one that knows its source."""
    if isinstance(value, dict):
        table = _Table({key: _named(each, source) for key, each in value.items()})
        table.source = source
        return table
    return [_named(each, source) for each in value] if isinstance(value, list) else value


def digest(document: object) -> str:
    """Twelve hexadecimal digits of the SHA-256 of ``document`` as canonical JSON."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Recursive merge of nested mappings; values of ``over`` replace those of ``base``."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result
