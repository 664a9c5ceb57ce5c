import ctypes
import platform
import subprocess
import sys

import pytest

from splitleak.wire.server.malloc import keep_big_buffers

# Faults of 50 buffers of 2 MiB, each filled: the kernel gives one page of 4 KiB a fault.
COUNTED = """
import ctypes, resource
from splitleak.wire.server.malloc import keep_big_buffers
{call}
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def fill():
    buffer = libc.malloc(2**21)
    kept = libc.malloc(64)
    ctypes.memset(buffer, 1, 2**21)
    libc.free(buffer)
    libc.free(kept)
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(call):
    made = subprocess.run(
        [sys.executable, "-c", COUNTED.format(call=call)], capture_output=True, text=True, timeout=60, check=True
    )
    return int(made.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library has no such settings")
def test_a_buffer_that_is_used_again_costs_no_new_pages():
    assert faults("assert keep_big_buffers()") < 50


def test_another_c_library_is_left_alone(monkeypatch):
    class Other:
        """Has no gnu_get_libc_version, as musl has not."""

        def mallopt(self, parameter, value):
            raise AssertionError("called")

        def __getattribute__(self, name):
            if name == "mallopt":
                return object.__getattribute__(self, name)
            raise AttributeError(name)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Other())
    assert not keep_big_buffers()


def test_a_system_without_a_c_library_to_name_is_left_alone(monkeypatch):
    def refuse(name):
        raise TypeError("expected a name")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert not keep_big_buffers()
