"""Scores without a target or a stream say so, and are no record."""

import json

import numpy as np
import pytest
import torch

from splitleak.attacker.outputs import Reconstructions
from splitleak.eval.record.schema import CELL
from splitleak.eval.record.unproven import CAVEAT, score_unproven

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 1, 16, 16), np.uint8)
NOISY = np.clip(IMAGES / 255 + 0.1, 0, 1).astype(np.float32)


@pytest.fixture
def truth(tmp_path):
    np.save(tmp_path / "truth.npy", IMAGES)
    return tmp_path / "truth.npy"


def test_arrays_are_scored_in_their_order_and_marked(truth, tmp_path):
    np.save(tmp_path / "x.npy", NOISY)
    scored = score_unproven(tmp_path / "x.npy", truth, tmp_path / "out")
    assert scored == json.loads((tmp_path / "out/scores.json").read_text())
    assert scored["scores"]["mse"]["mean"] == pytest.approx(float(np.square(NOISY - IMAGES / 255).mean()), rel=1e-4)
    assert (scored["n"], scored["caveat"], scored["attack"]) == (4, CAVEAT, None)
    assert not (tmp_path / "out" / CELL.mark).exists()
    assert CELL.document(tmp_path / "out") is None  # what reports look for


def test_an_attack_on_features_is_scored_by_the_numbers_of_its_rows(truth, tmp_path):
    folder = tmp_path / "attack"
    folder.mkdir()
    order = [2, 0, 3, 1]
    Reconstructions(tuple(map(str, order)), torch.from_numpy(NOISY[order])).save(folder / "reconstructions.npz")
    about = {"attack": "decoder", "config": {}, "seed": 0, "rebuilt": 4, "findings": {}, "public_hashes": []}
    (folder / "attack.json").write_text(json.dumps({**about, "provenance": {}, "knowledge": [], "queries": 0}))
    for given in (folder, folder / "reconstructions.npz"):
        scored = score_unproven(given, truth, tmp_path / "out", force=True)
        assert scored["scores"]["mse"]["mean"] < 0.01


def test_ids_of_a_stream_need_the_ledger(truth, tmp_path):
    Reconstructions(("a", "b"), torch.from_numpy(NOISY[:2])).save(tmp_path / "r.npz")
    with pytest.raises(ValueError, match=r"row numbers.*--ledger"):
        score_unproven(tmp_path / "r.npz", truth, tmp_path / "out")


def test_another_number_or_size_of_images_is_refused(truth, tmp_path):
    np.save(tmp_path / "x.npy", NOISY[:3])
    with pytest.raises(ValueError, match=r"expected reconstructions \(4, 1, 16, 16\).*got \(3, 1, 16, 16\)"):
        score_unproven(tmp_path / "x.npy", truth, tmp_path / "out")


def test_a_record_is_never_replaced(truth, tmp_path):
    np.save(tmp_path / "x.npy", NOISY)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / CELL.mark).write_text("{}")
    with pytest.raises(FileExistsError, match=CELL.mark):
        score_unproven(tmp_path / "x.npy", truth, tmp_path / "out", force=True)
