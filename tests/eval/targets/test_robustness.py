import json

import pytest
import torch
from typer.testing import CliRunner

from splitleak.cli import app
from splitleak.defenses.artifact import load_whole, save
from splitleak.defenses.training import TargetConfig, train
from splitleak.eval.targets.backdoor import PoisonConfig, poison
from splitleak.eval.targets.robustness import RobustnessConfig, backdoor_line, measure_robustness, rows

CPU = torch.device("cpu")
QUICK = {"steps": 3, "population": 4, "generations": 1, "images": 120}


@pytest.fixture(scope="module")
def images(tmp_path_factory, small_splits):
    folder = tmp_path_factory.mktemp("images")
    small_splits.save(folder)
    return folder


def shares(found, mode):
    return {name: modes[mode]["share"] for name, modes in found["attacks"].items()}


def test_without_room_every_attack_is_the_clean_error(artifact, images, small_splits):
    config = RobustnessConfig(epsilon=0, **QUICK)
    found = measure_robustness(artifact, images, config, CPU)
    model = load_whole(artifact, CPU, seed=0)
    answers = torch.from_numpy(model.predict(small_splits.test.floats()[:120].numpy())).argmax(1)
    labels = small_splits.test.labels[:120]
    untargeted, targeted = shares(found, "untargeted"), shares(found, "targeted")
    error, confused = float((answers != labels).float().mean()), float((answers == (labels + 1) % 10).float().mean())
    for name in ("clean", "fgsm", "bim", "pgd"):
        assert untargeted[name] == pytest.approx(error)
        assert targeted[name] == pytest.approx(confused)
    assert found["attacks"]["clean"]["untargeted"]["n"] == found["images"] == 120


def test_attacks_do_more_harm_than_clean_images_do(artifact, images):
    found = measure_robustness(artifact, images, RobustnessConfig(**QUICK), CPU)
    untargeted, targeted = shares(found, "untargeted"), shares(found, "targeted")
    for name in ("fgsm", "bim", "pgd"):
        assert untargeted[name] >= untargeted["clean"]
        assert targeted[name] >= targeted["clean"]
    assert untargeted["pgd"] > untargeted["clean"] + 0.02
    assert found["backdoor"] is None
    assert backdoor_line(found) is None
    assert [row[0] for row in rows(found)] == ["clean", "fgsm", "bim", "pgd", "one-pixel"]
    assert measure_robustness(artifact, images, RobustnessConfig(**QUICK), CPU)["attacks"] == found["attacks"]


def test_noise_on_the_wire_is_judged_but_not_seen_by_the_attack(tmp_path, images, small_splits):
    document = {
        "model": {"architecture": "cnn", "width": 0.25, "channels": 1, "size": 16, "classes": 10},
        "defenses": [{"name": "gaussian-noise", "sigma": 100.0}],
        "training": {"epochs": 1},
    }
    save(tmp_path / "noisy", "noisy", train(TargetConfig.parse(document, source="test"), small_splits, device=CPU))
    found = measure_robustness(tmp_path / "noisy", images, RobustnessConfig(**QUICK), CPU)
    assert shares(found, "untargeted")["clean"] > 0.7  # at such noise it guesses


def test_images_that_the_target_was_not_trained_with_are_refused(artifact, tmp_path, small_splits):
    poison(small_splits, PoisonConfig()).save(tmp_path)
    with pytest.raises(ValueError, match=r"expected the images that .*toy was trained on, got others"):
        measure_robustness(artifact, tmp_path, RobustnessConfig(), CPU)


@pytest.mark.slow
def test_a_learned_backdoor_has_a_high_success_rate_and_the_command_prints_it(tmp_path, small_splits):
    poisoned = poison(small_splits, PoisonConfig(fraction=0.2, board=5))
    poisoned.save(tmp_path / "images")
    document = {
        "model": {"architecture": "cnn", "width": 0.5, "channels": 1, "size": 16, "classes": 10},
        "training": {"epochs": 12, "batch_size": 32, "augment": {"flip": False}},
    }
    save(tmp_path / "target", "target", train(TargetConfig.parse(document, source="test"), poisoned, device=CPU))
    asked = ["robustness", str(tmp_path / "target"), "--images", str(tmp_path / "images"), "--out"]
    settings = [part for key, value in QUICK.items() for part in ("--set", f"{key}={value}")]
    told = CliRunner().invoke(app, [*asked, str(tmp_path / "found.json"), *settings], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    assert "untargeted" in told.stdout
    assert "badnets: clean accuracy" in told.stdout
    found = json.loads((tmp_path / "found.json").read_text())["backdoor"]
    assert found["success_others"]["share"] > found["others_without_trigger"]["share"] + 0.3
    again = CliRunner().invoke(app, [*asked[:-1], *settings, "--json"], catch_exceptions=False)
    assert json.loads(again.stdout)["backdoor"] == found
