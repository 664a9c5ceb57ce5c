import dataclasses
import shutil

import pytest

from splitleak.artifacts import write_json
from splitleak.defenses.artifact import read_record
from splitleak.defenses.importing import NO_IMAGES, OWN_ANSWER
from splitleak.eval.record.trained_on import labelled_splits, trained_images, trained_splits


def test_the_images_of_an_artifact_come_with_its_record(artifact, small_splits, tmp_path):
    small_splits.save(tmp_path)
    made, splits = trained_splits(artifact, tmp_path)
    again, private = trained_images(artifact, tmp_path / "train.npz")
    assert (made, made["name"], splits.record) == (again, "toy", small_splits.record)
    assert private.hashes() == splits.train.hashes() == small_splits.train.hashes()


def test_other_images_than_those_it_was_trained_on_are_refused(artifact, small_splits, tmp_path):
    other = dataclasses.replace(small_splits, record={**small_splits.record, "dataset": "other"})
    other.save(tmp_path)
    with pytest.raises(ValueError, match=r"expected the images that .*toy was trained on, got others"):
        trained_splits(artifact, tmp_path)
    with pytest.raises(ValueError, match=r"test\.npz: expected the images that 'toy' was trained on, got others"):
        trained_images(artifact, tmp_path / "test.npz")


def test_a_network_that_came_without_images_is_measured_on_any(artifact, small_splits, tmp_path):
    other = shutil.copytree(artifact, tmp_path / "other")
    write_json(other / "artifact.json", {**read_record(artifact), "dataset": dict(NO_IMAGES)})
    small_splits.save(tmp_path / "images")
    assert trained_splits(other, tmp_path / "images")[1].record == small_splits.record


def test_labels_of_other_classes_than_the_outputs_are_not_measured_by(artifact, small_splits, tmp_path):
    small_splits.save(tmp_path / "images")
    assert labelled_splits(artifact, tmp_path / "images")[0] == read_record(artifact)
    other = shutil.copytree(artifact, tmp_path / "other")
    write_json(other / "artifact.json", {**read_record(artifact), "right_answer": OWN_ANSWER})
    with pytest.raises(ValueError, match="expected labels that are the outputs"):
        labelled_splits(other, tmp_path / "images")
    with pytest.raises(ValueError, match="expected labels that are the outputs"):
        trained_images(other, tmp_path / "images" / "train.npz")


def test_a_network_that_came_without_images_has_no_training_images(artifact, small_splits, tmp_path):
    other = shutil.copytree(artifact, tmp_path / "other")
    write_json(other / "artifact.json", {**read_record(artifact), "dataset": dict(NO_IMAGES)})
    small_splits.save(tmp_path / "images")
    with pytest.raises(ValueError, match="other: expected a target of known training images, got one imported without"):
        trained_images(other, tmp_path / "images" / "train.npz")
