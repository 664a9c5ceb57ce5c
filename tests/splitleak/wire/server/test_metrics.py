"""Prometheus's own parser reads from our port what was counted, and a server's metrics are its own."""

import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from splitleak.wire.server.metrics import serve_metrics
from splitleak.wire.server.server import ServerConfig, serve
from splitleak.wire.server.statistics import Statistics

WAIT_S = 10


def scraped(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WAIT_S) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def labels(**given):
    return tuple(sorted(given.items()))


def test_what_was_counted_is_told():
    nobody, statistics = Statistics(), Statistics(waiting=lambda: 3)
    statistics.computed(8, [1_000_000, 30_000_000], 2_000_000)
    statistics.computed(1, [0], 20_000_000_000)
    statistics.received(100)
    statistics.sent(7)
    statistics.ended("ModelInfer", "OK", 1)
    statistics.ended("ModelInfer", "OK", 1)
    statistics.ended("ModelStreamInfer", "INVALID_ARGUMENT", 1)
    nobody.ended("ModelInfer", "NOT_FOUND", 1)
    with serve_metrics("127.0.0.1:0", {"": nobody, "m": statistics}) as port:
        found = scraped(port)
    requests = "splitleak_requests_total"
    assert found[requests, labels(model="m", method="ModelInfer", status="OK")] == 2
    assert found[requests, labels(model="m", method="ModelStreamInfer", status="INVALID_ARGUMENT")] == 1
    assert found[requests, labels(model="", method="ModelInfer", status="NOT_FOUND")] == 1
    assert found["splitleak_queue_depth", labels(model="m")] == 3
    assert found["splitleak_received_bytes_total", labels(model="m")] == 100
    assert found["splitleak_sent_bytes_total", labels(model="m")] == 7
    assert [found["splitleak_batch_rows_bucket", labels(model="m", le=le)] for le in ("1.0", "4.0", "8.0", "+Inf")] == [
        1,
        1,
        2,
        2,
    ]
    assert found["splitleak_batch_rows_sum", labels(model="m")] == 9
    assert found["splitleak_queue_seconds_count", labels(model="m")] == 3
    assert found["splitleak_queue_seconds_sum", labels(model="m")] == pytest.approx(0.031)
    assert found["splitleak_compute_seconds_bucket", labels(model="m", le="10.0")] == 1
    assert found["splitleak_compute_seconds_count", labels(model="m")] == 2
    assert {dict(key[1])["model"] for key in found if key[0] != requests} == {"m"}


@pytest.mark.slow
def test_two_servers_do_not_mix_and_a_stopped_one_is_gone():
    first, second = Statistics(), Statistics()
    first.received(5)
    key = "splitleak_received_bytes_total", labels(model="m")
    with serve_metrics("127.0.0.1:0", {"m": first}) as one, serve_metrics("127.0.0.1:0", {"m": second}) as other:
        assert (scraped(one)[key], scraped(other)[key]) == (5, 0)
    with pytest.raises(urllib.error.URLError):
        scraped(one)


def test_a_taken_address_is_an_error_that_names_it():
    with (
        serve_metrics("127.0.0.1:0", {}) as port,
        pytest.raises(OSError, match=f"expected a free address for the metrics, got 127.0.0.1:{port}"),
    ):
        serve_metrics(f"127.0.0.1:{port}", {}).__enter__()


@pytest.mark.parametrize("address", ["9100", "host", ":9100", "host:", "host:http"])
def test_an_address_without_host_or_port_is_refused(address):
    with pytest.raises(ValueError, match="metrics"):
        ServerConfig(metrics=address)


def test_a_service_that_counts_nothing_has_no_metrics():
    with pytest.raises(ValueError, match="this service has none"):
        serve(lambda server: None, ServerConfig(metrics="127.0.0.1:0")).__enter__()


@pytest.mark.slow
def test_metrics_that_other_machines_reach_are_warned_of(caplog):
    for address, warnings in (("127.0.0.1:0", 0), ("0.0.0.0:0", 1)):
        with serve(lambda server: None, ServerConfig(metrics=address), statistics={}):
            pass
        assert caplog.text.count(f"metrics on {address} have no access control") == warnings
