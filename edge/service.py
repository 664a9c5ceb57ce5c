"""The edge as a service: images in, logits out, over the Open Inference Protocol."""

import contextlib
import functools
import logging
from collections.abc import Iterator
from concurrent.futures import Future
from typing import cast

import numpy as np
import numpy.typing as npt
from pydantic import Field

from splitleak.config import Config
from splitleak.edge.client import EdgeClient, EdgeConfig
from splitleak.edge.encoder import Encoder
from splitleak.wire.protocol.answer import Answer
from splitleak.wire.server.model import ServedModel
from splitleak.wire.server.server import ServerConfig, serve
from splitleak.wire.server.servicer import OpenInferenceServicer
from splitleak.wire.server.statistics import Statistics

_LOGGER = logging.getLogger(__name__)


class EdgeServiceConfig(Config):
    """Where the edge listens, and the cloud behind it."""

    server: ServerConfig = Field(default_factory=ServerConfig)
    client: EdgeConfig
    max_batch_size: int = Field(default=64, ge=1, description="most images in one request")


@contextlib.contextmanager
def edge(config: EdgeServiceConfig, encoder: Encoder, name: str) -> Iterator[int]:
    """Serves the split model while the block runs; yields the bound port; on exit drains server, then client.

    Its input is ``images``, float32 ``(N, C, H, W)`` in [0, 1]; its output is the cloud's. The caller's request id is
    used towards the cloud too. ``queue_us``, ``compute_us`` and the statistics report the cloud's durations, with each
    request as an execution of its own.

    Args:
        config: Where it listens, and the cloud.
        encoder: The device's half.
        name: The name under which the model is served.

    Raises:
        ConnectionError, LookupError, ValueError: The cloud cannot be reached or does not fit; see `EdgeClient`.
        OSError: The address is in use.
    """
    statistics = Statistics()
    with EdgeClient(encoder, config.client) as client:

        def submit(images: npt.NDArray[np.float32], request_id: str, timeout_s: float) -> Future[Answer]:
            answer = cast("Future[Answer]", client.submit(images, request_id, timeout_s))
            answer.add_done_callback(functools.partial(_computed, statistics, len(images)))
            return answer

        model = ServedModel(
            name=name,
            platform="splitleak_edge",
            input_name="images",
            input_shape=encoder.input_shape,
            output_name=client.agreement.output_name,
            output_shape=client.agreement.output_shape,
            max_batch_size=config.max_batch_size,
            codecs=("fp32",),
            properties={"cloud": config.client.cloud, "codec": config.client.codec},
            submit=submit,
            statistics=statistics,
        )
        limit_s = config.client.channel.timeout_s
        held_bytes = config.server.limits.held_bytes
        servicer = OpenInferenceServicer(
            [model], server_name="splitleak-edge", timeout_s=limit_s, held_bytes=held_bytes
        )
        with serve(
            servicer.add_to,
            config.server,
            drain=servicer.drain,
            statistics=servicer.statistics,
            request_bytes=servicer.request_bytes,
        ) as port:
            _LOGGER.info("edge service %r on port %d, cloud at %s", name, port, config.client.cloud)
            yield port


def _computed(statistics: Statistics, rows: int, answer: Future[Answer]) -> None:
    if not answer.cancelled() and answer.exception() is None:
        prediction = answer.result()
        statistics.computed(rows, [1000 * prediction.queue_us], 1000 * prediction.compute_us)
