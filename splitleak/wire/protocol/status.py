"""The mapping between exceptions and gRPC statuses, for servers and clients alike."""

import contextlib
import logging
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import grpc

RETRY_PUSHBACK = "grpc-retry-pushback-ms"
"""gRPC's metadata of a refusal, with the milliseconds after which to ask again."""

_MOST_CHARACTERS = 500  # messages may quote the client, and are sent in headers of at most 8 KiB
_TOO_LARGE = ("larger than max", "expected a message of at most")  # as gRPC says it, and as we do
_LOGGER = logging.getLogger(__name__)

_CODES: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
    (ValueError, grpc.StatusCode.INVALID_ARGUMENT),  # WireError is one
    (LookupError, grpc.StatusCode.NOT_FOUND),
    (queue.Full, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (TimeoutError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (ConnectionError, grpc.StatusCode.UNAVAILABLE),
    (PermissionError, grpc.StatusCode.PERMISSION_DENIED),
    (CancelledError, grpc.StatusCode.CANCELLED),
)

_ERRORS: dict[str, type[Exception]] = {code.name: kind for kind, code in _CODES}  # of clients
_ERRORS |= {"CANCELLED": ConnectionError, "UNAUTHENTICATED": PermissionError}


def error_of(call: Any, what: str) -> Exception:  # noqa: ANN401  # grpc's types do not say that an RpcError is a Call
    """The built-in error for a failed call; its message is ``what``, the status and the server's details."""
    return named_error(call.code().name, f"{what}: {call.code().name}: {call.details()}")


def named_error(code: str, message: str) -> Exception:
    """The built-in error for the gRPC status named ``code``; RuntimeError where no client can act on it."""
    return _ERRORS.get(code, RuntimeError)(message)


def too_large(error: object) -> bool:
    """Whether a message was refused for its size, by what the error, or its text, says: smaller ones may pass."""
    return any(words in str(error) for words in _TOO_LARGE)


def status(error: BaseException) -> tuple[grpc.StatusCode, str]:
    """The gRPC status and details for an exception; an internal error is logged with its traceback."""
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
    """Aborts the call with the status of an exception that leaves the block; calls ``ended`` with the status's name."""
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
