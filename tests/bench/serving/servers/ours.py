"""Our server, ``ours.py PORT FOLDER``: the parts of `splitleak.cloud.service.cloud`, for each model compared."""

import contextlib
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import torch
from common import end_with_parent
from models import models

from splitleak.cloud.batching import BatchingConfig, ComputeWorker
from splitleak.cloud.repository import served_model
from splitleak.defenses.artifact import load_cloud
from splitleak.wire.server.malloc import keep_big_buffers
from splitleak.wire.server.server import ServerConfig, serve
from splitleak.wire.server.servicer import OpenInferenceServicer


@dataclass(frozen=True)
class Half:
    """A model as our cloud takes it."""

    name: str
    feature_shape: tuple[int, ...]
    predict: object
    classes: int = 10
    properties: dict[str, str] = field(default_factory=dict)


if __name__ == "__main__":
    end_with_parent()
    keep_big_buffers()
    with contextlib.ExitStack() as stack:
        folder, offered = Path(sys.argv[2]), []
        made = models(folder)
        half = load_cloud(folder / "artifact" / "cloud", torch.device("cpu"), engine="auto")
        made["tail"] = (half.feature_shape, half.predict)  # the default engine, as `splitleak cloud` has it
        for name, (shape, compute) in made.items():
            worker = stack.enter_context(ComputeWorker(compute, BatchingConfig()))
            offered.append(served_model(Half(name, shape, compute), worker))
        servicer = OpenInferenceServicer(offered, server_name="ours")
        config = ServerConfig(address=f"127.0.0.1:{sys.argv[1]}")
        stack.enter_context(serve(servicer.add_to, config, drain=servicer.drain, statistics=servicer.statistics))
        threading.Event().wait()
