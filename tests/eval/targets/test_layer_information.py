import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from splitleak.attacker.outputs import Reconstructions
from splitleak.cli import app
from splitleak.defenses.artifact import load_whole
from splitleak.eval.targets.layer_information import layer_information, measure_layers
from splitleak.measures.layer_fisher import classification_loss, inversion_loss, layer_fisher
from splitleak.models.penultimate import penultimate

CPU = torch.device("cpu")


def test_it_is_the_layers_information_for_both_tasks(artifact, small_splits):
    target = load_whole(artifact, CPU, seed=0)
    by_class = torch.rand(10, 3, 1, 16, 16)
    found = layer_information(target, small_splits.test, small_splits.train, by_class, images=20)
    assert found["images"] == {"classification": 20, "inversion": 20}
    network = nn.Sequential(target.edge.encoder, target.cloud.head).eval()
    test, private = small_splits.test, small_splits.train
    expected = layer_fisher(network, test.floats()[:20], test.labels[:20], classification_loss)
    assert found["classification"] == pytest.approx(expected)
    features = penultimate(network, private.floats())[0].detach()
    centroids = torch.stack([features[private.labels == label].mean(0) for label in range(10)])
    labels = torch.arange(10).repeat_interleave(2)
    expected = layer_fisher(network, by_class[:, :2].flatten(0, 1), labels, inversion_loss(centroids))
    assert found["inversion"] == pytest.approx(expected, rel=1e-4)
    for task in ("classification", "inversion"):
        assert sum(found["share"][task].values()) == pytest.approx(1)
    last = list(found["inversion"])[-1]
    assert found["inversion"][last] == 0
    assert found["classification"][last] > 0


def test_a_class_without_private_images_is_refused(artifact, small_splits):
    target, private = load_whole(artifact, CPU, seed=0), small_splits.train
    private = private.select((private.labels != 3).nonzero().flatten())
    with pytest.raises(ValueError, match="expected private images of each of 10 classes"):
        layer_information(target, small_splits.test, private, torch.rand(10, 1, 1, 16, 16))


def test_the_command_prints_the_share_of_every_layer(artifact, small_splits, tmp_path):
    by_class = torch.rand(10, 2, 1, 16, 16)
    Reconstructions.of_classes(by_class).save(tmp_path / "attack" / "reconstructions.npz")
    small_splits.save(tmp_path / "images")
    asked = [str(tmp_path / "attack"), "--artifact", str(artifact), "--images", str(tmp_path / "images")]
    asked += ["--count", "20", "--out", str(tmp_path / "found.json")]
    told = CliRunner().invoke(app, ["layers", *asked], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    found = json.loads((tmp_path / "found.json").read_text())
    target = load_whole(artifact, CPU, seed=0)
    expected = layer_information(target, small_splits.test, small_splits.train, by_class, images=20)
    assert found["inversion"] == pytest.approx(expected["inversion"])
    assert found["classification"] == pytest.approx(expected["classification"])
    assert all(f"\n{name}: " in told.stdout for name in expected["share"]["inversion"])


def test_a_split_that_the_target_was_not_trained_on_is_refused(artifact, small_splits, tmp_path):
    parts = (getattr(small_splits, part) for part in ("train", "public", "victims", "test"))
    type(small_splits)(*parts, {**small_splits.record, "dataset": "other"}).save(tmp_path)
    with pytest.raises(ValueError, match="was trained on, got others"):
        measure_layers(artifact, tmp_path, tmp_path)
