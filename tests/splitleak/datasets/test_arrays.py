import numpy as np
import pytest

from splitleak import npz
from splitleak.datasets.files import load_file

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 9, 3), dtype=np.uint8)


@pytest.fixture
def saved(tmp_path):
    def save(**contents):
        np.savez_compressed(tmp_path / "data.npz", **contents)
        return tmp_path / "data.npz"

    return save


@pytest.mark.parametrize(
    ("labels", "classes", "found"),
    [
        (np.arange(6)[:, None] % 2, ("0", "1"), [0, 1] * 3),
        (np.arange(6.0) % 3, ("0", "1", "2"), [0, 1, 2] * 2),
        (np.array(["dog", "cat", "dog"] * 2), ("cat", "dog"), [1, 0, 1] * 2),
        (np.array([b"dog", b"caf\xc3\xa9"] * 3), ("café", "dog"), [1, 0] * 3),
        (np.array([True, False] * 3), ("0", "1"), [1, 0] * 3),
        (np.array([10**9, 5] * 3), ("5", "1000000000"), [1, 0] * 3),
        (np.array([1, 2] * 3, np.uint64), ("1", "2"), [0, 1] * 3),
    ],
)
def test_labels_of_any_kind_become_classes_that_occur(saved, labels, classes, found):
    images = load_file(saved(images=PIXELS, labels=labels)).train
    assert images.classes == classes
    assert images.labels.tolist() == found


def test_names_are_those_of_classes_where_they_are_given(saved):
    images = load_file(saved(images=PIXELS, labels=np.array(["b", "a"] * 3), classes=np.array(["b", "c", "a"]))).train
    assert (images.classes, images.labels.tolist()) == (("b", "c", "a"), [0, 2] * 3)
    images = load_file(saved(images=PIXELS, labels=np.array([2, 0] * 3), classes=np.array(["b", "c", "a"]))).train
    assert (images.classes, images.labels.tolist()) == (("b", "c", "a"), [2, 0] * 3)


@pytest.mark.parametrize("names", [("x_{}", "y_{}"), ("{}_images", "{}_labels")])
def test_three_pools_keep_apart(saved, names):
    contents = {
        name.format(pool): values
        for pool, count in (("train", 6), ("val", 3), ("test", 2))
        for name, values in zip(names, (PIXELS[:count], np.arange(count)[:, None]), strict=True)
    }
    found = load_file(saved(**contents))
    assert (len(found.train), len(found.test)) == (6, 2)
    assert found.reading.pools["val"] == "nothing"
    without = {name: values for name, values in contents.items() if "test" not in name}
    assert len(load_file(saved(**without)).test) == 3


LABELS = np.arange(6)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"labels": LABELS - 1}, "labels of 0 and above, got -1 to 4"),
        ({"labels": LABELS / 2}, "whole numbers or text as labels, got 3 others, such as 0.5"),
        ({"labels": np.full(6, np.nan)}, "whole numbers"),
        ({"labels": np.full(6, np.inf)}, "got inf"),
        ({"labels": np.full(6, 2**64 - 1, np.uint64)}, "got 18446744073709551615"),
        ({"labels": np.eye(6)}, r"one label an image in labels, got float64 \(6, 6\)"),
        ({"labels": np.zeros(6, complex)}, "got complex128"),
        ({"labels": np.array([{}] * 6)}, "plain arrays, but labels: Object arrays"),
        ({"labels": LABELS, "classes": np.array(list("abc"))}, r"labels in 0\.\.2, as there are classes, got 5"),
        ({"labels": np.array(list("abcdef")), "classes": np.array(list("abc"))}, "among the 3 classes, got 'd' too"),
        ({"labels": LABELS, "classes": np.array([{}])}, "plain arrays, but classes"),
        ({"labels": LABELS, "classes": np.array("abc")}, "a list of names as classes"),
        ({"images": PIXELS[:, :0], "labels": LABELS}, "at least one pixel"),
        (
            {"images": PIXELS.transpose(0, 3, 1, 2), "labels": LABELS},
            r"\(N, H, W, C\) as images, got uint8 \(6, 3, 9, 9\), channels first",
        ),
        ({"x_train": PIXELS, "y_train": LABELS, "x_test": PIXELS, "images": PIXELS}, "expected y_test too"),
        ({"x_train": PIXELS, "y_train": LABELS, "x_test": PIXELS, "y_test": LABELS.astype(str)}, "numbers or text"),
    ],
)
def test_what_does_not_fit_is_refused_by_the_names_of_file_and_array(saved, contents, message):
    path = saved(**({"images": PIXELS} if "x_train" not in contents else {}) | contents)
    with pytest.raises(ValueError, match=message) as caught:
        load_file(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_what_is_not_needed_is_not_read(saved):
    assert len(load_file(saved(images=PIXELS, labels=LABELS, told=np.array([{}]))).train) == 6


def test_an_array_that_unpacks_to_far_more_than_it_takes_is_refused(saved, monkeypatch):
    monkeypatch.setattr(npz, "_BOMB", (2**20, 100))
    with pytest.raises(ValueError, match="images is to unpack to at most 100 times its bytes, not 9,830,528 from"):
        load_file(saved(images=np.zeros((6, 1280, 1280), np.uint8), labels=LABELS))
