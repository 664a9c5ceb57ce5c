import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors import SafetensorError

from splitleak.artifacts import load_tensors, save_tensors
from splitleak.defenses.artifact import artifact_digest
from splitleak.defenses.predictions.purifier import load_purifier

QUICK = ("--set", "model.architecture=cnn", "--set", "model.width=0.5", "--set", "training.epochs=1")


def test_a_target_that_cannot_be_trained_is_one_line_on_standard_error(refusal, images):
    short = ("--set", "model.architecture=cnn", "--set", "training.epochs=1")
    assert "abacus" in refusal("train", *short, "--device", "abacus", "--images", images)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("inspect", "nothing"), "nothing"),
        (("export", "nothing", "--triton", "models"), "nothing"),
        (("split", "--data", "nothing.npz"), "nothing.npz"),
        (("split", "--victims", "1000000"), "victims 1000000"),
    ],
)
def test_what_is_not_there_is_one_line_on_standard_error(refusal, arguments, said):
    assert said in refusal(*arguments)


def test_training_the_same_target_again_reuses_it(train, tmp_path):
    first = train()
    assert first["reused"] is False
    stamp = (tmp_path / "toy" / "artifact.json").stat().st_mtime_ns
    again = train()
    assert again == {**first, "reused": True}
    assert (tmp_path / "toy" / "artifact.json").stat().st_mtime_ns == stamp


def test_other_settings_replace_an_artifact_with_force_alone(call, train, images, tmp_path):
    train()
    before = artifact_digest(tmp_path / "toy")
    for more, said in (
        (("--seed", "1"), "target.seed 0 and not 1"),
        (("--set", "training.momentum=0.8"), "target.training.momentum 0.9 and not 0.8"),
        (("--name", "other"), "name 'toy' and not 'other'"),
    ):
        code, _, err = call("train", "--images", images, "--out", tmp_path / "toy", *QUICK, *more)
        assert (code, err.count("\n")) == (1, 1)
        assert f"it has {said}; --force replaces it" in err
    assert artifact_digest(tmp_path / "toy") == before
    assert train("--seed", "1", "--set", "training.momentum=0.8", "--force")["reused"] is False
    assert artifact_digest(tmp_path / "toy") != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy"]


def without_weights(toy):
    (toy / "cloud" / "weights.safetensors").unlink()


def without_a_half(toy):
    shutil.rmtree(toy / "edge")


def cut_short(toy):
    path = toy / "edge" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def not_a_number(toy):
    path = toy / "edge" / "weights.safetensors"
    weights, _ = load_tensors(path)
    save_tensors(path, {name: value * float("nan") for name, value in weights.items()})


def of_another_shape(toy):
    path = toy / "cloud" / "weights.safetensors"
    weights, _ = load_tensors(path)
    save_tensors(path, {name: value.flatten()[:1] for name, value in weights.items()})


BROKEN = [without_weights, without_a_half, cut_short, not_a_number, of_another_shape]


@pytest.mark.parametrize("breaks", BROKEN, ids=lambda breaks: breaks.__name__)
def test_a_broken_artifact_does_not_count_as_trained(train, call, tmp_path, breaks):
    first = train()
    before = artifact_digest(tmp_path / "toy")
    breaks(tmp_path / "toy")
    code, out, err = call("inspect", tmp_path / "toy")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert train() == first
    assert artifact_digest(tmp_path / "toy") == before


