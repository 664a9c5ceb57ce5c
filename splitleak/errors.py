"""Exception types: one for each case in which a caller handles a failure by its type.

    ValueError
    └── WireError   bytes from outside (a message, a capture, a tensor) are malformed

Everything else is a built-in exception whose message says what was expected and what was given.
"""


class WireError(ValueError):
    """Bytes from outside cannot be read: a wrong length, datatype, shape, version or checksum."""
