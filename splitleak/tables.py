"""Tables of what can be chosen by name; entries may be imported late, and an unknown name gets the nearest."""

import pkgutil
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeVar, cast

T = TypeVar("T")


@dataclass(frozen=True)
class Imported:
    """Where an entry of a table is found, as ``module:attribute``; it is imported when it is first asked for."""

    address: str


class Table(MutableMapping[str, T]):
    """Entries by name, in the order in which they are shown. To know the names is to import none of the entries.

    >>> engines = Table("engine", {"ceiling": Imported("math:ceil"), "floor": Imported("math:floor")})
    >>> engines.choose("floor")(2.5)
    2
    >>> engines.choose("flor")
    Traceback (most recent call last):
        ...
    ValueError: expected an engine of ceiling, floor, got 'flor'; did you mean 'floor'?
    """

    def __init__(self, noun: str, entries: Mapping[str, T | Imported]) -> None:
        """``noun`` says in messages what an entry is."""
        self.noun = noun
        self._entries: dict[str, T | Imported] = dict(entries)

    def __getitem__(self, name: str) -> T:
        entry = self._entries[name]
        if isinstance(entry, Imported):
            entry = self._entries[name] = cast(T, pkgutil.resolve_name(entry.address))
        return entry

    def __setitem__(self, name: str, entry: T) -> None:
        self._entries[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def known(self, name: object) -> str:
        """``name`` itself, if there is such an entry.

        Raises:
            ValueError: There is none; the message lists the names, and says which is nearest.
        """
        if name not in list(self):  # which need not be hashable
            article = "an" if self.noun[0] in "aeiou" else "a"
            names = ", ".join(self)
            raise ValueError(f"expected {article} {self.noun} of {names}, got {name!r}{nearest(name, self)}")
        return str(name)

    def choose(self, name: object) -> T:
        """The entry called ``name``.

        Raises:
            ValueError: There is none; see `known`.
        """
        return self[self.known(name)]


def nearest(name: object, names: Iterable[str]) -> str:
    """The question that ends a message about an unknown name, or nothing where no name resembles it.

    >>> nearest("epoch", ["epochs", "seed"])
    "; did you mean 'epochs'?"
    """
    found = get_close_matches(str(name), list(names), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""
