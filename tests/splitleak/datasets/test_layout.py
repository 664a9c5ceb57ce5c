import pytest

from splitleak.datasets.layout import places


def placed(*paths):
    """Pool and class of each path, whose last part is a file."""
    return [tuple(place) for place in places([tuple(path.split("/")[:-1]) for path in paths])]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (("cat/1", "dog/1"), ["cat", "dog"]),
        (("pets/cat/1", "pets/dog/1"), ["cat", "dog"]),
        (("a/b/cat/1", "a/b/dog/1"), ["cat", "dog"]),
        (("1", "2"), [None, None]),
        (("cat/images/1", "dog/images/1"), ["cat", "dog"]),
        (("cat/images/1", "dog/1"), ["cat", "dog"]),
        (("images/cat/1", "images/dog/1"), ["cat", "dog"]),
        (("pets/photos/1", "pets/drawings/1"), ["photos", "drawings"]),
        (("cat/1", "cat/more/2", "dog/3"), ["cat", "cat", "dog"]),
        (("actors/faces/Ann/1", "actresses/faces/Bea/1"), ["Ann", "Bea"]),
        (("a/left/1", "b/left/1"), ["a/left", "b/left"]),
        (("preview", "cat/1", "dog/1"), [None, "cat", "dog"]),
        (("bus/1", "train/1"), ["bus", "train"]),
        (("bus/images/1", "train/images/1"), ["bus", "train"]),
        (("test_tube/1", "train_station/1"), ["test_tube", "train_station"]),
        (("test1/1", "test2/1"), ["test1", "test2"]),
    ],
)
def test_a_class_is_the_folder_that_holds_its_images(paths, expected):
    assert placed(*paths) == [("train", label) for label in expected]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (("train/a/1", "valid/a/1", "test/a/1"), [("train", "a"), ("val", "a"), ("test", "a")]),
        (("Training/a/1", "Testing/a/1"), [("train", "a"), ("test", "a")]),
        (("set/TRAIN/a/1", "set/Val/a/1"), [("train", "a"), ("val", "a")]),
        (("train/train/1", "train/bus/1", "test/train/1"), [("train", "train"), ("train", "bus"), ("test", "train")]),
        (("a/train/1", "a/test/1", "b/train/1"), [("train", "a"), ("test", "a"), ("train", "b")]),
        (("seg_train/seg_train/a/1", "seg_test/seg_test/a/1"), [("train", "a"), ("test", "a")]),
        (("train/images/a/1", "train/images/b/1", "test/a/1"), [("train", "a"), ("train", "b"), ("test", "a")]),
        (
            ("train/a/1", "train/b/1", "test/a/x/1", "test/a/y/1"),
            [("train", "a"), ("train", "b"), ("test", "a"), ("test", "a")],
        ),
        (
            ("t/train/n1/images/1", "t/val/images/1", "t/test/images/1"),
            [("train", "n1"), ("val", None), ("test", None)],
        ),
        (("train/1", "test/1"), [("train", None), ("test", None)]),
        (("test/a/1", "test/b/1"), [("test", "a"), ("test", "b")]),
    ],
)
def test_pools_are_known_by_a_level_of_their_names(paths, expected):
    assert placed(*paths) == expected


@pytest.mark.parametrize(
    "paths", [("Train/0/1", "Test/0/1", "Meta/1"), ("train/a/1", "val/a/1", "valid/a/1"), ("bus/1", "train/steam/1")]
)
def test_pools_beside_other_folders_are_refused(paths):
    with pytest.raises(ValueError, match="expected folders of pools"):
        placed(*paths)
