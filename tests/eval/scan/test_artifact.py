import shutil

import numpy as np
import pytest
import torch
from torch import nn

from splitleak.defenses.artifact import load_whole, save
from splitleak.defenses.training import TargetConfig, train
from splitleak.eval.scan.artifact import network_of_artifact
from splitleak.graphs.halves import cloud_half, edge_half, joined
from splitleak.graphs.network import Network
from splitleak.graphs.prepared import OUTPUT
from tests.splitleak.graphs.test_network import Attends, Residual
from tests.splitleak.graphs.test_network import network as network_of_module


class TwoPaths(nn.Module):
    """Its second half reads sizes, and cuts through a skip connection pack two tensors."""

    def __init__(self):
        super().__init__()
        self.stem, self.wide = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4 * 8 * 6, 5)

    def forward(self, images):
        made = self.stem(images)
        mixed = torch.cat([made[:, :2] * self.wide(made)[:, 2:], made[:, 2:]], 1)
        return self.head(mixed.reshape(images.shape[0], -1))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory, small_splits):
    document = {
        "model": {"architecture": "cnn", "width": 0.5, "channels": 1, "size": 16, "classes": 10},
        "defenses": [{"name": "bottleneck"}],
        "training": {"epochs": 1},
    }
    folder = tmp_path_factory.mktemp("artifact") / "toy"
    save(folder, "toy", train(TargetConfig.parse(document, source="test"), small_splits, device=torch.device("cpu")))
    return folder


def test_both_halves_become_one_network_with_more_cuts_than_its_own(artifact, small_splits):
    network = network_of_artifact(artifact)
    images = small_splits.victims.floats().numpy()
    [answer] = [values[OUTPUT] for values in network.forward(images, [OUTPUT])]
    expected = load_whole(artifact, torch.device("cpu")).predict(images)
    assert np.allclose(answer, expected, atol=1e-4 * np.abs(expected).max())
    assert network.image_shape == (1, 16, 16)
    assert len(network.cuts()) > 5


def test_halves_that_are_onnx_files_are_joined_where_they_were_cut(tiny, tmp_path, small_splits):
    from splitleak.defenses.importing import import_network

    import_network(tiny, tiny.cut("doubled"), tmp_path / "mine", source="x", name="mine", names=None, images=None)
    network = network_of_artifact(tmp_path / "mine")
    images = small_splits.victims.floats().numpy()
    [answer] = [values[OUTPUT] for values in network.forward(images, [OUTPUT])]
    [expected] = [values[OUTPUT] for values in tiny.forward(images, [OUTPUT])]
    assert np.allclose(answer, expected, atol=1e-5)
    assert network.cuts() == tiny.cuts()


@pytest.mark.parametrize("make", [Residual, Attends, TwoPaths])
def test_a_network_in_one_piece_again_has_the_cuts_it_had_wherever_it_was_cut(make, tmp_path):
    whole = network_of_module(make(), (3, 8, 6))
    images = np.random.default_rng(0).random((3, 3, 8, 6), dtype=np.float32)
    [expected] = [values[OUTPUT] for values in whole.forward(images, [OUTPUT])]
    for cut in whole.cuts(3):
        again = joined(edge_half(whole, cut), cloud_half(whole, cut))
        network = Network(again)
        places = [[(each.tensors, each.after, each.device_macs) for each in of.cuts(3)] for of in (network, whole)]
        assert places[0] == places[1], cut.name
        [answer] = [values[OUTPUT] for values in network.forward(images, [OUTPUT])]
        np.testing.assert_allclose(answer, expected, atol=1e-5)


def test_files_that_are_no_halves_are_not_joined(tiny):
    edge, cloud = edge_half(tiny, tiny.cuts()[0]), cloud_half(tiny, tiny.cuts()[0])
    for pair in ((cloud, edge), (edge, edge), (tiny.model, cloud)):
        with pytest.raises(ValueError, match="expected both halves of one network"):
            joined(*pair)


def test_a_folder_that_is_no_artifact_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="half of an artifact"):
        network_of_artifact(tmp_path)


class Viewed(nn.Module):
    """It names the size of the batch, as `x.view(x.size(0), -1)` does."""

    def forward(self, features):
        return features.view(features.size(0), 2, -1).transpose(1, 2).reshape(features.size(0), -1)


@pytest.mark.parametrize("flat", [nn.Flatten, Viewed])
def test_an_import_that_was_trained_further_is_scanned_as_it_is_now(flat, tmp_path, small_splits):
    from splitleak.defenses.importing import import_network, read_networks

    module = nn.Sequential(nn.Conv2d(1, 3, 4, stride=4), nn.ReLU(), flat(), nn.Linear(48, 10))
    whole = network_of_module(module, (1, 16, 16))
    import_network(whole, whole.cuts()[1], tmp_path / "mine", source="x", name="mine", names=None, images=None)
    model, networks = read_networks(tmp_path / "mine")
    target = TargetConfig.parse({"model": model.document(), "training": {"epochs": 1}}, source="test")
    save(tmp_path / "tuned", "tuned", train(target, small_splits, device=torch.device("cpu"), networks=networks))
    images = small_splits.victims.floats().numpy()
    answers = []
    for folder in (tmp_path / "mine", tmp_path / "tuned"):
        [values] = network_of_artifact(folder).forward(images, [OUTPUT])
        answers.append(values[OUTPUT])
        expected = load_whole(folder, torch.device("cpu")).predict(images)
        assert np.allclose(answers[-1], expected, atol=1e-4 * np.abs(expected).max())
    assert not np.allclose(*answers, atol=1e-2)


def test_halves_of_two_artifacts_are_not_joined(artifact, tmp_path, tiny):
    from splitleak.defenses.importing import import_network

    for name, cut in (("one", "doubled"), ("two", "mixed")):
        import_network(tiny, tiny.cut(cut), tmp_path / name, source="x", name=name, names=None, images=None)
    shutil.rmtree(tmp_path / "one" / "cloud")
    (tmp_path / "two" / "cloud").rename(tmp_path / "one" / "cloud")
    with pytest.raises(ValueError, match="two halves of one artifact"):
        network_of_artifact(tmp_path / "one")