def test_two_trainings_of_one_artifact_do_not_mix(call, images, tmp_path):
    holder = "import sys, pathlib\nfrom splitleak.outputs import locked\n"
    holder += "with locked(pathlib.Path(sys.argv[1])):\n    print('ready', flush=True)\n    sys.stdin.read()\n"
    command = [sys.executable, "-c", holder, str((tmp_path / "toy").resolve())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "ready\n"
        code, _, err = call("train", "--images", images, "--out", tmp_path / "toy", *QUICK)
        other.stdin.close()
    assert (code, err.count("\n")) == (1, 1)
    assert f"alone in writing {tmp_path / 'toy'}, but process {other.pid}" in err


def test_a_full_disk_after_the_training_is_one_line(call, images, tmp_path, monkeypatch):
    def full(tensors, path, metadata):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("splitleak.artifacts.save_file", full)
    code, out, err = call("train", "--images", images, "--out", tmp_path / "toy", *QUICK)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("splitleak: expected to write ")
    assert "No space left on device" in err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_purify_writes_a_purifier_that_loads_and_says_what_it_costs(toy, images, call, tmp_path):
    asked = ("purify", toy, "--images", images, "--out", tmp_path / "p", "--set", "epochs=2")
    code, out, _ = call(*asked, "--json")
    found = json.loads(out)
    assert code == 0
    assert load_purifier(tmp_path / "p").config.epochs == 2
    record = json.loads((tmp_path / "p" / "record.json").read_text())
    assert record["cost"].items() <= found.items()
    assert record["provenance"]["command"].startswith("splitleak purify")
    assert call(*asked, "--set", "epoch=2")[0] == 1
    code, out, _ = call(*asked)
    assert "confidence distortion" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p", "toy"]


def test_inspect_shows_both_halves_and_counts_all_parameters(toy, call):
    code, out, _ = call("inspect", toy, "--json")
    found = json.loads(out)
    assert code == 0
    for half in ("edge", "cloud"):
        assert found[half]["parameters"] > 0
        assert found[half]["macs"] > 0
    code, out, _ = call("inspect", toy)
    assert code == 0
    assert "edge: " in out
    assert "cloud: " in out
    assert "after nothing" in out


def test_export_writes_a_model_for_triton_once_and_again_only_by_force(toy, call, tmp_path):
    command = ("export", toy, "--triton", tmp_path / "models", "--backend", "python")
    code, out, _ = call(*command, "--json")
    assert (code, json.loads(out)["folder"]) == (0, str(tmp_path / "models" / "toy"))
    assert (tmp_path / "models" / "toy" / "1" / "model.py").is_file()
    code, out, err = call(*command)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "--force" in err
    assert call(*command, "--force")[0] == 0


def test_split_writes_four_files_that_share_no_image(call, tmp_path):
    code, out, _ = call(
        *("split", "--out", tmp_path / "s", "--size", "16", "--json"),
        *("--train", "30", "--public", "20", "--victims", "10", "--test", "5"),
    )
    assert code == 0
    assert json.loads(out)["images"] == {"train": 30, "public": 20, "victims": 10, "test": 5}
    assert {path.name for path in (tmp_path / "s").iterdir()} == {
        *("train.npz", "public.npz", "victims.npz", "test.npz"),
        "splits.json",
    }


@pytest.fixture
def pictures(tmp_path):
    """A folder with pools, a broken file, a hidden one, a copy, and images of several kinds."""
    folder = tmp_path / "pets"
    values = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    for at, pixels in enumerate(values):
        place = folder / ("train" if at < 40 else "val") / ("cat" if at % 2 else "dog") / f"{at}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels if at else pixels[..., 0]).save(place)
    shutil.copy(folder / "train" / "cat" / "1.png", folder / "train" / "cat" / "copy.png")
    (folder / "train" / "cat" / "._1.png").write_bytes(b"x")
    (folder / "train" / "cat" / "bad.png").write_bytes(b"x")
    return folder


def test_split_takes_the_attacked_from_the_test_pool_where_that_is_asked(call, tmp_path):
    code, out, _ = call("split", "--from", "test", "--public", 50, "--victims", 20, "--out", tmp_path / "i", "--json")
    assert code == 0
    assert json.loads(out)["images"] == {"train": 7000, "public": 50, "victims": 20, "test": 2000}
    assert json.loads((tmp_path / "i" / "splits.json").read_text())["config"]["from"] == "test"


def test_split_says_what_it_read_what_it_left_out_and_what_to_doubt(call, pictures, tmp_path):
    asked = ("split", "--data", pictures, "--out", tmp_path / "s", "--public", "5", "--victims", "5", "--skip-bad")
    code, out, err = call(*asked)
    assert (code, err) == (0, "")
    for line in (
        f"{tmp_path}/s: train 30, public 5, victims 5, test 20",
        "classes (2): cat 31, dog 30",
        "pools: train/ is the training pool, val/ is the test pool",
        "duplicates dropped: 1",
        "ignored: 1 hidden and system files, the first train/cat/._1.png",
        "note: 1 of 61 images are grey, the others in colour",
    ):
        assert f"{line}\n" in out
    assert "skipped: train/cat/bad.png: it cannot be read as any of PNG" in out
    code, out, _ = call(*asked, "--json")
    found = json.loads(out)
    assert found["classes"] == {"cat": 31, "dog": 30}
    assert [each["file"] for each in found["skipped"]] == ["train/cat/bad.png"]
    assert json.loads((tmp_path / "s" / "splits.json").read_text())["summary"]["duplicates"] == 1


def test_a_broken_image_ends_split_in_one_line_that_names_it(refusal, pictures):
    said = refusal("split", "--data", pictures, "--public", "5", "--victims", "5")
    assert f"{pictures}: expected an image at train/cat/bad.png" in said


def test_one_class_only_is_flagged(call, pictures, tmp_path):
    for name in ("bad.png", "copy.png"):
        (pictures / "train" / "cat" / name).unlink()
    code, out, _ = call(
        *("split", "--data", pictures / "train" / "cat", "--out", tmp_path / "s", "--public", "5", "--victims", "5")
    )
    assert code == 0
    assert "flag: there is one class only, unlabelled: whatever a target answers is right" in out


def test_split_of_some_classes_writes_the_others_beside_them(call, tmp_path):
    code, out, err = call(
        *("split", "--out", tmp_path / "s", "--size", "16", "--json", "--classes", 3, "--stratified"),
        *("--train", "30", "--public", "20", "--victims", "10", "--test", "6"),
    )
    assert code == 0, err
    assert json.loads(out)["images"] == {"train": 30, "public": 20, "victims": 10, "test": 6, "generic": 20}
    record = json.loads((tmp_path / "s" / "splits.json").read_text())
    assert (len(record["classes"]), record["config"]["stratified"]) == (3, True)
    assert (tmp_path / "s" / "generic.npz").is_file()


def test_a_mistyped_data_set_is_told_the_nearest(refusal):
    assert "got 'photograph'; did you mean 'photographs'?" in refusal("split", "--data", "photograph")
