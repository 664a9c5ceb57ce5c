"""Code that is not ours: what other distributions, and a user's own files, add to the library's tables.

A distribution adds an entry by an entry point of one of `GROUPS`; a user's own file is named as ``module:attribute``.
Neither is imported before it is chosen, and neither runs because a file names it, be that an artifact, a record, a
config or a campaign: the user names it on the command line, or allows it (`allow`).
"""

import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from splitleak.user_code import load_attribute

_LOGGER = logging.getLogger(__name__)

GROUPS = {
    "splitleak.defenses": "defense",
    "splitleak.attacks": "attack",
    "splitleak.class_attacks": "attack",
    "splitleak.measures": "measure",
    "splitleak.architectures": "architecture",
    "splitleak.datasets": "data set",
}
"""The groups of entry points, and what an entry of each is."""

ALLOW_PLUGIN, ALLOW_CODE = "SPLITLEAK_ALLOW_PLUGIN", "SPLITLEAK_ALLOW_CODE"
"""Environment variables: distributions (and addresses) that may run, by commas; ``1``, any address that a file names.

Child processes inherit them, so that what is allowed to a campaign is allowed to all of its processes.
"""

_NAME = r"[^\W\d]\w*"
_ADDRESS = re.compile(rf"{_NAME}(\.{_NAME})*:{_NAME}(\.{_NAME})*")


@dataclass(frozen=True)
class Plugin:
    """An entry of a table that is not ours, as artifacts and records name it; to make one imports nothing.

    ``group`` is one of `GROUPS`, ``address`` the import path ``module:attribute``. An entry of no distribution has
    neither ``package`` nor ``version``; one that was not registered has its address as ``name``.
    """

    group: str
    name: str
    address: str
    package: str | None = None
    version: str | None = None

    def __str__(self) -> str:
        of = "no package" if self.package is None else f"{self.package} {self.version} ({self.address})"
        return f"{GROUPS.get(self.group, self.group)} {self.name!r} of {of}"

    @property
    def registered(self) -> bool:
        """Whether it is an entry point, and not named by its address."""
        return self.name != self.address

    @property
    def key(self) -> str:
        """What `allow` takes: the distribution, or the address of what is not registered."""
        return self.package if self.registered and self.package is not None else self.address

    @property
    def allowed(self) -> bool:
        """Whether its code may run."""
        keys = set(map(_normalised, os.environ.get(ALLOW_PLUGIN, "").split(","))) - {""}
        return _normalised(self.key) in keys or (not self.registered and os.environ.get(ALLOW_CODE) == "1")

    def load(self) -> object:
        """What stands at its address; its code is run.

        Raises:
            PermissionError: It is not allowed.
            ValueError: It cannot be imported; one line, which names distribution and entry point.
        """
        self.check_allowed()
        return load_attribute(self.address, str(self), here=not self.registered)

    def code_digest(self) -> str:
        """Twelve hexadecimal digits that change with its version and its code: its module, or all of its package.

        Its code is run. Of what that imports from elsewhere nothing is told.

        Raises:
            PermissionError: It is not allowed.
            ValueError: It cannot be imported.
        """
        self.load()
        name = self.address.partition(":")[0]
        module, whole = sys.modules[name], sys.modules[name.partition(".")[0]]
        folders = [Path(folder) for folder in getattr(whole, "__path__", ())]
        files = {path.relative_to(folder).as_posix(): path for folder in folders for path in folder.rglob("*.py")}
        if not files and module.__file__ is not None:
            files = {"": Path(module.__file__)}
        code = {place: hashlib.sha256(path.read_bytes()).hexdigest() for place, path in files.items()}
        told = [self.package, self.version, sorted(code.items())]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]

    def check_allowed(self, begin: str = "") -> None:
        """Refuses, by name, what may not run; the message begins with ``begin``.

        Raises:
            PermissionError: It is not allowed.
        """
        if not self.allowed:
            option = "--allow-plugin" if self.registered else "--allow-code, or --allow-plugin"
            how = f"{option} {self.key} lets it run (in Python, splitleak.plugins.allow({self.key!r}))"
            raise PermissionError(f"{begin}{self}, which was not run; {how}")


def allow(*keys: str) -> None:
    """Lets code that is not ours run, in this process and in those it starts.

    Args:
        keys: Distributions by name, as ``pip`` knows them, and ``module:attribute`` of what belongs to none.
    """
    if not keys:
        return
    there = os.environ.get(ALLOW_PLUGIN, "").split(",")
    os.environ[ALLOW_PLUGIN] = ",".join(dict.fromkeys(key for key in (*there, *keys) if key))


