"""``grpc.health.v1``: one name a model, "" for the whole server; nobody is serving from the stop on.

The package's own servicer sends to its watchers under the lock that each check takes, so a watcher that does not read
would silence it, and its watchers hold up the stop.
"""

import threading
from collections.abc import Iterable, Iterator

import grpc
from grpc_health.v1 import health_pb2 as pb  # type: ignore[import-untyped]
from grpc_health.v1 import health_pb2_grpc


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Answers from two flags; a watcher holds a thread, as an idle stream does."""

    def __init__(self, models: Iterable[str]) -> None:
        self._names = frozenset({"", *models})
        self._lock = threading.Lock()
        self._watchers: set[threading.Event] = set()
        self._stopped = False

    def stop(self) -> None:
        """Says NOT_SERVING to all who ask and to all who watch, and ends the watching."""
        with self._lock:
            self._stopped = True
            for over in self._watchers:
                over.set()

    def Check(self, request: pb.HealthCheckRequest, context: grpc.ServicerContext) -> pb.HealthCheckResponse:
        if request.service not in self._names:
            context.abort(
                grpc.StatusCode.NOT_FOUND, f"expected a name of {sorted(self._names)}, got {request.service!r:.80}"
            )
        return pb.HealthCheckResponse(status=self._status(request.service))

    def Watch(self, request: pb.HealthCheckRequest, context: grpc.ServicerContext) -> Iterator[pb.HealthCheckResponse]:
        over = threading.Event()
        with self._lock:
            self._watchers.add(over)
            if self._stopped:
                over.set()
        if not context.add_callback(over.set):
            over.set()
        try:
            told = self._status(request.service)
            yield pb.HealthCheckResponse(status=told)
            over.wait()
            if (last := self._status(request.service)) != told:
                yield pb.HealthCheckResponse(status=last)
        finally:
            with self._lock:
                self._watchers.discard(over)

    def _status(self, service: str) -> int:
        if service not in self._names:
            return int(pb.HealthCheckResponse.SERVICE_UNKNOWN)
        return int(pb.HealthCheckResponse.NOT_SERVING if self._stopped else pb.HealthCheckResponse.SERVING)
