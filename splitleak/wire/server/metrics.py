"""A server's metrics for Prometheus, over HTTP on a port of their own."""

import contextlib
import itertools
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from splitleak.wire.address import parse_address
from splitleak.wire.server.statistics import Counts, Histogram, Statistics

_STOP_S = 5.0


class ModelCollector(Collector):
    """The metrics of each model, collected when Prometheus asks, so that they cost nothing in between.

    ``splitleak_requests_total`` by method and status, ``splitleak_queue_depth``, ``splitleak_batch_rows``,
    ``splitleak_queue_seconds``, ``splitleak_compute_seconds``, ``splitleak_received_bytes_total`` and
    ``splitleak_sent_bytes_total``, in bytes of tensors. Requests for models that are not served have the model "".
    """

    def __init__(self, statistics: Mapping[str, Statistics]) -> None:
        self._statistics = statistics

    def collect(self) -> Iterator[Metric]:
        counted = {name: statistics.snapshot() for name, statistics in self._statistics.items()}
        served = {name: counts for name, counts in counted.items() if name}
        requests = CounterMetricFamily(
            "splitleak_requests", "Inference requests answered or failed.", labels=("model", "method", "status")
        )
        for name, counts in counted.items():
            for (method, status), count in counts.requests.items():
                requests.add_metric((name, method, status), count)
        depth = GaugeMetricFamily("splitleak_queue_depth", "Requests that wait to be computed.", labels=("model",))
        for name, statistics in self._statistics.items():
            if statistics.waiting is not None:
                depth.add_metric((name,), statistics.waiting())
        received = CounterMetricFamily("splitleak_received_bytes", "Bytes of tensors received.", labels=("model",))
        sent = CounterMetricFamily("splitleak_sent_bytes", "Bytes of tensors sent.", labels=("model",))
        for name, counts in served.items():
            received.add_metric((name,), counts.bytes_in)
            sent.add_metric((name,), counts.bytes_out)
        yield from (requests, depth, *_histograms(served), received, sent)


@contextlib.contextmanager
def serve_metrics(address: str, statistics: Mapping[str, Statistics]) -> Iterator[int]:
    """Serves the metrics on ``address`` (``host:port``) while the block runs; yields the bound port.

    Raises:
        OSError: The address cannot be bound.
        ValueError: ``address`` is none.
    """
    registry = CollectorRegistry()
    registry.register(ModelCollector(statistics))
    host, port = parse_address(address, listening=True)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise OSError(f"expected a free address for the metrics, got {address}: {error}") from None
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(_STOP_S)


def _histograms(served: Mapping[str, Counts]) -> Iterator[HistogramMetricFamily]:
    rows = HistogramMetricFamily("splitleak_batch_rows", "Rows computed together.", labels=("model",))
    queue = HistogramMetricFamily("splitleak_queue_seconds", "How long a request waited.", labels=("model",))
    compute = HistogramMetricFamily("splitleak_compute_seconds", "How long the model took.", labels=("model",))
    for name, counts in served.items():
        for family, values in ((rows, counts.batch_rows), (queue, counts.queue_s), (compute, counts.compute_s)):
            family.add_metric((name,), _buckets(values), values.total)
    yield from (rows, queue, compute)


def _buckets(values: Histogram) -> list[tuple[str, float]]:
    """Prometheus's cumulative buckets: how many values were at most each bound."""
    bounds = (*map(str, values.bounds), "+Inf")
    return list(zip(bounds, map(float, itertools.accumulate(values.counts)), strict=True))
