import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from splitleak.defenses.artifact import WholeModel, half_digest, load_cloud, load_edge, load_whole, read_record, save
from splitleak.defenses.training import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def target(small_target, small_splits):
    return train(small_target("bottleneck", "gaussian-noise", "cem"), small_splits, device=CPU)


@pytest.fixture(scope="module")
def saved(target, tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifacts") / "small"
    save(folder, "small-model", target)
    return folder


@pytest.fixture
def artifact(saved, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(saved, tmp_path / "copy")


@torch.no_grad()
def test_the_loaded_halves_give_the_features_and_logits_of_the_trained_model(target, saved, small_splits):
    images = small_splits.victims.floats()
    edge, cloud = load_edge(saved / "edge", CPU, seed=7), load_cloud(saved / "cloud", CPU)
    sent = edge.encode(images.numpy())
    features = target.model.encoder(images.contiguous(memory_format=torch.channels_last))
    expected = load_edge(saved / "edge", CPU, seed=7).stack(features)
    assert not torch.equal(expected, features)
    np.testing.assert_allclose(sent, expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(cloud.predict(sent), target.model.head(expected).numpy(), atol=1e-4)
    assert sent.dtype == np.float32
    assert sent.flags.c_contiguous


def test_the_halves_know_their_shapes_and_names(target, saved, small_splits):
    edge, cloud = load_edge(saved / "edge", CPU), load_cloud(saved / "cloud", CPU)
    assert edge.name == cloud.name == "small-model"
    assert edge.input_shape == (1, 16, 16)
    assert edge.feature_shape == cloud.feature_shape == target.model.feature_shape
    assert cloud.classes == len(small_splits.train.classes)
    assert json.loads(cloud.properties["defenses"]) == ["bottleneck", "gaussian-noise", "cem"]


def test_the_whole_is_both_halves_with_the_defenses_between(saved, small_splits):
    images = small_splits.victims.floats().numpy()
    whole = load_whole(saved, CPU, seed=7)
    edge, cloud = load_edge(saved / "edge", CPU, seed=7), load_cloud(saved / "cloud", CPU)
    np.testing.assert_array_equal(whole.predict(images), cloud.predict(edge.encode(images)))
    assert (whole.name, whole.input_shape, whole.classes) == ("small-model", (1, 16, 16), cloud.classes)
    assert whole.digest == "-".join(half_digest(saved / half) for half in ("edge", "cloud"))
    assert whole.properties == {**cloud.properties, "digest": whole.digest}


@pytest.mark.parametrize("engine", ["onnx", "fused", "auto"])
def test_any_engine_gives_the_features_noise_and_logits_of_torch_and_is_announced(saved, small_splits, engine):
    images = small_splits.victims.floats().numpy()
    plain, other = load_whole(saved, CPU, seed=7), load_whole(saved, CPU, seed=7, engine=engine)
    sent, found = plain.edge.encode(images), other.edge.encode(images)
    np.testing.assert_allclose(found, sent, atol=1e-5)  # noise of 0.1 in other places would be far outside
    np.testing.assert_allclose(other.cloud.predict(sent), plain.cloud.predict(sent), atol=1e-4)
    assert plain.properties["engine"] == plain.cloud.properties["engine"] == "torch"
    assert other.properties["engine"] == other.cloud.properties["engine"] == engine.replace("auto", "onnx")
    assert WholeModel(plain.edge, other.cloud).properties["engine"] == f"torch + {other.cloud.properties['engine']}"


def test_halves_of_one_artifact_and_no_others_have_a_digest_in_common(artifact):
    edge, cloud = load_edge(artifact / "edge", CPU), load_cloud(artifact / "cloud", CPU)
    assert len(edge.pair) == 12
    assert edge.pair == cloud.pair == cloud.properties["pair"]
    path = artifact / "cloud" / "half.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    assert load_cloud(artifact / "cloud", CPU).pair != edge.pair


def test_halves_of_two_artifacts_are_refused(artifact):
    path = artifact / "cloud" / "half.json"
    path.write_text(path.read_text().replace("small-model", "another"))
    with pytest.raises(ValueError, match="expected two halves of one artifact, got 'small-model' and 'another'"):
        load_whole(artifact, CPU)


def test_an_unseeded_edge_never_repeats_its_noise(saved, small_splits):
    images = small_splits.victims.floats()[:2].numpy()
    first, second = (load_edge(saved / "edge", CPU).encode(images) for _ in range(2))
    assert not np.array_equal(first, second)


def test_no_half_holds_weights_of_the_other_nor_statistics_of_training(target, saved):
    edge, cloud = (load_file(saved / half / "weights.safetensors") for half in ("edge", "cloud"))
    assert {f"encoder.{key}" for key in target.model.encoder.state_dict()} == set(edge)
    assert set(target.model.head.state_dict()) == set(cloud)
    assert any("means" in key for key in target.stack.state_dict())


def test_the_record_says_how_the_artifact_was_made(target, saved):
    record = read_record(saved)
    assert record["target"] == target.config.document()
    assert record["accuracy"] == target.record["accuracy"]
    assert {"commit", "hardware", "command", "time"} <= set(record["provenance"])


def test_the_wrong_half_is_refused(artifact):
    with pytest.raises(ValueError, match="expected the edge half, got the cloud half"):
        load_edge(artifact / "cloud", CPU)
    with pytest.raises(ValueError, match="expected the cloud half, got the edge half"):
        load_cloud(artifact / "edge", CPU)


def test_a_missing_artifact_is_named(artifact, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected an artifact .*nowhere"):
        read_record(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="expected a half of an artifact"):
        load_edge(artifact, CPU)
    (artifact / "edge" / "weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected weights at .*weights.safetensors"):
        load_edge(artifact / "edge", CPU)


@pytest.mark.parametrize("content", [b"", b"not weights", b"\xff" * 64])
def test_corrupted_weights_are_refused(artifact, content):
    (artifact / "cloud" / "weights.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"weights.safetensors: expected a safetensors file"):
        load_cloud(artifact / "cloud", CPU)


def test_truncated_weights_are_refused(artifact):
    weights = artifact / "edge" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"weights.safetensors: expected a safetensors file"):
        load_edge(artifact / "edge", CPU)


def changed(weights, change):
    first = next(key for key, value in weights.items() if value.ndim > 1)
    return {
        "renamed": {f"{key}s": value for key, value in weights.items()},
        "lacking": {key: value for key, value in weights.items() if key != first},
        "surplus": {**weights, "more": torch.zeros(1)},
        "reshaped": {**weights, first: torch.zeros(2, 3)},
    }[change]


@pytest.mark.parametrize("change", ["renamed", "lacking", "surplus", "reshaped"])
@pytest.mark.parametrize(("half", "load"), [("edge", load_edge), ("cloud", load_cloud)])
def test_foreign_weights_are_refused(artifact, half, load, change):
    path = artifact / half / "weights.safetensors"
    save_file(changed(load_file(path), change), path)
    with pytest.raises(ValueError, match=r"expected weights that fit its half.json"):
        load(artifact / half, CPU)


@pytest.mark.parametrize(("key", "value"), [("format", 2), ("half", "middle"), ("surprise", 1)])
def test_a_half_of_another_format_is_refused(artifact, key, value):
    path = artifact / "edge" / "half.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(ValueError, match=f"half.json: expected a HalfConfig, but {key}"):
        load_edge(artifact / "edge", CPU)


def test_an_interrupted_save_leaves_the_old_artifact(artifact, target, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("splitleak.defenses.artifact.provenance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(artifact, "another-name", target)
    assert load_edge(artifact / "edge", CPU).name == "small-model"
    assert [path.name for path in artifact.parent.iterdir()] == [artifact.name]
