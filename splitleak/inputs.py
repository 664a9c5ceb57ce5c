"""Inputs of one command that must differ from each other."""

from collections.abc import Iterable
from pathlib import Path


def check_different(paths: Iterable[Path], what: str) -> None:
    """Validates that no file or folder is given twice, by whatever name or link.

    Args:
        paths: Files or folders that are there.
        what: They are, for the message.

    Raises:
        FileNotFoundError: One is not there.
        ValueError: Two are one.
    """
    known: dict[tuple[int, int], Path] = {}
    for path in paths:
        found = path.stat()
        first = known.get(own := (found.st_dev, found.st_ino))
        if first is not None:
            raise ValueError(f"expected different {what}, got {first} twice" + f", as {path} too" * (first != path))
        known[own] = path
