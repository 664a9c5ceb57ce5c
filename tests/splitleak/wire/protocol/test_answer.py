"""A prediction splits its latency by the server's own durations."""

import numpy as np
import pytest

from splitleak.wire.protocol.answer import Prediction, server_durations
from splitleak.wire.protocol.pb import open_inference_pb2 as pb

OUTPUT = np.zeros((1, 3), np.float32)


def prediction(round_trip_us, **durations):
    response = pb.ModelInferResponse()
    for name, value in durations.items():
        response.parameters[name].int64_param = value
    return Prediction(
        output=OUTPUT,
        **server_durations(response),
        request_id="a",
        serialise_us=20,
        round_trip_us=round_trip_us,
        sent_bytes=9,
        payload_sha256="0" * 64,
        encode_us=10,
    )


@pytest.mark.parametrize(
    ("durations", "parts"),
    [
        ({}, (100, 0, 0)),
        ({"queue_us": 30, "compute_us": 50}, (20, 30, 50)),
        ({"queue_us": 300, "compute_us": 50}, (0, 300, 50)),  # its clock runs faster
        ({"queue_us": -30, "compute_us": 50}, (50, 0, 50)),
    ],
)
def test_the_network_is_the_round_trip_less_what_the_server_reports(durations, parts):
    made = prediction(100, **durations)
    assert (made.network_us, made.queue_us, made.compute_us) == parts
    assert made.total_us == 10 + 20 + 100
    assert made.output is OUTPUT
    assert made.sends == 1
