import numpy as np
import pytest
import torch

from splitleak.datasets.images import Images
from splitleak.eval.record.embedder import load_embedder
from splitleak.eval.record.scoring import PICTURES
from splitleak.eval.targets.embedder import rebuilt_verified
from splitleak.graphs.importing import NetworkConfig


def scored(folder, victims, rebuilt):
    places = np.random.default_rng(0).permutation(len(victims))
    arrays = {"truth": victims.pixels[places].numpy(), "rebuilt": rebuilt.numpy()[places], "places": places}
    with (folder / PICTURES).open("wb") as file:
        np.savez(file, **arrays)
    return folder


def test_what_is_rebuilt_stands_between_true_pictures_and_those_of_others(embedder, people, tmp_path):
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


def test_pictures_of_others_and_people_that_cannot_be_told_apart_are_refused(embedder, people, tmp_path):
    victims = people()
    network = load_embedder(embedder, NetworkConfig(), victims.shape)
    folder = scored(tmp_path, victims, victims.pixels)
    for others in (people(count=3), Images(255 - victims.pixels, victims.labels, victims.classes)):
        with pytest.raises(ValueError, match="expected pictures of these"):
            rebuilt_verified(network, folder, others)
    for labels in (torch.zeros(48).long(), torch.arange(48)):
        with pytest.raises(ValueError, match="expected several pictures of a class"):
            rebuilt_verified(network, folder, Images(victims.pixels, labels, ("p",) * 48))
