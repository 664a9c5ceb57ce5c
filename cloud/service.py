"""The cloud: an inference server for half of a split network or a whole one, honest or curious."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from splitleak.cloud.batching import BatchingConfig, ComputeWorker
from splitleak.cloud.policy import Policy, PolicyConfig
from splitleak.cloud.repository import Half, Whole, predictor, served_model
from splitleak.config import Config, Seconds
from splitleak.wire.files.captures import CaptureWriter
from splitleak.wire.server.server import ServerConfig, serve
from splitleak.wire.server.servicer import OpenInferenceServicer

_LOGGER = logging.getLogger(__name__)


class CloudConfig(Config):
    """Server, batching, deadlines, capture and policy of the cloud."""

    server: ServerConfig = Field(default_factory=ServerConfig)
    batching: BatchingConfig = Field(default_factory=BatchingConfig)
    timeout_s: Seconds = Field(default=30.0, gt=0, description="longest deadline of a request")
    in_flight: int = Field(default=8, ge=1, description="most unanswered requests of a stream")
    capture: Path | None = Field(default=None, description="the curious cloud: file for all inference messages")
    rotate_mb: float | None = Field(default=None, gt=0, description="megabytes of a capture file; none: no limit")
    max_bytes: int | None = Field(default=None, gt=0, description="bytes of the whole capture; none: no limit")
    policy: PolicyConfig | None = Field(
        default=None,
        description="none: logits of a half, plain probabilities of a whole model",
    )
    noise_seed: int | None = Field(default=None, ge=0, description="of the policy's noise; default: from the system")


@contextlib.contextmanager
def cloud(config: CloudConfig, model: Half | Whole) -> Iterator[int]:
    """Serves ``model`` under its name while the block runs; yields the bound port.

    On exit new calls are refused, streams end once their accepted requests are answered, and calls in flight get the
    server's ``grace_s``. A curious cloud captures each request before it is computed.

    Raises:
        OSError: The address is in use, or the capture cannot be opened or has another writer.
        ValueError: The policy does not fit the model.
        WireError: ``capture`` exists and is no capture.
    """
    policy_config = config.policy or (PolicyConfig() if isinstance(model, Whole) else None)
    policy = None if policy_config is None else Policy(policy_config, classes=model.classes, seed=config.noise_seed)
    with contextlib.ExitStack() as stack:
        observe, first_call = None, 0
        if config.capture is not None:
            writer = stack.enter_context(CaptureWriter(config.capture, config.rotate_mb, config.max_bytes))
            observe, first_call = writer.write, writer.first_call
        worker = stack.enter_context(ComputeWorker(predictor(model, policy), config.batching))
        servicer = OpenInferenceServicer(
            [served_model(model, worker, policy)],
            server_name="splitleak-cloud",
            in_flight=config.in_flight,
            timeout_s=config.timeout_s,
            held_bytes=config.server.limits.held_bytes,
            observe=observe,
            first_call=first_call,
        )
        serving = serve(
            servicer.add_to,
            config.server,
            drain=servicer.drain,
            statistics=servicer.statistics,
            request_bytes=servicer.request_bytes,
        )
        port = stack.enter_context(serving)
        _LOGGER.info("cloud serves %r on port %d", model.name, port)
        yield port
