"""A trained model behind cloud, tap and edge, all in this process, for the attacker to look at."""

from contextlib import ExitStack, contextmanager
from dataclasses import replace
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
from splitleak.training import memory

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
def in_small_passes(monkeypatch):
    """``in_small_passes(attack, known, first, *others)``: what it rebuilds where memory affords one picture in a pass.

    And the most pictures that were in a pass of the ``first`` layers of the encoder, the ``others`` behind them.
    """

    class Counting(nn.Sequential):
        most = 0

        def forward(self, images):
            Counting.most = max(Counting.most, len(images))
            return super().forward(images)

    def rebuilt(attack, known, first, *others):
        monkeypatch.setattr(memory, "LARGE", 1)
        monkeypatch.setattr(memory, "MOST_BYTES", 1)
        made = attack(replace(known, encoder=nn.Sequential(Counting(first), *others).eval()))
        return made, Counting.most

    return rebuilt
