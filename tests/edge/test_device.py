"""An emulated device gives what the half gives, later; each profile says what it rests on."""

import time
from types import SimpleNamespace

import numpy as np

from splitleak.edge.device import EmulatedHalf, stretched
from splitleak.edge.profiles import DeviceProfile

WORK_S = 0.05


def compute(rows):
    time.sleep(WORK_S)
    return rows + 1


def test_a_factor_stretches_the_time_and_changes_no_value():
    started = time.monotonic()
    assert stretched(compute, 3)(1) == 2
    assert time.monotonic() - started >= 3 * WORK_S


def test_an_emulated_half_is_the_half_but_for_its_time():
    half = SimpleNamespace(name="toy", input_shape=(1, 2, 2), feature_shape=(1, 2, 2), encode=compute)
    slow = EmulatedHalf(half, DeviceProfile(name="slow", factor=2, threads=1, basis="a test"))
    images = np.zeros((2, 1, 2, 2), np.float32)
    assert (slow.name, slow.input_shape, slow.feature_shape) == ("toy", (1, 2, 2), (1, 2, 2))
    started = time.monotonic()
    np.testing.assert_array_equal(slow.encode(images), images + 1)
    assert time.monotonic() - started >= 2 * WORK_S
