"""A model's answer to one request: as the server computes it, and as a client receives it."""

from dataclasses import dataclass
from typing import Any, Self

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
    one clock is compared with one of the other. ``network_us`` is the round trip (from handing the message to gRPC
    until the response's bytes are there) less ``queue_us`` and ``compute_us``, at least 0: it includes both ends' gRPC
    work, and the server's decoding and encoding. ``total_us`` is encode + serialise + round trip. Waiting for the
    encoder, and for a free slot in the window, is the caller's load and not the chain's latency: neither is included.
    Of a request that was sent more than once (``sends``), the last attempt counts.
    """

    request_id: str
    serialise_us: int
    network_us: int
    total_us: int
    sent_bytes: int  # the message as handed to gRPC: tensor, shape, names and parameters
    payload_sha256: str  # of the tensor's raw bytes as sent
    encode_us: int = 0
    sends: int = 1  # how often the same bytes were handed to gRPC

    @classmethod
    def of(
        cls,
        output: FloatArray,
        response: Any,  # noqa: ANN401  # a ModelInferResponse
        *,
        request_id: str,
        serialise_us: int,
        round_trip_us: int,
        sent_bytes: int,
        payload_sha256: str,
        encode_us: int = 0,
        sends: int = 1,
    ) -> Self:
        """The prediction in ``response``, whose decoded output is ``output``; the other arguments are as the fields."""
        queue_us, compute_us = (max(response.parameters[key].int64_param, 0) for key in ("queue_us", "compute_us"))
        return cls(
            output=output,
            queue_us=queue_us,
            compute_us=compute_us,
            request_id=request_id,
            serialise_us=serialise_us,
            network_us=max(round_trip_us - queue_us - compute_us, 0),
            total_us=encode_us + serialise_us + round_trip_us,
            sent_bytes=sent_bytes,
            payload_sha256=payload_sha256,
            encode_us=encode_us,
            sends=sends,
        )
