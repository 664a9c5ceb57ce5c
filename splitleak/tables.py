"""Tables of what can be chosen by name; entries may be imported late, and an unknown name gets the nearest."""

import logging
import pkgutil
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeVar, cast

from splitleak.plugins import GROUPS, Plugin, allow, installed, is_address, packaged

T = TypeVar("T")

_LOGGER = logging.getLogger(__name__)


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

    def __init__(
        self,
        noun: str,
        entries: Mapping[str, T | Imported],
        *,
        group: str | None = None,
        base: Imported | None = None,
    ) -> None:
        """A table of our own entries, to which plug-ins may add.

        Args:
            noun: Says in messages what an entry is.
            entries: Our own.
            group: Of entry points, whose entries follow ours; such a table takes ``module:attribute`` as a name too.
                None: nothing can be added but in Python.
            base: What an entry of a plug-in must be a subclass or an instance of.
        """
        self.noun, self._group, self._base = noun, group, base
        self._entries: dict[str, T | Imported | Plugin] = dict(entries)
        self._clashes: dict[str, str] = {}
        self._plugged: dict[Plugin, T] = {}
        self._searched = group is None

    def __getitem__(self, name: str) -> T:
        entry = self._found(name)
        if isinstance(entry, Imported):
            entry = self._entries[name] = cast(T, pkgutil.resolve_name(entry.address))
        return self._run(entry) if isinstance(entry, Plugin) else entry

    def __setitem__(self, name: str, entry: T) -> None:
        self._entries[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __contains__(self, name: object) -> bool:
        if name not in self._entries:
            self._search()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._search()
        return (name for name, entry in self._entries.items() if not isinstance(entry, Plugin) or entry.registered)

    def __len__(self) -> int:
        return len(list(iter(self)))

    def known(self, name: object) -> str:
        """``name`` itself, if there is such an entry, or may be one at such an address.

        Raises:
            ValueError: There is none; the message lists the names, and says which is nearest.
        """
        if not isinstance(name, str) or (name not in self and not self._may_be(name)):
            article = "an" if self.noun[0] in "aeiou" else "a"
            names = ", ".join(self) or "a plug-in, and none is installed"
            raise ValueError(f"expected {article} {self.noun} of {names}, got {name!r}{nearest(name, self)}")
        return name

    def choose(self, name: object) -> T:
        """The entry called ``name``.

        Raises:
            PermissionError: It is a plug-in's, which is not allowed.
            ValueError: There is none; see `known`. Or a plug-in cannot be imported, or gives something else.
        """
        return self[self.known(name)]

    def permit(self, name: str) -> None:
        """Allows the plug-in behind ``name``, if one is: for a name that the user has given on the command line."""
        if (name in self or self._may_be(name)) and isinstance(entry := self._found(name), Plugin):
            self._entries[name] = entry
            allow(entry.key)

    def plugin(self, name: str) -> Plugin | None:
        """The plug-in behind ``name``, as records name it; None for an entry that is not a plug-in's."""
        entry = self._found(name) if name in self or self._may_be(name) else None
        return packaged(entry) if isinstance(entry, Plugin) else None

    @contextmanager
    def holding(self, name: str, entry: T) -> Iterator[None]:
        """The table has ``entry`` under ``name`` while the block runs, whatever it has there else."""
        before = self._entries.get(name)
        self[name] = entry
        try:
            yield
        finally:
            if before is None:
                del self[name]
            else:
                self._entries[name] = before

    def allowed(self) -> list[Plugin]:
        """The plug-ins of the table that are allowed: those registered, and those that the user has named."""
        self._search()
        return [entry for entry in self._entries.values() if isinstance(entry, Plugin) and entry.allowed]

    def takes(self, address: str) -> bool:
        """Whether what stands at ``module:attribute`` can be an entry; to tell is to import it.

        Raises:
            PermissionError: It is not allowed.
            ValueError: It cannot be imported.
        """
        if not self._may_be(address):
            return False
        assert self._group is not None
        return self._fits(Plugin(self._group, address, address).load())

    def _fits(self, entry: object) -> bool:
        if self._base is None:
            return True
        base = pkgutil.resolve_name(self._base.address)
        return issubclass(entry, base) if isinstance(entry, type) else isinstance(entry, base)

    def _may_be(self, name: str) -> bool:
        return self._group is not None and is_address(name)

    def _found(self, name: str) -> T | Imported | Plugin:
        if name in self._clashes:
            raise ValueError(self._clashes[name])
        if name not in self and self._group is not None and is_address(name):
            return Plugin(self._group, name, name)
        return self._entries[name]

    def _search(self) -> None:
        """Adds what distributions have registered; a name that is taken stays with its owner."""
        if self._searched or self._group is None:
            return
        self._searched = True
        for plugin in installed(self._group):
            taken = self._entries.setdefault(plugin.name, plugin)
            if isinstance(taken, Plugin) and taken != plugin:
                both = f"{taken.package} {taken.version} and {plugin.package} {plugin.version}"
                noun = GROUPS[self._group]
                self._clashes[plugin.name] = f"expected one {noun} called {plugin.name!r}, got those of {both}"
            elif taken is not plugin:
                _LOGGER.warning("%s takes a name of splitleak, and is left out", plugin)

    def _run(self, plugin: Plugin) -> T:
        """What a plug-in gives; whether it may run is asked each time."""
        plugin.check_allowed()
        if plugin not in self._plugged:
            entry = plugin.load()
            if self._base is not None and not self._fits(entry):
                kind = self._base.address.partition(":")[2]
                raise ValueError(f"expected a subclass or instance of {kind} as {plugin}, got {type(entry).__name__}")
            if plugin.registered and getattr(entry, "name", plugin.name) != plugin.name:
                raise ValueError(f"expected {plugin} to be called so, got {getattr(entry, 'name', None)!r}")
            self._plugged[plugin] = cast(T, entry)
        return self._plugged[plugin]


def nearest(name: object, names: Iterable[str]) -> str:
    """The question that ends a message about an unknown name, or nothing where no name resembles it.

    >>> nearest("epoch", ["epochs", "seed"])
    "; did you mean 'epochs'?"
    """
    found = get_close_matches(str(name), list(names), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""
