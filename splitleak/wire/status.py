"""From an exception to a gRPC status: the one place that decides what a client is told."""

import contextlib
import logging
import queue
from collections.abc import Iterator
from concurrent.futures import CancelledError

import grpc

_LOGGER = logging.getLogger(__name__)

_CODES: tuple[tuple[type[BaseException], grpc.StatusCode], ...] = (
    (ValueError, grpc.StatusCode.INVALID_ARGUMENT),  # WireError is one
    (LookupError, grpc.StatusCode.NOT_FOUND),
    (queue.Full, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (TimeoutError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (ConnectionError, grpc.StatusCode.UNAVAILABLE),
    (CancelledError, grpc.StatusCode.CANCELLED),
)


def status(error: BaseException) -> tuple[grpc.StatusCode, str]:
    """The code and the message for a client; an error that is not the client's is logged, with its trace."""
    message = str(error.args[0]) if error.args else type(error).__name__
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code, message
    _LOGGER.error("a request failed", exc_info=error)
    return grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {message}"


@contextlib.contextmanager
def mapped(context: grpc.ServicerContext) -> Iterator[None]:
    """Ends the call with the status of whatever exception leaves the block."""
    try:
        yield
    except Exception as error:
        code, message = status(error)
        context.abort(code, message)
