"""The device's app as a service: images in, logits out, over the same protocol that the cloud speaks."""

import contextlib
import logging
from collections.abc import Iterator
from concurrent.futures import Future
from typing import cast

import grpc
import numpy as np
import numpy.typing as npt
from pydantic import Field

from edge.client import EdgeClient, EdgeConfig
from edge.encoder import Encoder
from splitleak.config import Config
from splitleak.wire.pb.open_inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from splitleak.wire.service import ServerConfig, serve
from splitleak.wire.servicer import Answer, OpenInferenceServicer, ServedModel

_LOGGER = logging.getLogger(__name__)


class EdgeServiceConfig(Config):
    """Where the app listens, and the cloud behind it."""

    server: ServerConfig = Field(default_factory=ServerConfig)
    client: EdgeConfig
    max_batch_size: int = Field(default=64, ge=1, description="images in one request, at most")


@contextlib.contextmanager
def edge(config: EdgeServiceConfig, encoder: Encoder, name: str) -> Iterator[int]:
    """Serves model ``name`` while the block runs; yields the bound port; drains the app first, then the client.

    Its input is ``images``, float32 ``(N, C, H, W)`` in [0, 1]; its output is the cloud's. The caller's request id is
    the id on the wire to the cloud, and an answer's ``queue_us`` and ``compute_us`` are the cloud's.

    Raises:
        ConnectionError, LookupError, ValueError: The cloud cannot be reached or does not fit; see `EdgeClient`.
        OSError: The address is taken.
    """
    with EdgeClient(encoder, config.client) as client:

        def submit(images: npt.NDArray[np.float32], request_id: str, timeout_s: float) -> Future[Answer]:
            return cast("Future[Answer]", client.submit(images, request_id, timeout_s))

        model = ServedModel(
            name=name,
            platform="splitleak_edge",
            input_name="images",
            input_shape=encoder.input_shape,
            output_name=client.output_name,
            output_shape=client.output_shape,
            max_batch_size=config.max_batch_size,
            properties={"cloud": config.client.cloud, "codec": config.client.codec},
            submit=submit,
        )
        servicer = OpenInferenceServicer(
            [model], server_name="splitleak-edge", timeout_s=config.client.channel.timeout_s
        )

        def add(server: grpc.Server) -> None:
            add_GRPCInferenceServiceServicer_to_server(servicer, server)

        with serve(add, config.server, drain=servicer.stop) as port:
            _LOGGER.info("edge service %r on port %d, cloud at %s", name, port, config.client.cloud)
            yield port
