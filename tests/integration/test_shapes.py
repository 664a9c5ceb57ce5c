"""Features and pictures of any shape through real services: edge, tap, cloud, queries, and an attack that is scored."""

import contextlib

import numpy as np
import pytest
import torch

from splitleak.attacker.outputs import Reconstructions
from splitleak.attacker.queries import victims
from splitleak.attacker.run import Access, AttackConfig, run_attack
from splitleak.attacker.tap import TapConfig, tap
from splitleak.cloud.service import CloudConfig, cloud
from splitleak.datasets.images import Images
from splitleak.edge.client import EdgeConfig
from splitleak.edge.run import images_for, stream_images
from splitleak.edge.service import EdgeServiceConfig, edge
from splitleak.eval.record.metrics import measured_victims
from splitleak.logs import silent
from splitleak.wire.protocol import CODECS
from splitleak.wire.server.server import ServerConfig

ANYWHERE = ServerConfig(address="127.0.0.1:0")
PICTURE = (4, 20, 28)
PARTS = ((4, 7, 5), (24,), (6, 9))
SHAPES = {"map": (8, 7, 5), "tokens": (13, 24), "vector": (37,), "parts": (140 + 24 + 54,)}
of_any_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


class Device:
    """A linear encoder to features of a shape."""

    name = "toy"
    input_shape = PICTURE

    def __init__(self, shape):
        self.feature_shape = shape
        draw = np.random.default_rng(0)
        self.weights = (draw.standard_normal((np.prod(PICTURE), np.prod(shape))) / 40).astype(np.float32)

    def encode(self, images):
        return (images.reshape(len(images), -1) @ self.weights).reshape(-1, *self.feature_shape)


class Head:
    """The means of three parts of a feature are the logits."""

    name, classes, properties = "toy", 3, {}

    def __init__(self, shape):
        self.feature_shape = shape

    def predict(self, features):
        return np.stack([part.mean(1) for part in np.array_split(features.reshape(len(features), -1), 3, 1)], 1)


def images(path, count, seed):
    """Pictures that four numbers describe."""
    draw = torch.Generator().manual_seed(seed)
    colours = torch.rand(count, 4, 1, 1, generator=draw)
    ramp = torch.linspace(0, 1, 20)[:, None] * torch.linspace(0.5, 1, 28)
    made = Images(((colours * ramp) * 255).round().to(torch.uint8), torch.arange(count) % 3, ("a", "b", "c"))
    made.save(path)
    return made


@contextlib.contextmanager
def chain(shape, folder, codec):
    """The device's client, and the address at which it serves; the tap writes ``capture``."""
    device = Device(shape)
    with cloud(CloudConfig(server=ANYWHERE), Head(shape)) as port:
        tapped = TapConfig(server=ANYWHERE, upstream=f"127.0.0.1:{port}", capture=folder / "capture")
        with tap(tapped) as tap_port:
            client = EdgeConfig(cloud=f"127.0.0.1:{tap_port}", model="toy", codec=codec)
            with edge(EdgeServiceConfig(server=ANYWHERE, client=client), device, "toy") as edge_port:
                yield device, client, f"127.0.0.1:{edge_port}"


@of_any_shape
@pytest.mark.parametrize("codec", sorted(CODECS))
def test_every_codec_carries_features_of_any_shape(shape, codec, tmp_path):
    sent = images(tmp_path / "victims.npz", 6, 0)
    with chain(shape, tmp_path, codec) as (device, client, _):
        ledger = stream_images(client, device, images_for(device, tmp_path / "victims.npz"))
    ids, captured = victims(tmp_path / "capture")
    assert ids == tuple(ledger.places)
    expected = device.encode(sent.floats().numpy())
    error = {"fp32": 1e-5, "fp16": 2e-3}.get(codec.partition("+")[0], 1 / 100)
    assert captured.shape == (6, *shape)
    np.testing.assert_allclose(captured, expected, atol=error * np.abs(expected).max())


@pytest.mark.slow
@of_any_shape
@pytest.mark.parametrize(
    ("attack", "settings"),
    [("decoder", {"epochs": 10, "blocks": 1}), ("inverse-network", {"epochs": 15})],
    ids=["decoder", "inverse-network"],
)
def test_an_attack_on_what_crossed_the_wire_beats_the_mean_image(shape, attack, settings, tmp_path):
    public, truth = images(tmp_path / "public.npz", 120, 1), images(tmp_path / "victims.npz", 12, 0)
    with chain(shape, tmp_path, "fp16") as (device, client, address):
        ledger = stream_images(client, device, images_for(device, tmp_path / "victims.npz"))
        config = AttackConfig(attack=attack, settings={**settings, "channels": 8, "batch_size": 8})
        access = Access(
            public=tmp_path / "public.npz",
            capture=tmp_path / "capture",
            edge=address,
            parts=PARTS if shape == SHAPES["parts"] else None,
        )
        run_attack(config, access, tmp_path / "out", torch.device("cpu"), silent)
    rebuilt = Reconstructions.load(tmp_path / "out" / "reconstructions.npz")
    true = truth.select(torch.tensor([ledger.places[name] for name in rebuilt.ids])).floats()
    scores = measured_victims(rebuilt.images, true)
    assert all(np.isfinite(score.mean) for score in scores.values())
    assert scores["mse"].mean < float((true - public.floats().mean(0)).square().mean()) * 0.8
