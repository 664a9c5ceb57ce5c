"""A lock on an open file, which ends with its process: ``flock``, or on Windows a lock on one byte of the file.

The byte lies where no file of ours has one that matters (just below 2 GiB), since Windows lets nobody else read what is
locked. Unlike ``flock``, that lock is not shared with child processes.
"""

import errno
import os

_BYTE = 2**31 - 2

try:
    from fcntl import LOCK_EX, LOCK_NB, flock

    def lock_file(descriptor: int) -> None:
        """Locks an open file until it is closed.

        Raises:
            BlockingIOError: Another process, or another opening of the file, holds the lock.
        """
        flock(descriptor, LOCK_EX | LOCK_NB)

except ImportError:  # Windows
    from msvcrt import LK_NBLCK, locking  # type: ignore[attr-defined]  # there, which is not where types are checked

    def lock_file(descriptor: int) -> None:
        before = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.lseek(descriptor, _BYTE, os.SEEK_SET)
        try:
            locking(descriptor, LK_NBLCK, 1)
        except OSError:
            raise BlockingIOError(errno.EAGAIN, "expected a file that nobody holds, got one that is held") from None
        finally:
            os.lseek(descriptor, before, os.SEEK_SET)