def allow_code() -> None:
    """Lets files name code by ``module:attribute``, to this process and to those it starts."""
    os.environ[ALLOW_CODE] = "1"


def permissions() -> dict[str, str]:
    """What is allowed here, as the environment variables that say so on another machine, too."""
    return {name: os.environ[name] for name in (ALLOW_PLUGIN, ALLOW_CODE) if name in os.environ}


def is_address(name: object) -> bool:
    """Whether ``name`` has the form ``module:attribute``.

    >>> is_address("my.pkg:Blur"), is_address("gaussian-noise"), is_address("cuda:0")
    (True, False, False)
    """
    return isinstance(name, str) and _ADDRESS.fullmatch(name) is not None


@cache
def installed(group: str) -> tuple[Plugin, ...]:
    """What distributions have registered in a group, from their metadata alone; sorted, so that the order is fixed."""
    from importlib.metadata import entry_points  # a tenth of the start of the command line

    found = []
    for point in entry_points(group=group):
        if point.dist is not None:
            address = f"{point.module}:{point.attr}"
            found.append(Plugin(group, point.name, address, point.dist.metadata["Name"], point.dist.version))
    return tuple(sorted(found, key=lambda each: (each.name, each.key)))


def named(name: str) -> list[Plugin]:
    """The plug-ins of that name, in whichever group; of an address, what stands there."""
    if is_address(name):
        return [packaged(Plugin("plug-in", name, name))]
    return [plugin for group in GROUPS for plugin in installed(group) if plugin.name == name]


def recorded(documents: object) -> tuple[Plugin, ...]:
    """The plug-ins that a file names, each once.

    Raises:
        ValueError: They are described by something else.
    """
    try:
        found = [each if isinstance(each, Plugin) else Plugin(**each) for each in documents]  # type: ignore[attr-defined]
    except TypeError as error:
        raise ValueError(f"expected plug-ins of group, name, address, package and version, but {error}") from None
    for plugin in found:
        texts = all(isinstance(value, str | None) for value in vars(plugin).values())
        if not texts or plugin.group not in GROUPS or not (isinstance(plugin.name, str) and is_address(plugin.address)):
            raise ValueError(f"expected a plug-in of {', '.join(GROUPS)}, with name and address, got {vars(plugin)}")
    return tuple(dict.fromkeys(found))


def check_recorded(plugins: Iterable[Plugin], source: str = "made with") -> None:
    """Refuses what was made with code that is not ours, unless that is allowed; nothing is imported.

    Another version than the recorded one is a warning in the log.

    Args:
        plugins: As recorded. A stranger may have left some out, so tables ask again when a name is looked up.
        source: How a message begins.

    Raises:
        LookupError: Its distribution is not installed, or has no such entry point any more.
        PermissionError: It is not allowed.
    """
    for plugin in plugins:
        here = _version(plugin.package)
        if plugin.registered:
            named = [each for each in installed(plugin.group) if each.name == plugin.name]
            same = [each for each in named if _normalised(each.key) == _normalised(plugin.key)]
            if not same:
                there = f"; here that name is of {named[0].package} {named[0].version}" if named else ""
                install = f"pip install {plugin.package}=={plugin.version}"
                raise LookupError(f"{source} {plugin}, which is not installed{there}; {install}")
            here = same[0].version
        plugin.check_allowed(f"{source} ")
        if here != plugin.version:
            _LOGGER.warning("%s %s; here is %s", source, plugin, here or "none that is installed")


def packaged(plugin: Plugin) -> Plugin:
    """``plugin`` with the distribution that its module was installed by, if any did."""
    if plugin.package is not None:
        return plugin
    package = next(iter(_distributions().get(re.split("[.:]", plugin.address)[0], ())), None)
    return plugin if package is None else replace(plugin, package=package, version=_version(package))


@cache
def _distributions() -> Mapping[str, list[str]]:
    """The distributions that installed each module; to find out reads the list of files of each, for a second."""
    from importlib import metadata

    return metadata.packages_distributions()


def _version(package: str | None) -> str | None:
    """The version of a distribution that is installed here; None where it is not."""
    from importlib import metadata

    try:
        return None if package is None else metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _normalised(key: str) -> str:
    """A distribution's name as package indexes compare it; an address is compared as it is."""
    return key if ":" in key else re.sub(r"[-_.]+", "-", key).lower()
