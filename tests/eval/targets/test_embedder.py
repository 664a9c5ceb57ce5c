import numpy as np
import onnx
import pytest
import torch
from torch import nn

from splitleak.datasets.images import Images
from splitleak.eval.record.scoring import PICTURES
from splitleak.eval.targets.embedder import load_embedder, rebuilt_verified, vectors
from splitleak.graphs.importing import NetworkConfig
from splitleak.graphs.user_module import export_module


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    """The ONNX file of a network that gives the mean of each channel and each half: enough to tell these people."""
    network = nn.Sequential(nn.AvgPool2d((4, 8)), nn.Flatten())
    path = tmp_path_factory.mktemp("onnx") / "face.onnx"
    onnx.save(export_module(network.eval(), {"image": (3, 8, 8)}), path)
    return path


def people(count=12, each=4):
    """Pictures of ``count`` people, each of a colour of its own with a little noise."""
    draw = torch.Generator().manual_seed(0)
    colours = torch.rand(count, 3, 2, 1, generator=draw)
    labels = torch.arange(count).repeat(each)
    pixels = colours.repeat_interleave(4, 2).expand(-1, -1, -1, 8)[labels]
    noisy = (pixels + 0.02 * torch.randn(pixels.shape, generator=draw)).clamp(0, 1)
    return Images((255 * noisy).round().byte(), labels, tuple(map(str, range(count))))


def scored(folder, victims, rebuilt):
    places = np.random.default_rng(0).permutation(len(victims))
    arrays = {"truth": victims.pixels[places].numpy(), "rebuilt": rebuilt.numpy()[places], "places": places}
    with (folder / PICTURES).open("wb") as file:
        np.savez(file, **arrays)
    return folder


def test_what_is_rebuilt_stands_between_true_pictures_and_those_of_others(embedder, tmp_path):
    victims = people()
    network = load_embedder(embedder, NetworkConfig(), victims.shape)
    rebuilt = victims.pixels.clone()
    rebuilt[::2] = torch.randint(256, rebuilt[::2].shape, generator=torch.Generator().manual_seed(1)).byte()
    found = rebuilt_verified(network, scored(tmp_path, victims, rebuilt), victims)
    at = {name: of["0.01"]["rate"] for name, of in found.items()}
    assert at["true"] > 0.95
    assert at["true"] - 0.2 > at["rebuilt"] > 0.2
    assert at["others"] < 0.1
    assert found["true"]["0.01"]["genuine"] == 12 * 4 * 3


def test_pictures_are_resized_to_what_the_network_takes(embedder):
    network = load_embedder(embedder, NetworkConfig(), (1, 20, 20))
    grey = torch.full((5, 1, 20, 20), 51, dtype=torch.uint8)
    assert vectors(network, grey).tolist() == [pytest.approx([0.2] * 6)] * 5


def test_pictures_of_others_and_people_that_cannot_be_told_apart_are_refused(embedder, tmp_path):
    victims = people()
    network = load_embedder(embedder, NetworkConfig(), victims.shape)
    folder = scored(tmp_path, victims, victims.pixels)
    for others in (people(count=3), Images(255 - victims.pixels, victims.labels, victims.classes)):
        with pytest.raises(ValueError, match="expected pictures of these"):
            rebuilt_verified(network, folder, others)
    for labels in (torch.zeros(48).long(), torch.arange(48)):
        with pytest.raises(ValueError, match="expected several pictures of a class"):
            rebuilt_verified(network, folder, Images(victims.pixels, labels, ("p",) * 48))


def test_a_file_that_is_no_network_is_refused(tmp_path):
    (tmp_path / "face.onnx").write_bytes(b"no network")
    with pytest.raises(ValueError, match=r"face\.onnx"):
        load_embedder(tmp_path / "face.onnx", NetworkConfig(), (3, 8, 8))
