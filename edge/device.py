"""Emulation of a slower device: fewer threads and a wait after each computation; not of its caches or throttling."""

import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from pydantic import Field

from splitleak.config import Config
from splitleak.edge.encoder import Half

_P = ParamSpec("_P")
_T = TypeVar("_T")


class DeviceProfile(Config):
    """A device relative to this machine; every figure is an assumption, explained in ``basis``."""

    name: str = Field(min_length=1)
    factor: float = Field(ge=1, description="how many times as long one of its cores takes as one of this machine")
    threads: int = Field(ge=1, description="most compute threads")
    basis: str = Field(min_length=1, description="source of threads and factor")


_SERVER = "this machine's core is assumed to reach 1500 points of Geekbench 6, as server cores of 2021 do"
DEVICES = {
    profile.name: profile
    for profile in (
        DeviceProfile(
            name="raspberry-pi-4",
            factor=5,
            threads=4,
            basis=f"4 Cortex-A72 at 1.8 GHz (Raspberry Pi Ltd); about 300 points a core, our assumption; {_SERVER}",
        ),
        DeviceProfile(
            name="raspberry-pi-5",
            factor=2.2,
            threads=4,
            basis="4 Cortex-A76 at 2.4 GHz (Raspberry Pi Ltd); 2.3 times a Raspberry Pi 4 by sysbench (zbotic.in)",
        ),
        DeviceProfile(
            name="phone",
            factor=1.5,
            threads=2,
            basis=f"a middle-class phone of 2023, 900 to 1050 points a core (reviews), two big cores; {_SERVER}",
        ),
    )
}


class EmulatedHalf:
    """An edge half that takes ``profile.factor`` times as long to encode; its features are unchanged."""

    def __init__(self, half: Half, profile: DeviceProfile) -> None:
        self.name, self.input_shape, self.feature_shape = half.name, half.input_shape, half.feature_shape
        self.encode = stretched(half.encode, profile.factor)


def stretched(compute: Callable[_P, _T], factor: float) -> Callable[_P, _T]:
    """``compute``, made ``factor`` times as slow by sleeping after it."""

    def slower(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        started = time.monotonic()
        result = compute(*args, **kwargs)
        if factor > 1:
            time.sleep((factor - 1) * (time.monotonic() - started))
        return result

    return slower


def device_profile(name: str) -> DeviceProfile:
    """The profile called ``name``.

    Raises:
        ValueError: There is no such profile.
    """
    if name not in DEVICES:
        raise ValueError(f"expected a device profile of {', '.join(DEVICES)}, got {name!r}")
    return DEVICES[name]
