"""Code of the user's own, named on the command line as ``module:attribute``. It is run, at the user's word."""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import nn

M = TypeVar("M", bound="nn.Module")


@contextlib.contextmanager
def current_folder_first() -> Iterator[None]:
    """Modules in the current folder are found first while the block runs."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the user's code may have tidied up itself
            sys.path.remove(here)


def load_attribute(address: str, what: str, *, here: bool = True) -> object:
    """What stands at ``module:attribute``. That code is run, so the address is to be the user's own word.

    Args:
        address: The attribute may have dots: ``package.module:Class.method``.
        what: What it is expected to be, for the message.
        here: Whether the module is looked for in the current folder too, and first there.

    Raises:
        ValueError: ``address`` is something else, there is no such module or attribute, or the module fails.
    """
    name, colon, attribute = address.partition(":")
    if not (name and colon and attribute):
        raise ValueError(f"expected module:callable, got {address!r}")
    with current_folder_first() if here else contextlib.nullcontext():
        try:
            found: object = importlib.import_module(name)
            for part in attribute.split("."):
                found = getattr(found, part)
        except Exception as error:  # whatever the user's code raises
            raise ValueError(f"expected {what} at {address}, but {reason(error)}") from None
    return found


def reason(error: Exception) -> str:
    """An exception of the user's code in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"


def in_eval_mode(module: M) -> M:
    """``module`` in eval mode; what `torch.export` gives, which has no other, in the mode that it was exported in."""
    with contextlib.suppress(NotImplementedError):
        module.eval()
    return module
