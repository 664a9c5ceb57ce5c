"""The C library's memory: big buffers are kept for the next message, where glibc would give each back to the kernel."""

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h
_MEBIBYTE = 2**20
_SETTINGS = ((_MMAP_THRESHOLD, 1024 * _MEBIBYTE), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 * _MEBIBYTE))


def keep_big_buffers() -> bool:
    """Has glibc keep what is freed, for the rest of this process; returns whether it does, False without glibc.

    A message of some MiB is a buffer that glibc maps for itself and unmaps again; each time the kernel clears its pages
    one by one, which costs more than sending them. The price is resident memory: what was needed once stays.
    """
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  # other C libraries have a mallopt that does nothing
        mallopt = library.mallopt
    except (OSError, TypeError, AttributeError):
        return False
    return all([mallopt(parameter, value) == 1 for parameter, value in _SETTINGS])
