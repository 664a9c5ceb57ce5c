"""A model's answer to one request: as the server computes it, and as a client receives it."""

from dataclasses import dataclass
from typing import Any

from splitleak.wire.protocol.codec import FloatArray


@dataclass(frozen=True)
class Answer:
    """What a model gave for one request."""

    output: FloatArray  # (N, *output_shape)
    queue_us: int  # microseconds the request waited to be computed
    compute_us: int  # microseconds its batch took


@dataclass(frozen=True)
class Prediction(Answer):
    """A server's answer to one request, and the latency of each part. All durations are whole microseconds.

    ``encode_us`` (0 for a client without an encoder) and ``serialise_us`` (codec and message) are read off the client's
    monotonic clock; ``queue_us`` and ``compute_us`` are the server's own durations, 0 if it reports none. No instant of
    one clock is compared with one of the other. ``round_trip_us`` runs from handing the message to gRPC until the
    response's bytes are there; of a request that was sent more than once (``sends``), the last attempt counts. Waiting
    for the encoder or for the window is the caller's load, not the chain's latency, and is not included.
    """

    request_id: str
    serialise_us: int
    round_trip_us: int
    sent_bytes: int  # the message as handed to gRPC, or the body over HTTP: tensor, shape, names and parameters
    payload_sha256: str  # of the tensor's raw bytes as sent
    encode_us: int = 0
    sends: int = 1  # how often the same bytes were handed to gRPC

    @property
    def network_us(self) -> int:
        """The round trip less the server's durations, at least 0: includes gRPC, and the server's codec."""
        return max(self.round_trip_us - self.queue_us - self.compute_us, 0)

    @property
    def total_us(self) -> int:
        return self.encode_us + self.serialise_us + self.round_trip_us


def server_durations(response: Any) -> dict[str, int]:  # noqa: ANN401  # a ModelInferResponse
    """``queue_us`` and ``compute_us`` as the server reports them, 0 if it does not."""
    return {key: max(response.parameters[key].int64_param, 0) for key in ("queue_us", "compute_us")}
