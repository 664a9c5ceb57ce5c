"""Exception types, one for each case in which a caller handles a failure by its type, and errors in one line.

    ValueError
    └── WireError   bytes from outside (a message, a capture, a tensor) are malformed

Everything else is a built-in exception whose message says what was expected and what was given.
"""


class WireError(ValueError):
    """Bytes from outside cannot be read: a wrong length, datatype, shape, version or checksum."""


def said(error: BaseException) -> str:
    """An error in one line; one without a message by its name."""
    return " ".join(str(error).split()) or type(error).__name__
