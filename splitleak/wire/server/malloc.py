"""Tunes glibc's malloc to reuse large buffers instead of returning each to the kernel."""

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h
_MEBIBYTE = 2**20
_SETTINGS = ((_MMAP_THRESHOLD, 1024 * _MEBIBYTE), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 * _MEBIBYTE))


def keep_big_buffers() -> bool:
    """Has glibc keep freed memory for the rest of this process; returns False without glibc.

    By default glibc maps a buffer of some MiB for each message and unmaps it again, and each time the kernel zeroes its
    pages, which costs more than sending them. The price is resident memory, which stays at its peak.
    """
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  # other C libraries have a mallopt that does nothing
        mallopt = library.mallopt
    except (OSError, TypeError, AttributeError):
        return False
    return all([mallopt(parameter, value) == 1 for parameter, value in _SETTINGS])
