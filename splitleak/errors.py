"""The errors of our own: one for each case in which a caller acts on the kind of failure.

    ValueError
    └── WireError   bytes that came from outside (a message, a capture, a tensor) are not what they claim to be

Everything else is a built-in exception that says what was expected and what came.
"""


class WireError(ValueError):
    """Bytes from outside cannot be read: a wrong length, datatype, shape, version or checksum."""
