"""Exception types, one for each case in which a caller handles a failure by its type, and errors in one line.

    ValueError
    └── WireError   bytes from outside (a message, a capture, a tensor) are malformed

Everything else is a built-in exception whose message says what was expected and what was given.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path


class WireError(ValueError):
    """Bytes from outside cannot be read: a wrong length, datatype, shape, version or checksum."""


@contextlib.contextmanager
def explained(path: Path, expected: str) -> Iterator[None]:
    """Whatever the block raises, reading ``path``, as a ValueError of one line that names it and what it should be.

    For libraries that raise whatever a broken file leads them to. A ValueError that names the file already is kept.
    """
    try:
        yield
    except Exception as error:
        own = isinstance(error, ValueError) and str(error).startswith(f"{path}: ")
        raise ValueError(str(error) if own else f"{path}: expected {expected}, but {said(error)}") from None


def first_line(error: Exception) -> str:
    """What an error of a library says, without its context."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def said(error: BaseException) -> str:
    """An error in one line; one without a message by its name."""
    return " ".join(str(error).split()) or type(error).__name__
