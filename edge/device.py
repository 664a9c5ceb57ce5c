"""A slower device, emulated: few threads, and after each computation a wait. It says nothing of caches or of heat."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from splitleak.config import Config
from splitleak.edge.encoder import Encoder

_P = ParamSpec("_P")
_T = TypeVar("_T")


class DeviceProfile(Config):
    """How a device differs from this machine; every figure is an assumption, for the reason in ``basis``."""

    name: str = Field(min_length=1)
    factor: float = Field(ge=1, description="how much longer one core of it takes than one core of this machine")
    threads: int = Field(ge=1, description="threads that compute, at most")
    basis: str = Field(min_length=1, description="where threads and factor come from")


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


class Half(Encoder, Protocol):
    """An encoder with a name."""

    @property
    def name(self) -> str: ...


@dataclass(frozen=True)
class EmulatedHalf:
    """An edge half that takes ``profile.factor`` times as long to encode; what it gives is unchanged."""

    half: Half
    profile: DeviceProfile

    @property
    def name(self) -> str:
        return self.half.name

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.half.input_shape

    @property
    def feature_shape(self) -> tuple[int, ...]:
        return self.half.feature_shape

    def encode(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Images ``(N, C, H, W)`` to features ``(N, *feature_shape)``, late."""
        return stretched(self.half.encode, self.profile.factor)(images)


def stretched(compute: Callable[_P, _T], factor: float) -> Callable[_P, _T]:
    """``compute``, followed by a wait of ``factor - 1`` times what it took, in which it uses no processor."""

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
        ValueError: There is none.
    """
    if name not in DEVICES:
        raise ValueError(f"expected a device profile of {', '.join(DEVICES)}, got {name!r}")
    return DEVICES[name]
