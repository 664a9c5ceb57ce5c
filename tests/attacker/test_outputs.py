import numpy as np
import pytest
import torch

from splitleak.attacker.outputs import Reconstructions


def test_what_was_saved_is_loaded(tmp_path):
    images = torch.rand(3, 1, 4, 4)
    Reconstructions(("a-0", "b-1", "ü#2"), images).save(tmp_path / "deep" / "made.npz")
    loaded = Reconstructions.load(tmp_path / "deep" / "made.npz")
    assert loaded.ids == ("a-0", "b-1", "ü#2")
    assert torch.equal(loaded.images, images)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["made.npz"]


def test_a_file_with_other_arrays_is_refused_by_name(tmp_path):
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    with pytest.raises(ValueError, match=r"other\.npz: expected what `splitleak attack` writes"):
        Reconstructions.load(tmp_path / "other.npz")


def test_pickled_objects_are_not_loaded(tmp_path):
    np.savez(tmp_path / "evil.npz", ids=np.array([{"a": 1}], dtype=object), images=np.zeros((1, 1, 4, 4)))
    with pytest.raises(ValueError, match="expected what `splitleak attack` writes"):
        Reconstructions.load(tmp_path / "evil.npz")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        Reconstructions.load(tmp_path / "none.npz")


@pytest.mark.parametrize(("each", "ids"), [(1, ("0", "1", "2")), (2, ("0/0", "0/1", "1/0", "1/1", "2/0", "2/1"))])
def test_pictures_of_classes_are_found_again_in_any_order(each, ids):
    images = torch.rand(3, each, 1, 2, 2)
    made = Reconstructions.of_classes(images)
    assert made.ids == ids
    assert torch.equal(Reconstructions(made.ids[::-1], made.images.flip(0)).by_class(3), images)


@pytest.mark.parametrize(
    "ids",
    [("0", "1"), ("0", "1", "1"), ("0", "1", "3"), ("0", "1", "2", "3"), ("a", "b", "c"), ("0/0", "1/0", "2/0"), ()],
)
def test_anything_but_as_many_pictures_of_each_class_is_refused(ids):
    with pytest.raises(ValueError, match=r"expected one picture, or as many, for each of 3 classes"):
        Reconstructions(ids, torch.zeros(len(ids), 1, 2, 2)).by_class(3)
