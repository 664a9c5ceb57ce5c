"""Emulation of a slower device: fewer threads and a wait after each computation; not of its caches or throttling.

A device computes twice for a request: it encodes the images, and it packs what it sends into a message. Both are waited
for; to compress a large feature takes longer than a shallow encoder does.
"""

import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from splitleak.edge.encoder import Half
from splitleak.edge.profiles import DeviceProfile

_P = ParamSpec("_P")
_T = TypeVar("_T")
_OVERSHOOT_S = 2e-4  # by about so much a sleep takes longer than it should


class EmulatedHalf:
    """An edge half that takes ``profile.factor`` times as long to encode; its features are unchanged.

    ``factor`` is for who does the rest of the device's work, as `EdgeClient` does with the codec.
    """

    def __init__(self, half: Half, profile: DeviceProfile) -> None:
        self.name, self.input_shape, self.feature_shape = half.name, half.input_shape, half.feature_shape
        self.factor = profile.factor
        self.encode = stretched(half.encode, self.factor)


def stretched(compute: Callable[_P, _T], factor: float) -> Callable[_P, _T]:
    """``compute``, made ``factor`` times as slow by a wait after it, of which the end is not slept."""

    def slower(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        started = time.monotonic()
        result = compute(*args, **kwargs)
        if factor > 1:
            ends = started + factor * (time.monotonic() - started)
            time.sleep(max(ends - time.monotonic() - _OVERSHOOT_S, 0.0))
            while time.monotonic() < ends:
                pass
        return result

    return slower
