"""Features and pairs of any source are rows, known by their number; bad ones are refused in one line."""

import numpy as np
import pytest
import torch

from splitleak.attacker.arrays import own_images, read_features, read_pairs
from splitleak.attacker.outputs import Reconstructions
from splitleak.attacker.queries import Pairs
from splitleak.attacker.run import Access, AttackConfig, run_attack
from splitleak.logs import silent

CPU = torch.device("cpu")
DRAWN = np.random.default_rng(0)
IMAGES = DRAWN.integers(0, 256, (12, 1, 16, 16), np.uint8)
FEATURES = (IMAGES[:, :, ::2, ::2] / 255).astype(np.float32)


@pytest.fixture
def files(tmp_path):
    np.save(tmp_path / "x.npy", FEATURES[:3])
    np.savez(tmp_path / "pairs.npz", features=FEATURES[3:], images=IMAGES[3:])
    return tmp_path


def test_rows_have_their_numbers_as_ids(files):
    ids, features = read_features(files / "x.npy")
    assert ids == ("0", "1", "2")
    assert torch.equal(features, torch.from_numpy(FEATURES[:3]))


def test_pairs_of_arrays_are_a_record_of_one_draw(files):
    pairs = read_pairs(files / "pairs.npz")
    images = own_images(files / "pairs.npz")
    assert torch.equal(pairs.query()(images.floats()), torch.from_numpy(FEATURES[3:]))
    assert (pairs.queries, pairs.averaging) == (9, 1)


def test_our_own_record_has_no_images(tmp_path):
    Pairs(torch.zeros(1, 2, 3), ("a", "b"), "probe-", 1).save(tmp_path / "ours.npz")
    assert own_images(tmp_path / "ours.npz") is None
    assert read_pairs(tmp_path / "ours.npz").hashes == ("a", "b")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": IMAGES}, "expected features beside the images"),
        ({"images": IMAGES, "features": FEATURES[:5]}, "expected as many features as images, got 5 and 12"),
        ({"images": IMAGES.astype(np.int32), "features": FEATURES}, "images: expected images .* got int32"),
        ({"images": IMAGES, "features": FEATURES * np.nan}, "features: expected finite floats"),
    ],
)
def test_arrays_that_are_no_pairs_are_refused(tmp_path, arrays, said):
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(ValueError, match=rf"p.npz: {said}"):
        read_pairs(tmp_path / "p.npz")


def attack(folder, **given):
    config = AttackConfig(attack="decoder", settings={"epochs": 1, "channels": 8})
    given = {"features": folder / "x.npy", "pairs": folder / "pairs.npz", **given}
    return run_attack(config, Access(**given), folder / "out", CPU, silent)


def test_features_of_any_source_are_attacked_with_pairs_of_any_source(files):
    done = attack(files)
    assert (done["rebuilt"], done["queries"]) == (3, 9)
    assert Reconstructions.load(files / "out/reconstructions.npz").ids == ("0", "1", "2")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"capture": "c"}, "got a capture and features"),
        ({"edge": "h:1"}, "expected a capture beside an edge"),
        ({"service": "h:1", "pairs": None, "public": "public.npz"}, "got features"),
        ({"pairs": None}, "images of the attacker's own"),
        ({"public": "public.npz"}, "own once"),
    ],
)
def test_what_does_not_belong_to_features_is_refused(files, small_splits, given, said):
    small_splits.save(files / "splits")
    given = {
        name: files / "splits" / value if name in ("public", "capture") else value for name, value in given.items()
    }
    with pytest.raises(ValueError, match=said):
        attack(files, **given)


def test_pairs_of_another_cut_are_refused(files):
    np.savez(files / "pairs.npz", features=FEATURES[3:, :, 1:], images=IMAGES[3:])
    with pytest.raises(ValueError, match=r"answers of shape \(1, 8, 8\), as the victims', got \(1, 7, 8\)"):
        attack(files)
