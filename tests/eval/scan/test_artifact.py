import shutil

import numpy as np
import pytest
import torch
from torch import nn

from splitleak.defenses.artifact import load_whole, save
from splitleak.defenses.training import TargetConfig, train
from splitleak.eval.scan.artifact import network_of_artifact
from splitleak.graphs.prepared import OUTPUT


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
    assert any("pooled" in cut.name for cut in network.cuts())
    renamed = ("Identity", "Cast")  # where the halves meet; none is the answer itself
    assert [cut.after for cut in network.cuts() if cut.after not in renamed] == [cut.after for cut in tiny.cuts()]


def test_a_folder_that_is_no_artifact_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="half of an artifact"):
        network_of_artifact(tmp_path)


def test_an_import_that_was_trained_further_is_scanned_as_it_is_now(tmp_path, small_splits):
    from splitleak.defenses.importing import import_network, read_networks
    from tests.splitleak.graphs.test_network import network as network_of_module

    module = nn.Sequential(nn.Conv2d(1, 3, 4, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(48, 10))
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
