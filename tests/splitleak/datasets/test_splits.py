from itertools import combinations

import pytest
import torch

from splitleak.datasets import Dataset, Images, load
from splitleak.datasets.splits import PARTS, SplitConfig, Splits, split


def grey(count: int, *, start: int = 0) -> Images:
    """Images that all differ: each is a number in base 256."""
    numbers = torch.arange(start, start + count)
    pixels = torch.stack([numbers % 256, numbers // 256], 1).to(torch.uint8).reshape(count, 1, 1, 2)
    return Images(pixels, numbers % 3, ("a", "b", "c"))


def test_no_image_is_in_two_sets():
    splits = split(load("builtin"), SplitConfig())
    hashes = {part: set(getattr(splits, part).hashes()) for part in PARTS}
    assert all(hashes[a].isdisjoint(hashes[b]) for a, b in combinations(PARTS, 2))
    assert [len(getattr(splits, part)) for part in PARTS] == [4800, 2000, 200, 2000]


def test_a_copy_of_an_image_never_reaches_another_set():
    doubled = grey(100).select(torch.arange(100).repeat(2))
    splits = split(Dataset("doubled", doubled, grey(120)), SplitConfig(public=30, victims=20))
    assert sum(len(getattr(splits, part)) for part in PARTS) == 120
    assert len(splits.test) == 20


def test_the_same_seed_gives_the_same_sets_and_another_seed_others():
    data = Dataset("numbers", grey(100), None)
    first, again, other = (split(data, SplitConfig(seed=s, public=30, victims=20)).record for s in (0, 0, 1))
    assert first == again
    assert first["images"]["victims"] != other["images"]["victims"]


def test_a_set_without_test_images_holds_a_fifth_out():
    splits = split(Dataset("numbers", grey(100), None), SplitConfig(public=30, victims=20))
    assert [len(getattr(splits, part)) for part in PARTS] == [30, 30, 20, 20]


def test_too_few_images_is_an_error_that_says_how_many_there_are():
    with pytest.raises(ValueError, match="numbers has 100 different ones"):
        split(Dataset("numbers", grey(100), None), SplitConfig(public=70, victims=20))


def test_saved_splits_load_as_they_were_and_a_changed_file_is_noticed(tmp_path):
    splits = split(Dataset("numbers", grey(100), None), SplitConfig(public=30, victims=20))
    splits.save(tmp_path)
    loaded = Splits.load(tmp_path)
    assert loaded.record == splits.record
    assert torch.equal(loaded.victims.pixels, splits.victims.pixels)
    splits.public.save(tmp_path / "victims.npz")
    with pytest.raises(ValueError, match="got others"):
        Splits.load(tmp_path)
