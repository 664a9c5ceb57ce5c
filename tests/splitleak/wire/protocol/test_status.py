"""Each kind of error has one gRPC status, and the client reads what was expected and what came."""

import queue
from concurrent.futures import CancelledError

import grpc
import pytest

from splitleak.errors import WireError
from splitleak.wire.protocol.status import named_error, status


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (WireError("expected 4, got 3"), grpc.StatusCode.INVALID_ARGUMENT),
        (ValueError("expected 4, got 3"), grpc.StatusCode.INVALID_ARGUMENT),
        (LookupError("expected 4, got 3"), grpc.StatusCode.NOT_FOUND),
        (KeyError("expected 4, got 3"), grpc.StatusCode.NOT_FOUND),
        (queue.Full("expected 4, got 3"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (TimeoutError("expected 4, got 3"), grpc.StatusCode.DEADLINE_EXCEEDED),
        (ConnectionError("expected 4, got 3"), grpc.StatusCode.UNAVAILABLE),
        (CancelledError("expected 4, got 3"), grpc.StatusCode.CANCELLED),
        (PermissionError("expected 4, got 3"), grpc.StatusCode.PERMISSION_DENIED),
    ],
)
def test_an_error_that_a_client_can_act_on_keeps_its_message(error, code, caplog):
    assert status(error) == (code, "expected 4, got 3")
    assert not caplog.records


def test_an_error_without_a_message_is_named():
    assert status(queue.Full()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "Full")


def test_an_error_of_our_own_making_is_internal_and_logged(caplog):
    assert status(ZeroDivisionError("oops")) == (grpc.StatusCode.INTERNAL, "ZeroDivisionError: oops")
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]


@pytest.mark.parametrize("error", [ValueError, LookupError, queue.Full, TimeoutError, ConnectionError, PermissionError])
def test_what_a_server_raises_is_what_its_client_raises(error):
    code, _ = status(error("expected 4, got 3"))
    found = named_error(code.name, "what: expected 4, got 3")
    assert type(found) is error
    assert str(found) == "what: expected 4, got 3"


def test_what_no_client_can_act_on_is_a_runtime_error():
    assert type(named_error("INTERNAL", "oops")) is RuntimeError


def test_a_client_that_showed_no_token_raises_a_permission_error():
    assert type(named_error("UNAUTHENTICATED", "who are you")) is PermissionError


def test_a_message_fits_the_header_that_it_travels_in():
    _, message = status(ValueError("expected less, got " + 100_000 * "ü"))
    assert message.startswith("expected less, got ü")
    assert len(message) < 600
