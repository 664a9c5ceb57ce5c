import json

import numpy as np
import pytest

from attacker.results import Reconstructions
from eval.record import make_record
from splitleak.measures.pixel import mse


def judged(artifact, given, out, order=0):
    return make_record(artifact, given / "attack", given / "victims.npz", given / "ledger.json", out, order)


def test_the_record_says_what_was_attacked_how_and_how_well(artifact, materials, tmp_path, small_splits):
    given = materials("whole")
    record = judged(artifact, given, tmp_path / "cell", order=3)
    assert record == json.loads((tmp_path / "cell" / "record.json").read_text())
    assert record["order"] == 3
    assert record["target"]["name"] == "toy"
    assert record["target"]["target"]["model"]["architecture"] == "cnn"
    assert record["target"]["dataset"] == small_splits.record
    assert 0 <= record["target"]["accuracy"] <= 1
    assert record["attack"]["queries"] == 300
    assert record["wire"]["images"] == 40
    assert record["wire"]["bytes_per_image"] == np.mean([1000 + place for place in range(40)])
    assert record["score"]["n"] == 40
    assert {"commit", "hardware", "torch", "time", "command"} <= record["provenance"].keys()
    assert "public_hashes" not in record["attack"]


def test_the_score_is_of_each_guess_against_its_own_victim(artifact, materials, tmp_path, small_splits):
    given = materials("joined")
    record = judged(artifact, given, tmp_path / "cell")
    rebuilt = Reconstructions.load(given / "attack" / "reconstructions.npz")
    truth = small_splits.victims.floats()[[int(name.split("-")[1]) for name in rebuilt.ids]]
    assert record["score"]["mse"]["values"] == pytest.approx(mse(rebuilt.images, truth).tolist(), abs=1e-6)
    with np.load(tmp_path / "cell" / "pictures.npz") as pictures:
        assert np.array_equal(pictures["truth"], (truth * 255).round().byte().numpy())
        assert pictures["places"].tolist() == [int(name.split("-")[1]) for name in rebuilt.ids]


def test_the_same_cell_has_the_same_id_and_another_seed_another(artifact, materials, tmp_path):
    given = materials("named")
    first = judged(artifact, given, tmp_path / "one")
    assert judged(artifact, given, tmp_path / "two", order=9)["id"] == first["id"]
    path = given / "attack" / "attack.json"
    attack = json.loads(path.read_text())
    for changed in ({"seed": 1}, {"draws": 4}, {"views": 2}, {"knowledge": ["encoder"]}):
        path.write_text(json.dumps({**attack, **changed}))
        assert judged(artifact, given, tmp_path / "three")["id"] != first["id"], changed


def test_a_cells_place_in_a_campaign_is_kept_and_changes_no_id(artifact, materials, tmp_path):
    given = materials("placed")
    plain, placed = (
        make_record(
            artifact, given / "attack", given / "victims.npz", given / "ledger.json", tmp_path / "cell", 0, place
        )
        for place in (None, {"campaign": "small", "plus": None})
    )
    assert placed["cell"] == {"campaign": "small", "plus": None}
    assert "cell" not in plain
    assert placed["id"] == plain["id"]


def test_an_attacker_who_owned_a_victim_gets_no_record(artifact, materials, tmp_path, small_splits):
    given = materials("cheat", public=small_splits.victims)
    with pytest.raises(ValueError, match="40 of them are the same"):
        judged(artifact, given, tmp_path / "cell")
    assert not (tmp_path / "cell").exists()


def test_a_missing_input_is_named(artifact, materials, tmp_path):
    given = materials("gone")
    (given / "ledger.json").unlink()
    with pytest.raises(FileNotFoundError, match="ledger"):
        judged(artifact, given, tmp_path / "cell")
