"""Health is told for each name, changes at the stop, and neither watchers nor strangers hold anything up."""

import contextlib
import threading
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from splitleak.wire.client.channel import ChannelConfig, connect
from splitleak.wire.server.health import Health
from splitleak.wire.server.server import ServerConfig, serve

WAIT_S = 10
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def adding(health):
    return lambda server: health_pb2_grpc.add_HealthServicer_to_server(health, server)


@contextlib.contextmanager
def stub_of(health):
    with (
        serve(adding(health), ServerConfig(), drain=lambda _: health.stop()) as port,
        connect(f"127.0.0.1:{port}", ChannelConfig()) as channel,
    ):
        yield health_pb2_grpc.HealthStub(channel)


def asked(name):
    return health_pb2.HealthCheckRequest(service=name)


def test_each_model_and_the_server_are_serving_until_the_stop():
    health = Health(["a", "b"])
    with stub_of(health) as stub:
        assert [stub.Check(asked(name), timeout=WAIT_S).status for name in ("", "a", "b")] == [SERVING] * 3
        health.stop()
        assert [stub.Check(asked(name), timeout=WAIT_S).status for name in ("", "a", "b")] == [NOT_SERVING] * 3


def test_a_name_that_nobody_has_is_not_found():
    with stub_of(Health(["a"])) as stub:
        with pytest.raises(grpc.RpcError, match="expected a name of") as caught:
            stub.Check(asked("x"), timeout=WAIT_S)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        watching = stub.Watch(asked("x"), timeout=WAIT_S)
        assert next(watching).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watching.cancel()


def test_a_watcher_is_told_of_the_stop_and_does_not_hold_it_up():
    health = Health(["a"])
    with contextlib.ExitStack() as stack:
        with serve(adding(health), ServerConfig(grace_s=WAIT_S), drain=lambda _: health.stop()) as port:
            channel = stack.enter_context(connect(f"127.0.0.1:{port}", ChannelConfig()))
            watching = health_pb2_grpc.HealthStub(channel).Watch(asked("a"), timeout=2 * WAIT_S)
            assert next(watching).status == SERVING
            began = time.monotonic()
        assert time.monotonic() - began < WAIT_S / 2
        assert [each.status for each in watching] == [NOT_SERVING]
    assert watching.code() is grpc.StatusCode.OK


def test_a_watcher_that_vanishes_is_forgotten():
    health = Health(["a"])
    with stub_of(health) as stub:
        watching = stub.Watch(asked("a"))
        next(watching)
        (over,) = health._watchers
        watching.cancel()
        assert over.wait(WAIT_S)
    for handler in [each for each in threading.enumerate() if each.name.startswith("rpc")]:
        handler.join(WAIT_S)
    assert not health._watchers
