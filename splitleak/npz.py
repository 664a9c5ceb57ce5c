"""Reading an ``.npz`` file of plain arrays: nothing is unpickled, and whatever a broken one leads to is one line."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from splitleak.errors import explained, said

Array = np.ndarray[Any, Any]

# Numpy parses an array's header by `ast`, which in CPython 3.11 takes a parse in another thread for a fault of this one
# (python/cpython#106905): of the jobs of a campaign, one was told that its sound file is none.
one_header = threading.RLock()
"""Held while numpy reads an array, here and wherever else this package has it read one."""

_BOMB = (2**30, 100)  # an array of more bytes than this, and this many times what it takes in the file, is not unpacked


class Arrays:
    """The arrays of an open file, each read when it is asked for; ``names`` are those it has."""

    def __init__(self, file: Any) -> None:  # noqa: ANN401  # numpy's NpzFile
        self._file = file
        self.names: tuple[str, ...] = tuple(file.files)

    def __getitem__(self, name: str) -> Array:
        if name not in self.names:
            raise ValueError(f"it has no {name!r}, only {', '.join(sorted(self.names)) or 'nothing'}")
        least, ratio = _BOMB
        for info in self._file.zip.infolist():
            if info.filename in (name, f"{name}.npy") and info.file_size > max(least, ratio * info.compress_size):
                got = f"{info.file_size:,} from {info.compress_size:,}"
                raise ValueError(f"{name} is to unpack to at most {ratio} times its bytes, not {got}")
        try:
            with one_header:
                return np.asarray(self._file[name])
        except Exception as error:  # numpy raises whatever a broken file leads it to
            raise ValueError(f"{name}: {said(error)}") from None


@contextlib.contextmanager
def open_npz(path: Path, expected: str = "an .npz file of plain arrays") -> Iterator[Arrays]:
    """The arrays of ``path`` while the block reads them.

    Args:
        path: The file.
        expected: What it should be, for messages.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Reading it, or what the block makes of it, fails; one line that names the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected {expected}, but there is no such file")
    with explained(path, expected), path.open("rb") as opened, np.load(_archive(opened), allow_pickle=False) as file:
        yield Arrays(file)


def _archive(opened: IO[bytes]) -> IO[bytes]:
    """``opened`` at its start, if it is no single array, which numpy would load as well."""
    if opened.read(6) == b"\x93NUMPY":
        raise ValueError("it is an .npy file, of one array without a name")
    opened.seek(0)
    return opened
