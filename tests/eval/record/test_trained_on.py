import dataclasses

import pytest

from splitleak.eval.record.trained_on import trained_images, trained_splits


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
