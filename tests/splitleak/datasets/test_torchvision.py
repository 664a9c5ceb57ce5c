import pickle
import struct
import sys

import numpy as np
import pytest

from splitleak import datasets
from splitleak.datasets import load
from splitleak.datasets.torchvision import load_torchvision


def test_a_set_that_is_not_there_is_not_downloaded_unless_asked(tmp_path):
    with pytest.raises(FileNotFoundError, match="--download fetches it"):
        load("cifar10", data_root=tmp_path)
    assert not list(tmp_path.rglob("*.gz"))


def test_a_named_set_needs_a_root():
    with pytest.raises(ValueError, match="--data-root"):
        load("mnist")


def test_torchvision_is_not_imported_for_other_sets(tmp_path, monkeypatch):
    np.savez(tmp_path / "mine.npz", images=np.zeros((2, 8, 8), np.uint8), labels=np.arange(2))
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "splitleak.datasets.torchvision")
    monkeypatch.delattr(datasets, "torchvision")
    monkeypatch.setitem(sys.modules, "torchvision", None)  # an import of it fails
    assert len(load(str(tmp_path / "mine.npz")).train) == 2
    with pytest.raises(FileNotFoundError, match="did you mean 'mnist'"):
        load("mnits")


def test_cifar10_loads_from_the_files_torchvision_keeps(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda _: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.arange(3072, dtype=np.uint32).astype(np.uint8).reshape(1, 3072)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [3]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    loaded = load_torchvision("cifar10", tmp_path, download=False)
    assert loaded.train.pixels.shape == (5, 3, 32, 32)
    assert np.array_equal(loaded.train.pixels[0].numpy().reshape(-1), pixels[0])


@pytest.fixture
def raw(tmp_path):
    """The folder of a small MNIST as torchvision keeps it."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        images = struct.pack(">4i", 2051, 3, 28, 28) + bytes(3 * 28 * 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, 3) + bytes([0, 1, 9]))
    return folder


def test_mnist_loads_from_idx_files(raw):
    loaded = load("mnist", data_root=raw.parents[1], size=32)
    assert loaded.train.pixels.shape == (3, 1, 32, 32)
    assert loaded.train.labels.tolist() == [0, 1, 9]


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("t10k-images-idx3-ubyte", b"", "got one that begins with nothing"),
        ("train-images-idx3-ubyte", b"\x1f\x8b\x08\x00" + bytes(40), "begins with 1f8b0800"),
        (
            "train-images-idx3-ubyte",
            struct.pack(">4i", 2051, 3, 28, 28),
            "expected 2,368 bytes for 3 × 28 × 28, got 16",
        ),
        ("train-images-idx3-ubyte", struct.pack(">4i", 2051, 0, 28, 28), "begins with 00000803"),
        ("train-labels-idx1-ubyte", struct.pack(">2i", 2049, 10**9), "expected 1,000,000,008 bytes"),
        ("train-labels-idx1-ubyte", struct.pack(">2i", 2049, 2) + bytes(2), "3 int64 labels"),
        ("train-labels-idx1-ubyte", struct.pack(">2i", 2049, 3) + bytes([0, 1, 200]), r"labels in 0\.\.9"),
    ],
)
def test_a_broken_idx_file_is_one_line_that_names_it(raw, name, contents, message):
    (raw / name).write_bytes(contents)
    with pytest.raises(ValueError, match=message) as caught:
        load("mnist", data_root=raw.parents[1])
    assert str(raw.parents[1]) in str(caught.value)
    assert "\n" not in str(caught.value)
