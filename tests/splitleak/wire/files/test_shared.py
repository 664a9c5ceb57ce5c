"""What victims share is read back as it was, without pickle, or refused by name."""

import numpy as np
import pytest

from splitleak.wire.files.shared import SharedScores

SCORES = np.array([[0.7, 0, 0.2], [0, 0, 0], [0.1, 0.1, 0]], np.float32)


def shared(scores=SCORES, m=2, ids=("a", "b", "c")):
    return SharedScores(ids, scores, m, "toy")


@pytest.mark.parametrize("m", [2, 3, None])
def test_what_is_saved_is_loaded(tmp_path, m):
    shared(m=m).save(tmp_path / "shared.npz")
    loaded = SharedScores.load(tmp_path / "shared.npz")
    assert (loaded.ids, loaded.m, loaded.model) == (("a", "b", "c"), m, "toy")
    np.testing.assert_array_equal(loaded.scores, SCORES)
    assert loaded.scores.dtype == np.float32
    assert [path.name for path in tmp_path.iterdir()] == ["shared.npz"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"m": 1}, "rows of at most m scores, m from 1 to 3, got 2 and m 1"),
        ({"m": 4}, "got 2 and m 4"),
        ({"ids": ("a", "b")}, r"expected float32 scores \(2, K\)"),
        ({"ids": ("a", "b", "b")}, "expected each id once"),
        ({"scores": SCORES.astype(np.float64)}, "expected float32"),
        ({"scores": -SCORES}, "at least zero"),
        ({"scores": np.full((3, 3), np.nan, np.float32)}, "expected finite"),
        ({"scores": np.zeros((0, 3), np.float32), "ids": ()}, "expected float32"),
    ],
)
def test_what_is_no_shared_score_cannot_be_made(changed, said):
    with pytest.raises(ValueError, match=said):
        shared(**changed)


def test_another_file_is_refused_by_name(tmp_path):
    path = tmp_path / "shared.npz"
    with pytest.raises(FileNotFoundError, match=r"shared\.npz"):
        SharedScores.load(path)
    np.savez(path, ids=np.array(["a"]))
    with pytest.raises(ValueError, match=r"shared\.npz: expected what `splitleak predict` writes"):
        SharedScores.load(path)
    np.savez(path, ids=np.array([object()]), scores=SCORES, m=2, model="toy")
    with pytest.raises(ValueError, match=r"shared\.npz: expected"):
        SharedScores.load(path)
    shared().save(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"shared\.npz: expected"):
        SharedScores.load(path)
