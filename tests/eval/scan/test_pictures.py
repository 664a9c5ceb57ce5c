import pytest
import torch

from splitleak.datasets.images import Images
from splitleak.eval.scan.pictures import choose, default_set


def test_no_picture_is_in_both_sets_and_the_draw_is_the_seeds(small_splits, tmp_path):
    small_splits.public.save(tmp_path / "pictures.npz")
    first = choose(str(tmp_path / "pictures.npz"), (1, 16, 16), 50, 20, seed=0)
    assert [len(each) for each in first] == [50, 20]
    assert not {*first[0].hashes()} & {*first[1].hashes()}
    again, other = (choose(str(tmp_path / "pictures.npz"), (1, 16, 16), 50, 20, seed=seed) for seed in (0, 1))
    assert first[0].hashes() == again[0].hashes() != other[0].hashes()


def test_pictures_are_brought_to_the_size_of_the_network(small_splits, tmp_path):
    small_splits.public.save(tmp_path / "pictures.npz")
    public, victims = choose(str(tmp_path / "pictures.npz"), (3, 8, 24), 30, 10, seed=0)
    assert public.pixels.shape == (30, 3, 8, 24)
    assert victims.pixels.shape == (10, 3, 8, 24)


@pytest.mark.slow
def test_without_pictures_of_ones_own_a_set_that_ships_is_taken():
    public, victims = choose(default_set(3), (3, 32, 32), 20, 10, seed=0)
    assert (len(public), len(victims)) == (20, 10)
    assert default_set(1) == "builtin"


def test_too_few_different_pictures_are_refused(tmp_path):
    Images(torch.zeros(9, 1, 16, 16, dtype=torch.uint8), torch.zeros(9, dtype=torch.int64), ("a",)).save(
        tmp_path / "same.npz"
    )
    with pytest.raises(ValueError, match=r"at least 8 different pictures in .*same.npz"):
        choose(str(tmp_path / "same.npz"), (1, 16, 16), 50, 20, seed=0)


def test_copies_of_a_picture_count_once(tmp_path):
    pixels = (torch.arange(20) % 2 * 200).byte()[:, None, None, None].repeat(1, 1, 16, 16)
    Images(pixels, torch.zeros(20, dtype=torch.int64), ("a",)).save(tmp_path / "two.npz")
    with pytest.raises(ValueError, match=r"at least 8 different pictures in .*two.npz, got 2"):
        choose(str(tmp_path / "two.npz"), (1, 16, 16), 50, 20, seed=0)
