"""Emulation of a slower device: fewer threads and a wait after each computation; not of its caches or throttling."""

import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from splitleak.edge.encoder import Half
from splitleak.edge.profiles import DeviceProfile

_P = ParamSpec("_P")
_T = TypeVar("_T")


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
