import pickle

import numpy as np
import pytest

from splitleak.datasets import load
from splitleak.datasets.torchvision import load_torchvision


def test_a_set_that_is_not_there_is_not_downloaded_unless_asked(tmp_path):
    with pytest.raises(FileNotFoundError, match="--download fetches it"):
        load("cifar10", data_root=tmp_path)
    assert not list(tmp_path.rglob("*.gz"))


def test_a_named_set_needs_a_root():
    with pytest.raises(ValueError, match="--data-root"):
        load("mnist")


def test_cifar10_loads_from_the_files_torchvision_keeps(tmp_path, monkeypatch):
    from torchvision import datasets

    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda _: True)
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
