from importlib.resources import files

import numpy as np
import pytest
import torch
from PIL import Image

from splitleak.datasets import load
from splitleak.datasets.photographs import load_photographs
from splitleak.datasets.splits import SplitConfig, split


@pytest.fixture(scope="module")
def photographs():
    return load("photographs")


def test_there_are_thousands_of_crops_equally_many_of_each_photograph_and_few_twice(photographs):
    assert photographs.name == "photographs"
    assert photographs.train.pixels.shape == (5600, 3, 64, 64)
    assert photographs.test.pixels.shape == (1120, 3, 64, 64)
    for pool in (photographs.train, photographs.test):
        assert torch.bincount(pool.labels).unique().numel() == 1
        assert len(set(pool.hashes())) > 0.98 * len(pool)


@pytest.mark.slow
def test_the_same_seed_cuts_the_same_crops_and_another_seed_others(photographs):
    assert torch.equal(load_photographs().train.pixels, photographs.train.pixels)
    assert len(set(load_photographs(seed=1).test.hashes()) & set(photographs.test.hashes())) < 20


def columns(photograph, crop):
    """Where a crop of the photograph's own scale begins in it, mirrored or not; nothing for one that was scaled."""
    found = (photograph.tobytes().find(row.tobytes()) for row in (crop[0], crop[0, ::-1]))
    return [place % photograph.shape[1] for place in found if place >= 0]


@pytest.mark.parametrize("name", ["gravel", "grass"])
def test_training_and_test_crops_come_from_different_sides_of_a_photograph(photographs, name):
    photograph = np.asarray(Image.open(files("skimage") / "data" / f"{name}.png"))
    label = photographs.classes.index(name)
    for pool, sides in ((photographs.train, range(384 - 63)), (photographs.test, range(384, 512 - 63))):
        crops = pool.pixels[pool.labels == label][:, 0].numpy()
        found = [column for crop in crops for column in columns(photograph, crop)]
        assert len(found) > 10
        assert set(found) <= set(sides)


def test_they_split_like_any_data_set_as_an_attackers_own(photographs):
    config = SplitConfig(public=2000, victims=1, train=1, test=1)
    public = split(photographs.fitted(32, 1), config).public
    assert public.pixels.shape == (2000, 1, 32, 32)
    assert len(public.labels.unique()) == 14
