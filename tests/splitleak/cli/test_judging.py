import json

import numpy as np

from splitleak.artifacts import write_json


def test_a_score_of_what_is_not_there_is_one_line_on_standard_error(refusal):
    assert "a" in refusal("score", "--artifact", "a", "--attack", "b", "--truth", "t", "--ledger", "l")


def test_a_place_that_cannot_be_read_is_refused_before_anything_is_judged(refusal):
    given = ("--artifact", "a", "--attack", "b", "--evaluator", "e", "--train-images", "t", "--cell", "place.toml")
    assert "place.toml" in refusal("score-classes", *given)


def test_the_score_of_a_study_names_the_attack_behind_each_side(call, tmp_path):
    pairs = [{"pair": n, "label": n, "turn": 0, "left": "a"} for n in range(4)]
    write_json(tmp_path / "key.json", {"study": "s", "a": {"attack": "x"}, "b": {}, "seed": 0, "pairs": pairs})
    votes = [{"pair": n, "choice": "left" if n else "right", "seconds": 2.5} for n in range(4)]
    write_json(tmp_path / "votes.json", {"study": "s", "voter": "v", "votes": votes})
    asked = ("study-score", tmp_path / "votes.json", "--key", tmp_path / "key.json")
    code, out, _ = call(*asked)
    assert code == 0
    assert out.startswith("A (x) 75.0%")
    assert "B (?) 25.0%" in out
    assert json.loads(call(*asked, "--json")[1])["answers"] == 4


def test_reconstructions_of_any_source_are_scored_and_marked_as_without_provenance(call, tmp_path):
    np.save(tmp_path / "truth.npy", np.zeros((2, 1, 16, 16), np.uint8))
    np.save(tmp_path / "made.npy", np.full((2, 1, 16, 16), 0.1))
    given = ("score", "--reconstructions", tmp_path / "made.npy", "--truth", tmp_path / "truth.npy")
    for idle in (("--order", 2), ("--auxiliary-data", "mine")):
        assert "expected --reconstructions with --truth alone" in call(*given, "--out", tmp_path / "idle", *idle)[2]
    code, out, err = call(*given, "--out", tmp_path / "out")
    assert code == 0, err
    assert "mse 0.0100" in out
    assert "without provenance" in out
    assert call(*given, "--artifact", tmp_path)[0] == 2
    assert call("score", "--truth", tmp_path / "truth.npy")[0] == 2


def test_pictures_too_small_for_ssim_are_scored_without_it(call, tmp_path):
    np.save(tmp_path / "truth.npy", np.zeros((2, 1, 8, 8), np.uint8))
    np.save(tmp_path / "made.npy", np.full((2, 1, 8, 8), 0.1))
    given = ("score", "--reconstructions", tmp_path / "made.npy", "--truth", tmp_path / "truth.npy")
    code, out, err = call(*given, "--out", tmp_path / "out")
    assert code == 0, err
    assert "mse 0.0100, psnr 20.0000 over 2 images" in out
