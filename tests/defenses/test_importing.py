"""Writes an imported network as an artifact, and teaches with its answers."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from splitleak.cloud.policy import Policy, PolicyConfig
from splitleak.datasets import load
from splitleak.datasets.splits import SplitConfig, split
from splitleak.defenses.artifact import artifact_digest, load_cloud, load_edge, load_whole, packed_parts, read_record
from splitleak.defenses.importing import LABELS, OWN_ANSWER, import_network, read_networks, taught
from tests.splitleak.graphs.test_network import network


@pytest.fixture(scope="module")
def splits():
    counts = {"public": 5, "victims": 5, "train": 30, "test": 20}
    return split(load("builtin").fitted(8, 1), SplitConfig(**counts))


@pytest.fixture
def artifact(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(192, 7))
    whole = network(module, (1, 8, 8))
    about = import_network(
        whole, whole.cuts()[1], tmp_path / "mine", source="net", name="mine", names=None, images=None
    )
    return tmp_path / "mine", about


def test_each_half_is_loaded_alone(artifact, tmp_path):
    folder, about = artifact
    assert about["notes"] == []
    (folder / "edge").rename(tmp_path / "device")
    (folder / "cloud").rename(tmp_path / "server")
    edge, cloud = (
        load_edge(tmp_path / "device", torch.device("cpu")),
        load_cloud(tmp_path / "server", torch.device("cpu")),
    )
    assert (edge.input_shape, edge.feature_shape, cloud.classes) == ((1, 8, 8), (3, 8, 8), 7)
    assert cloud.properties["architecture"] == "imported"


def test_a_service_of_a_network_that_ends_in_a_softmax_gives_its_probabilities_and_not_their_softmax(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 7), nn.Softmax(1)).eval()
    whole = network(module, (1, 8, 8))
    import_network(whole, whole.cuts()[1], tmp_path / "mine", source="net", name="mine", names=None, images=None)
    images, policy = torch.rand(5, 1, 8, 8), Policy(PolicyConfig(), classes=7)
    for engine in ("torch", "auto"):
        logits = load_whole(tmp_path / "mine", torch.device("cpu"), engine=engine).predict(images.numpy())
        np.testing.assert_allclose(policy(logits), module(images).detach(), rtol=1e-4)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.last = nn.Linear(192, 7)

    def forward(self, images):
        first = self.first(images).relu()
        return self.last((first + self.second(first).relu()).flatten(1))


@pytest.mark.parametrize(
    ("after", "features", "parts"),
    [("Add", (3, 8, 8), None), ("Flatten", (192,), ((3, 8, 8),)), ("Conv", (384,), ((3, 8, 8), (3, 8, 8)))],
)
def test_what_flat_features_were_is_kept_for_whoever_inverts_them(tmp_path, after, features, parts):
    torch.manual_seed(0)
    whole = network(Residual(), (1, 8, 8))
    cut = [cut for cut in whole.cuts(2) if cut.after == after][-1]
    import_network(whole, cut, tmp_path / "mine", source="net", name="mine", names=None, images=None)
    assert load_edge(tmp_path / "mine" / "edge", torch.device("cpu")).feature_shape == features
    assert packed_parts(tmp_path / "mine") == parts
    model, _ = read_networks(tmp_path / "mine")
    assert ("arranged" in model.document()) == (after == "Flatten")


def test_the_record_says_what_a_right_answer_is_and_the_digest_is_of_the_files(artifact):
    folder, _ = artifact
    assert read_record(folder)["right_answer"] == OWN_ANSWER
    before = artifact_digest(folder)
    path = folder / "cloud" / "network.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    assert artifact_digest(folder) != before
    path.unlink()
    with pytest.raises(FileNotFoundError, match="half of an artifact"):
        artifact_digest(folder)


def test_images_of_other_classes_are_labelled_by_the_networks_own_answers(artifact, splits):
    folder, _ = artifact
    with_answers, right = taught(folder, splits)
    assert right == OWN_ANSWER
    assert len(with_answers.train.classes) == 7
    whole = load_edge(folder / "edge", torch.device("cpu")), load_cloud(folder / "cloud", torch.device("cpu"))
    answers = whole[1].predict(whole[0].encode(splits.train.floats().numpy())).argmax(1)
    assert with_answers.train.labels.tolist() == answers.tolist()
    named = replace(splits, train=replace(splits.train, classes=(*"abcdefg",), labels=splits.train.labels % 7))
    assert taught(folder, named) == (named, LABELS)


def test_outputs_that_are_the_classes_in_another_order_are_not_taken_for_them_by_their_places(tmp_path, splits):
    splits.save(tmp_path / "images")
    classes = splits.test.classes
    whole = network(nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, len(classes))), (1, 8, 8))
    right = {}
    for name, names in (("told", classes[::-1]), ("same", classes), ("other", tuple("abcdefghij")), ("none", None)):
        about = import_network(
            whole, whole.cuts()[1], tmp_path / name, source="net", name=name, names=names, images=tmp_path / "images"
        )
        right[name] = about["right_answer"], any("in another order" in note for note in about["notes"])
        assert taught(tmp_path / name, splits)[1] == about["right_answer"]
    assert right == {"told": (OWN_ANSWER, True), **dict.fromkeys(("same", "other", "none"), (LABELS, False))}
    assert taught(tmp_path / "told", splits)[0].train.classes == classes[::-1]


def test_images_of_another_shape_are_refused(tmp_path, splits):
    splits.save(tmp_path / "images")
    whole = network(nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten()), (1, 9, 9))
    with pytest.raises(ValueError, match=r"expected images \(1, 9, 9\)"):
        import_network(
            whole, whole.cuts()[0], tmp_path / "m", source="", name="m", names=None, images=tmp_path / "images"
        )


def test_images_of_another_shape_are_not_taught(artifact):
    other = split(load("builtin").fitted(4, 1), SplitConfig(public=5, victims=5, train=30, test=20))
    with pytest.raises(ValueError, match=r"expected images \(1, 8, 8\), as .* takes them, got \(1, 4, 4\)"):
        taught(artifact[0], other)


def test_what_was_trained_here_is_not_imported(tmp_path, artifact):
    folder, _ = artifact
    model, networks = read_networks(folder)
    assert (model.classes, sorted(networks)) == (7, ["cloud", "edge"])
    with pytest.raises((FileNotFoundError, ValueError)):
        read_networks(tmp_path)


def test_the_judge_reads_what_was_imported(artifact):
    from splitleak.eval.record.inputs import target_of

    target, _ = target_of(artifact[0])
    assert target.right_answer == OWN_ANSWER
    assert target.design.training is None
    assert target.design.model.position == artifact[1]["cut"]["name"]


def test_a_single_output_is_noted_and_not_trained_for(tmp_path, splits):
    whole = network(nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 1)), (1, 8, 8))
    out = tmp_path / "m"
    about = import_network(whole, whole.cuts()[0], out, source="", name="m", names=None, images=None)
    assert about["notes"] == ["of one output every answer counts as right: no accuracy"]
    with pytest.raises(ValueError, match="at least two outputs to train for, got 1"):
        taught(out, splits)


def test_outputs_of_a_sigmoid_are_noted_as_services_give_their_softmax(tmp_path):
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 2), nn.Sigmoid())
    whole = network(module, (1, 8, 8))
    about = import_network(whole, whole.cuts()[0], tmp_path / "m", source="", name="m", names=None, images=None)
    assert [note[:35] for note in about["notes"]] == ["the answer is that of a sigmoid, ea"]


def test_a_service_reads_an_imported_half_without_its_torch_form_and_checks_its_file(artifact, monkeypatch):
    folder, _ = artifact
    monkeypatch.setattr("splitleak.defenses.artifact.torch_half", None)  # calling it would be an error
    half = load_edge(folder / "edge", torch.device("cpu"), engine="auto")
    assert half.encode(np.zeros((2, 1, 8, 8), np.float32)).shape == (2, 3, 8, 8)
    with pytest.raises(ValueError, match="expected to be loaded with engine 'torch'"):
        half.encoder(torch.zeros(1, 1, 8, 8))
    path = folder / "edge" / "network.onnx"
    model = onnx.load(path)
    model.graph.node[-1].domain = "theirs"
    onnx.save(model, path)
    with pytest.raises(ValueError, match=r"network\.onnx: expected ONNX's own operations"):
        load_edge(folder / "edge", torch.device("cpu"), engine="onnx")
