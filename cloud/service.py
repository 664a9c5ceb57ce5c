"""The cloud: an inference server for one half of a split network, honest or curious."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from cloud.batching import BatchingConfig, ComputeWorker
from cloud.repository import Half, served_model
from splitleak.config import Config
from splitleak.wire.captures import CaptureWriter
from splitleak.wire.pb.open_inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from splitleak.wire.service import ServerConfig, serve
from splitleak.wire.servicer import OpenInferenceServicer

_LOGGER = logging.getLogger(__name__)


class CloudConfig(Config):
    """Where the cloud listens, how it computes, and whether it keeps what it is sent."""

    server: ServerConfig = Field(default_factory=ServerConfig)
    batching: BatchingConfig = Field(default_factory=BatchingConfig)
    timeout_s: float = Field(
        default=30.0, gt=0, description="the longest a request may take, whatever its client allows"
    )
    in_flight: int = Field(
        default=8, ge=1, description="unanswered requests of one stream before it is read no further"
    )
    capture: Path | None = Field(default=None, description="the curious cloud: the capture of all inference messages")


@contextlib.contextmanager
def cloud(config: CloudConfig, half: Half) -> Iterator[int]:
    """Serves ``half`` under its name while the block runs; yields the bound port.

    On the way out no call is accepted any more, streams end after the answers they are owed, and those in flight get
    the server's ``grace_s``. A curious cloud has each request in its capture before it is computed.

    Raises:
        OSError: The address is taken, or the capture cannot be opened or has another writer.
        WireError: ``capture`` is a file that is no capture.
    """
    with contextlib.ExitStack() as stack:
        observe = stack.enter_context(CaptureWriter(config.capture)).write if config.capture else None
        worker = stack.enter_context(ComputeWorker(half.predict, config.batching))
        servicer = OpenInferenceServicer(
            [served_model(half, worker)],
            server_name="splitleak-cloud",
            in_flight=config.in_flight,
            timeout_s=config.timeout_s,
            observe=observe,
        )

        def add(server: object) -> None:
            add_GRPCInferenceServiceServicer_to_server(servicer, server)

        port = stack.enter_context(serve(add, config.server, drain=servicer.stop))
        _LOGGER.info("cloud serves %r on port %d", half.name, port)
        yield port
