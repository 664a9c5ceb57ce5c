import json

import pytest

from splitleak.cli.documents import half_of, read_settings


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--set", "training.epochs"), "expected --set KEY=VALUE, got 'training.epochs'"),
        (("--set", "=3"), "expected --set KEY=VALUE"),
        (("--set", "training.epoch=3"), "training.epoch"),
        (("--set", "training.epochs=0"), "training.epochs"),
        (("--set", "training.epochs=many"), "'many'"),
        (("--set", "seed.deeper=1"), "expected a table 'seed' for --set seed.deeper=1, got 0"),
        (("--set", "nopeek.weight=1"), "nopeek"),
        (("--config", "none.toml"), "none.toml"),
    ],
)
def test_a_bad_setting_or_file_is_one_line_on_standard_error(refusal, images, arguments, said):
    assert said in refusal("train", *arguments, "--images", images)


def test_settings_are_laid_over_a_file_and_stand_alone_without_one(tmp_path):
    (tmp_path / "made.toml").write_text("epochs = 3\n[inner]\nwidth = 2")
    assert read_settings(tmp_path / "made.toml", None) == {"epochs": 3, "inner": {"width": 2}}
    assert read_settings(tmp_path / "made.toml", ["inner.width=4"]) == {"epochs": 3, "inner": {"width": 4}}
    assert read_settings(None, ["name=some text"]) == {"name": "some text"}


def test_a_half_is_found_in_an_artifact_and_is_itself_alone(tmp_path):
    assert half_of(tmp_path, "edge") == tmp_path
    (tmp_path / "artifact.json").touch()
    assert half_of(tmp_path, "edge") == tmp_path / "edge"


def test_a_setting_reaches_the_defense_it_names(train, tmp_path):
    train("--defense", "bottleneck", "--defense", "gaussian-noise", "--set", "gaussian-noise.sigma=0.125")
    target = json.loads((tmp_path / "toy" / "artifact.json").read_text())["target"]
    assert [defense["name"] for defense in target["defenses"]] == ["bottleneck", "gaussian-noise"]
    assert target["defenses"][1]["config"]["sigma"] == 0.125
    assert target["training"]["epochs"] == 1
    edge = json.loads((tmp_path / "toy" / "edge" / "half.json").read_text())
    assert edge["target"] == target


def test_a_config_file_is_laid_over_the_preset_and_settings_over_both(train, tmp_path):
    (tmp_path / "target.toml").write_text(
        "seed = 5\n[training]\nmomentum = 0.7\nepochs = 9\n[[defenses]]\nname = 'gaussian-noise'\nsigma = 0.5\n"
    )
    train("--config", tmp_path / "target.toml", "--set", "gaussian-noise.sigma=0.25")
    target = json.loads((tmp_path / "toy" / "artifact.json").read_text())["target"]
    assert (target["seed"], target["training"]["momentum"], target["training"]["epochs"]) == (5, 0.7, 1)
    assert target["defenses"][0]["config"]["sigma"] == 0.25


def test_a_setting_that_no_server_has_is_one_line(call, tmp_path):
    (tmp_path / "server.toml").write_text("[limits]\ncals = 3")
    code, _, err = call("tap", "--upstream", "h:1", "--capture", tmp_path / "c", "--server", tmp_path / "server.toml")
    assert (code, err.count("\n")) == (1, 1)
    assert "limits.cals" in err


@pytest.mark.parametrize(
    "command",
    [
        ("split", "--out", "made"),
        ("poison", "none", "--out", "made"),
        ("robustness", "none", "--images", "none"),
        ("extraction", "none", "--artifact", "none", "--train-images", "none"),
        ("purify", "none", "--images", "none"),
        ("train",),
        ("prior", "none"),
    ],
)
def test_every_command_with_settings_takes_them_from_a_file_which_its_refusal_names(refusal, tmp_path, command):
    (tmp_path / "asked.json").write_text('{"seeed": 1}')
    assert refusal(*command, "--config", "asked.json").startswith("splitleak: asked.json: expected a ")


def test_a_file_of_settings_lies_over_the_options_of_a_split(call, tmp_path):
    (tmp_path / "asked.json").write_text('{"public": 30, "victims": 5, "train": 40, "test": 10, "seed": 2}')
    code, out, err = call("split", "--out", tmp_path / "made", "--config", tmp_path / "asked.json", "--json")
    assert code == 0, err
    assert json.loads(out)["images"] == {"train": 40, "public": 30, "victims": 5, "test": 10}
    assert json.loads((tmp_path / "made" / "splits.json").read_text())["config"]["seed"] == 2
