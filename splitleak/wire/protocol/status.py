"""From an exception to a gRPC status and back: the one place that decides what a client is told, and what it raises."""

import contextlib
import logging
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import grpc

_MOST_CHARACTERS = 500  # a client's own words come back in messages, which travel in headers of 8 KiB
_LOGGER = logging.getLogger(__name__)

_CODES: tuple[tuple[type[BaseException], grpc.StatusCode], ...] = (
    (ValueError, grpc.StatusCode.INVALID_ARGUMENT),  # WireError is one
    (LookupError, grpc.StatusCode.NOT_FOUND),
    (queue.Full, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (TimeoutError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (ConnectionError, grpc.StatusCode.UNAVAILABLE),
    (PermissionError, grpc.StatusCode.PERMISSION_DENIED),
    (CancelledError, grpc.StatusCode.CANCELLED),
)

_ERRORS: dict[str, type[Exception]] = {  # the inverse
    "INVALID_ARGUMENT": ValueError,
    "NOT_FOUND": LookupError,
    "DEADLINE_EXCEEDED": TimeoutError,
    "UNAVAILABLE": ConnectionError,
    "CANCELLED": ConnectionError,
    "RESOURCE_EXHAUSTED": queue.Full,
    "PERMISSION_DENIED": PermissionError,
    "UNAUTHENTICATED": PermissionError,
}


def error_of(call: Any, what: str) -> Exception:  # noqa: ANN401  # grpc's types do not say that an RpcError is a Call
    """The built-in error for a failed call; its message names ``what`` failed, the status and the server's words."""
    return named_error(call.code().name, f"{what}: {call.code().name}: {call.details()}")


def named_error(code: str, message: str) -> Exception:
    """The built-in error for a gRPC status by its name; RuntimeError for one that no client can act on."""
    return _ERRORS.get(code, RuntimeError)(message)


def status(error: BaseException) -> tuple[grpc.StatusCode, str]:
    """The code and the message for a client; an error that is not the client's is logged, with its trace."""
    message = str(error.args[0]) if error.args else type(error).__name__
    if len(message) > _MOST_CHARACTERS:
        message = f"{message[:_MOST_CHARACTERS]} ..."
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code, message
    _LOGGER.error("a request failed", exc_info=error)
    return grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {message}"


@contextlib.contextmanager
def mapped(context: grpc.ServicerContext, ended: Callable[[str], None] | None = None) -> Iterator[None]:
    """Ends the call with the status of whatever exception leaves the block; tells ``ended`` the status' name."""
    try:
        yield
    except Exception as error:
        code, message = status(error)
        if ended is not None:
            ended(code.name)
        context.abort(code, message)
    else:
        if ended is not None:
            ended(grpc.StatusCode.OK.name)
