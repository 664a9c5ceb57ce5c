"""How many processor cores this process may use, in a container and on any system."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """The cores of the machine, less what affinity (where there is such) and a container's quota take away."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    return max(1, min([cores, *map(math.ceil, _quotas())]))


def _quotas() -> Iterator[float]:
    """The processor time in cores that each control group around this process allows; version 2, then version 1."""
    for folder in _folders(""):
        with contextlib.suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text().split()
            yield int(quota) / int(period)  # the quota may be "max"
    for folder in (*_folders("cpu,cpuacct"), *_folders("cpu")):
        with contextlib.suppress(OSError, ValueError):
            quota_us = int((folder / "cpu.cfs_quota_us").read_text())
            if quota_us > 0:
                yield quota_us / int((folder / "cpu.cfs_period_us").read_text())


def _folders(controllers: str) -> Iterator[Path]:
    """The folders of this process's group and of those around it, of one hierarchy."""
    own = "/"
    with contextlib.suppress(OSError):
        for line in _OWN_GROUP.read_text().splitlines():
            _, names, group = line.split(":", 2)
            own = group if names == controllers else own
    root = _GROUPS / controllers
    inner = root / own.strip("/")
    yield inner
    yield from (folder for folder in inner.parents if folder.is_relative_to(root))
