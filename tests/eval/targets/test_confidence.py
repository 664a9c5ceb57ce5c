import pytest
import torch

from splitleak.defenses.artifact import load_whole
from splitleak.eval.record.evaluator import probabilities
from splitleak.eval.targets.confidence import target_figures

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory, small_splits):
    folder = tmp_path_factory.mktemp("images")
    small_splits.save(folder)
    return folder


def test_confidence_is_the_mean_of_the_highest_probability(artifact, images, small_splits):
    found, model = target_figures(artifact, images, CPU), load_whole(artifact, CPU, seed=0)
    for part in ("train", "test"):
        shown = getattr(small_splits, part)
        said = probabilities(model, shown.floats())
        assert found[part]["confidence"] == pytest.approx(float(said.max(1).values.mean()))
        assert found[part]["accuracy"] == pytest.approx(float((said.argmax(1) == shown.labels).float().mean()))
        assert found[part]["images"] == len(shown)


def test_all_parameters_are_trained_where_none_is_frozen(artifact, images):
    parameters = target_figures(artifact, images, CPU)["parameters"]
    assert parameters["trained"] == parameters["all"] > 0


def test_other_images_are_refused(artifact, tmp_path, small_splits):
    record = {**small_splits.record, "dataset": "other"}
    type(small_splits)(*(getattr(small_splits, part) for part in ("train", "public", "victims", "test")), record).save(
        tmp_path
    )
    with pytest.raises(ValueError, match="was trained on, got others"):
        target_figures(artifact, tmp_path, CPU)
