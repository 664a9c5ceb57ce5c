"""``grpc.health.v1``: a status for each model, and "" for the whole server; NOT_SERVING from the shutdown on.

The servicer of `grpc_health` sends to watchers while it holds the lock that each check takes: a watcher that does not
read would block all checks, and the shutdown.
"""

import threading
from collections.abc import Iterable, Iterator

import grpc
from grpc_health.v1 import health_pb2 as pb  # type: ignore[import-untyped]
from grpc_health.v1 import health_pb2_grpc


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """The health service. Each watcher holds a thread, as an idle stream does."""

    def __init__(self, models: Iterable[str]) -> None:
        self._names = frozenset({"", *models})
        self._lock = threading.Lock()
        self._watchers: set[threading.Event] = set()
        self._stopped = False

    def stop(self) -> None:
        """Reports NOT_SERVING from now on, to watchers too, and ends their streams."""
        with self._lock:
            self._stopped = True
            for ended in self._watchers:
                ended.set()

    def Check(self, request: pb.HealthCheckRequest, context: grpc.ServicerContext) -> pb.HealthCheckResponse:
        if request.service not in self._names:
            context.abort(
                grpc.StatusCode.NOT_FOUND, f"expected a name of {sorted(self._names)}, got {request.service!r:.80}"
            )
        return pb.HealthCheckResponse(status=self._status(request.service))

    def Watch(self, request: pb.HealthCheckRequest, context: grpc.ServicerContext) -> Iterator[pb.HealthCheckResponse]:
        ended = threading.Event()
        with self._lock:
            self._watchers.add(ended)
            if self._stopped:
                ended.set()
        if not context.add_callback(ended.set):
            ended.set()
        try:
            first = self._status(request.service)
            yield pb.HealthCheckResponse(status=first)
            ended.wait()
            if (last := self._status(request.service)) != first:
                yield pb.HealthCheckResponse(status=last)
        finally:
            with self._lock:
                self._watchers.discard(ended)

    def _status(self, service: str) -> int:
        if service not in self._names:
            return int(pb.HealthCheckResponse.SERVICE_UNKNOWN)
        return int(pb.HealthCheckResponse.NOT_SERVING if self._stopped else pb.HealthCheckResponse.SERVING)
