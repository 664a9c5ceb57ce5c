import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from splitleak.attacker.outputs import Reconstructions
from splitleak.attacker.run import Access, AttackConfig, run_attack
from splitleak.attacker.training.flattened import flattened_maps, likeliest_map
from splitleak.datasets import load
from splitleak.library import attack
from splitleak.logs import silent


@pytest.fixture(scope="module")
def images():
    return load("photographs").fitted(16, 3).train.floats()[:240]


@pytest.fixture(scope="module")
def features(images):
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(3, 12, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1))
    with torch.no_grad():
        return network(images).relu()


@pytest.mark.parametrize(("order", "lies"), [((0, 1, 2, 3), (12, 8, 8)), ((0, 2, 3, 1), (8, 8, 12))])
def test_a_map_is_known_again_by_the_pairs_alone(images, features, order, lies):
    assert likeliest_map(features.permute(order).flatten(1), images) == lies


@pytest.mark.slow
def test_a_vector_is_no_map(images, features):
    torch.manual_seed(1)
    mixed = features.flatten(1) @ torch.randn(768, 768) / 30
    for vectors in (mixed, mixed.relu(), features.flatten(1)[:, torch.randperm(768)], mixed[:, :7], 0 * mixed):
        assert likeliest_map(vectors, images) is None
    assert likeliest_map(features.flatten(1)[:20], images[:20]) is None


def test_maps_have_the_sides_of_the_picture_halved():
    assert list(flattened_maps(120, (3, 20, 12))) == [(2, 10, 6), (10, 6, 2)]
    assert list(flattened_maps(49, (3, 28, 28))) == [(1, 7, 7)]
    assert list(flattened_maps(50, (3, 16, 16))) == []


def test_who_has_pairs_of_flattened_maps_lays_them_out_and_asks_nothing_more(images, features, tmp_path):
    flat = features.flatten(1).numpy()
    np.save(tmp_path / "seen.npy", flat[:4])
    np.savez(tmp_path / "pairs.npz", features=flat[40:], images=images[40:].numpy())
    access, config = (
        Access(features=tmp_path / "seen.npy", pairs=tmp_path / "pairs.npz"),
        AttackConfig(attack="decoder"),
    )
    for parts, told in ((None, ((12, 8, 8),)), (((768,),), ((768,),))):
        _, known = replace(access, parts=parts).knowledge(config, access.images(), torch.device("cpu"))
        assert (known.parts, known.query.made) == (told, 0)


@pytest.mark.slow
def test_who_asks_live_lays_them_out_too_by_the_answers_that_the_attack_asks_for(
    images, features, tmp_path, monkeypatch
):
    """With as many queries as without, and to the pictures that it makes where it is told the map."""
    flat, own, asked = features.flatten(1), images[40:], []

    def answer(pixels):
        asked.append(len(pixels))
        return torch.stack([flat[40 + int((own - image).abs().sum((1, 2, 3)).argmin())] for image in pixels])

    device = ModuleType("device_of_theirs")
    device.answer = lambda pixels: answer(torch.from_numpy(pixels))
    monkeypatch.setitem(sys.modules, device.__name__, device)
    np.save(tmp_path / "seen.npy", flat[:4].numpy())
    np.savez(
        tmp_path / "own.npz",
        images=(own * 255).round().byte().permute(0, 2, 3, 1).numpy(),
        labels=np.zeros(len(own), np.int64),
    )
    access = Access(features=tmp_path / "seen.npy", public=tmp_path / "own.npz", function="device_of_theirs:answer")
    config, rebuilt = AttackConfig(attack="linear"), []
    for name, parts in (("inferred", None), ("told", ((12, 8, 8),)), ("vector", ((768,),))):
        done = run_attack(config, replace(access, parts=parts), tmp_path / name, torch.device("cpu"), silent)
        assert (done["rebuilt"], done["queries"], sum(asked)) == (4, 200, 200)
        rebuilt.append(Reconstructions.load(tmp_path / name / "reconstructions.npz").images)
        asked.clear()
    assert torch.equal(rebuilt[0], rebuilt[1])
    assert not torch.equal(rebuilt[0], rebuilt[2])


def test_in_memory_they_are_laid_out_too_at_no_more_queries(images, features):
    def device(asked):
        return features[[int((images == each).flatten(1).all(1).nonzero()[0, 0]) for each in asked]].flatten(1)

    told, vector = [(12, 8, 8)], [(768,)]
    made = [
        attack(device(images[:4]), public=images[40:], query=device, parts=parts, name="linear")
        for parts in (None, told, vector)
    ]
    assert [each.queries for each in made] == [200] * 3
    assert torch.equal(made[0].images, made[1].images)
    assert not torch.equal(made[0].images, made[2].images)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear", "nearest", "decoder", "inverse-network", "gan"])
def test_attacks_make_of_a_flattened_map_what_they_make_of_the_map(images, features, name):
    settings = {} if name in ("linear", "nearest") else {"epochs": 1}

    def of_map(asked):
        return features[[int((images == each).flatten(1).all(1).nonzero()[0, 0]) for each in asked]]

    made = [
        attack(of_map(images[:4]), public=images[40:80], query=of_map, name=name, **settings),
        attack(
            of_map(images[:4]).flatten(1),
            public=images[40:80],
            query=lambda asked: of_map(asked).flatten(1),
            parts=[(12, 8, 8)],
            name=name,
            **settings,
        ),
    ]
    assert torch.equal(made[0].images, made[1].images)
