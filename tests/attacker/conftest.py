"""A trained model behind cloud, tap and edge, all in this process, for the attacker to look at."""

from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from splitleak.attacker.tap import TapConfig, tap
from splitleak.cloud.service import CloudConfig, cloud
from splitleak.defenses.artifact import load_cloud, load_edge, save
from splitleak.defenses.training import TargetConfig, train
from splitleak.edge.client import EdgeConfig
from splitleak.edge.run import images_for, stream_images
from splitleak.edge.service import EdgeServiceConfig, edge

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def trained(tmp_path_factory, small_splits):
    """An artifact whose edge adds noise, and the files of public and victims' images beside it."""
    folder = tmp_path_factory.mktemp("trained")
    document = {
        "model": {"architecture": "cnn", "width": 0.5, "channels": 1, "size": 16, "classes": 10},
        "defenses": [{"name": "gaussian-noise", "sigma": 0.05}],
        "training": {"epochs": 1},
    }
    save(folder / "toy", "toy", train(TargetConfig.parse(document, source="test"), small_splits, device=CPU))
    small_splits.public.save(folder / "public.npz")
    small_splits.victims.save(folder / "victims.npz")
    return folder


@pytest.fixture(scope="session")
def deploy(trained):
    """``deploy(folder, repeat)`` runs the chain around a block; the victims' images have crossed the wire."""

    @contextmanager
    def run(folder, repeat=1):
        capture, half = folder / "tap.capture", load_edge(trained / "toy" / "edge", CPU)
        with ExitStack() as stack:
            port = stack.enter_context(cloud(CloudConfig(), load_cloud(trained / "toy" / "cloud", CPU)))
            port = stack.enter_context(tap(TapConfig(upstream=f"127.0.0.1:{port}", capture=capture)))
            client = EdgeConfig(cloud=f"127.0.0.1:{port}", model="toy")
            ledger = stream_images(client, half, images_for(half, trained / "victims.npz"), repeat)
            port = stack.enter_context(edge(EdgeServiceConfig(client=client), half, "toy"))
            yield SimpleNamespace(
                folder=trained,
                public=trained / "public.npz",
                capture=capture,
                half=half,
                ledger=ledger,
                edge=f"127.0.0.1:{port}",
                before=capture.stat().st_size,
            )

    return run


@pytest.fixture(scope="module")
def deployed(deploy, tmp_path_factory):
    """The chain, for all tests of a module."""
    with deploy(tmp_path_factory.mktemp("deployed")) as chain:
        yield chain


@pytest.fixture
def passes():
    """``passes(encoder)``: the same encoder, which counts the most images that were in one pass of any, ``most``."""

    class Counting(nn.Sequential):
        most = 0

        def forward(self, images):
            Counting.most = max(Counting.most, len(images))
            return super().forward(images)

    return Counting
