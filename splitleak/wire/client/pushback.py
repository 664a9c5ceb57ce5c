"""Calls that are made again when a server says so: one above its rate is refused with the time until the next."""

import time
from collections.abc import Callable
from typing import TypeVar

import grpc

from splitleak.wire.protocol.status import RETRY_PUSHBACK

_LEAST_S = 1e-3

T = TypeVar("T")


def answered(call: Callable[[], T], within_s: float) -> T:
    """What ``call`` gives; it is made again after each wait that a refusal asks for.

    Args:
        call: Raises grpc.RpcError where it is refused.
        within_s: Seconds of all waits together, at most.

    Raises:
        grpc.RpcError: That of the last attempt: it asks for no wait, or for one that is too long.
    """
    left_s = within_s
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            wait_s = _asked_s(error)
            if wait_s is None or wait_s > left_s:
                raise
        left_s -= wait_s
        time.sleep(wait_s)


def _asked_s(error: grpc.RpcError) -> float | None:
    """The seconds to wait; None where a server does not say, or forbids another attempt by a number below 0."""
    told = dict(getattr(error, "trailing_metadata", tuple)() or ()).get(RETRY_PUSHBACK, "")
    if not (isinstance(told, str) and told.isascii() and told.isdigit()):
        return None
    return max(int(told[:12]) / 1000, _LEAST_S)
