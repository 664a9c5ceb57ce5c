"""Attributes of pictures that no label tells, from a user's CSV file."""

import csv
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splitleak.datasets.images import Images, fitted_pixels
from splitleak.datasets.pictures import decode
from splitleak.datasets.splits import Splits
from splitleak.errors import explained

_SETS = ("public", "victims")
_UNKNOWN = -1
_INDEX = re.compile("[0-9]{1,9}")


@dataclass(frozen=True)
class Attribute:
    """An attribute of the attacker's pictures and the victims': indices of ``values``, -1 where the file has none."""

    values: tuple[str, ...]
    public: Tensor
    victims: Tensor


def read_attributes(path: Path, splits: Splits) -> dict[str, Attribute]:
    """The attributes in a CSV file, by column; rows of other pictures are passed over.

    A row names its picture by ``file``, the path of the picture from the folder of the CSV (it is found in the split by
    its pixels), or by ``set`` (``public`` or ``victims``) and ``index``, its place in that file of the split, from 0.

    Raises:
        FileNotFoundError: There is no such file, or no picture that it names.
        ValueError: It has no such columns, a row is invalid, or no row is of the split.
    """
    if not path.is_file():
        raise FileNotFoundError(f"expected a CSV file of attributes at {path}, got no such file")
    columns, rows = _rows(path)
    keys = ("file",) if "file" in columns else ("set", "index")
    names = [name for name in columns if name not in keys]
    if not set(keys) <= set(columns) or not names:
        expected = "the columns file, or set and index, and one of each attribute"
        raise ValueError(f"{path}: expected {expected}, got {', '.join(columns) or 'none'}")
    sets = {"public": splits.public, "victims": splits.victims}
    hashes = {each: (kind, place) for kind in _SETS for place, each in enumerate(sets[kind].hashes())}
    found: dict[tuple[str, int], Mapping[str, str]] = {}
    for where, row in rows:
        place = _by_file(path, row, splits.public, hashes) if keys == ("file",) else _by_index(row, sets, where)
        if place is None:
            continue
        if any(found.get(place, row)[name] != row[name] for name in names):
            raise ValueError(f"{where}: expected one row a picture, got another of the same with other attributes")
        found[place] = row
    if not found:
        raise ValueError(f"{path}: expected pictures of the split, got none among {len(rows)} rows")
    return {name: _attribute(name, found, sets) for name in names}


def _rows(path: Path) -> tuple[tuple[str, ...], list[tuple[str, Mapping[str, str]]]]:
    """The columns of a CSV file, and its rows, each with the place of its end."""
    rows: list[tuple[str, Mapping[str, str]]] = []
    with explained(path, "a CSV file of attributes"), path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        columns = tuple(reader.fieldnames or ())
        if len({*columns}) < len(columns):
            raise ValueError(f"{path}: expected columns of different names, got {columns!r}")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise ValueError(f"{path}: expected {len(columns)} values in line {reader.line_num}, got {_count(row)}")
            rows.append((where, row))
    return columns, rows


def _count(row: Mapping[str | None, Any]) -> int:
    """The values of a row that has more or fewer than there are columns."""
    return sum(value is not None for key, value in row.items() if key is not None) + len(row.get(None, ()))


def _by_file(
    path: Path, row: Mapping[str, str], like: Images, hashes: Mapping[str, tuple[str, int]]
) -> tuple[str, int] | None:
    picture = path.parent / row["file"]
    if not os.path.isfile(picture):  # false where a name is impossible, too
        raise FileNotFoundError(f"{path}: expected the name of a picture, got {row['file']!r}, which is no file")
    channels, *size = like.shape
    with explained(picture, "a picture"):
        pixels = torch.from_numpy(decode(picture.read_bytes(), least=max(size)).pixels.copy())[None]
    fitted = fitted_pixels(pixels, (size[0], size[1]), channels)
    [digest] = Images(fitted, torch.zeros(1, dtype=torch.int64), ("",)).hashes()
    return hashes.get(digest)


def _by_index(row: Mapping[str, str], sets: Mapping[str, Images], where: str) -> tuple[str, int]:
    kind, index = row["set"], row["index"]
    if kind not in sets or not _INDEX.fullmatch(index) or int(index) >= len(sets[kind]):
        raise ValueError(f"{where}: expected a set of {', '.join(sets)} and an index of it, got {kind!r} and {index!r}")
    return kind, int(index)


def _attribute(name: str, found: Mapping[tuple[str, int], Mapping[str, str]], sets: Mapping[str, Images]) -> Attribute:
    values = sorted({row[name] for row in found.values() if row[name]})

    def indices(kind: str) -> Tensor:
        texts = [found.get((kind, place), {}).get(name) for place in range(len(sets[kind]))]
        return torch.tensor([values.index(text) if text else _UNKNOWN for text in texts])

    return Attribute(tuple(values), indices("public"), indices("victims"))


def known(values: Tensor) -> Tensor:
    """Where an attribute is known: ``(N,)`` bool."""
    return values != _UNKNOWN
