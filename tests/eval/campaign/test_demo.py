from importlib.resources import as_file, files
from pathlib import Path

import pytest

from splitleak.artifacts import write_json
from splitleak.attacker.run import AttackConfig
from splitleak.defenses.training import TargetConfig
from splitleak.eval.campaign import demo
from splitleak.eval.campaign.demo import DemoConfig


@pytest.fixture
def config():
    with as_file(files("splitleak.eval") / "campaigns" / "demo.toml") as path:
        return DemoConfig.read(path)


@pytest.fixture
def commands(monkeypatch):
    """The commands that the demo would have run."""
    made = []
    monkeypatch.setattr(demo, "run", made.append)
    return made


def test_the_demos_file_is_one_undefended_target_and_two_stacks(config):
    assert [target.name for target in config.targets] == ["no-defense", "bottleneck+noise", "bottleneck+noise+cem"]
    for target in config.targets:
        assert target.name == ("+".join(each["name"] for each in target.defenses) or "no-defense").replace(
            "gaussian-", ""
        )


def test_every_target_and_the_attack_of_the_file_can_be_built(config):
    shape = {"channels": 1, "size": 32, "classes": 10}
    for target in config.targets:
        document = {"model": {**shape, **config.model}, "training": config.training, "defenses": target.defenses}
        made = TargetConfig.parse(document, source="demo")
        for defense in made.defenses:
            defense.build()
    AttackConfig.parse(config.attack, source="demo").build()


def test_a_misspelt_key_of_the_file_is_refused(config):
    with pytest.raises(ValueError, match="targest"):
        DemoConfig.parse({**config.document(), "targest": []}, source="demo")


def test_images_split_by_the_same_settings_are_reused(tmp_path, config, commands):
    def split(seed):
        demo._split(tmp_path, config.split, seed, lambda text: None)

    split(3)
    assert commands == [["split", "--out", str(tmp_path), "--seed", "3", "--public=2000", "--victims=200"]]
    write_json(tmp_path / "splits.json", {"config": {**config.split.document(), "seed": 3}})
    split(3)
    assert len(commands) == 1
    split(4)
    assert len(commands) == 2


def test_an_attack_is_done_once_for_each_target_seed_and_setting(tmp_path, config, monkeypatch):
    class Ran(Exception):
        """The processes would have started."""

    def start(*_):
        raise Ran

    monkeypatch.setattr(demo, "service", start)
    target = config.targets[0]
    made = {"target": {}, "dataset": {}, "provenance": {"time": "then"}}
    artifact = tmp_path / "targets" / target.name / "artifact.json"
    write_json(artifact, made)
    done = tmp_path / "cells" / target.name / "done.json"

    def attack(seed=0):
        demo._attack(tmp_path, 0, target, config, tmp_path, seed, lambda text: None)

    with pytest.raises(Ran):
        attack()
    attacked = demo.AttackConfig(**config.attack, seed=0).build().config.document()
    key = demo.digest([{}, {}, "then", config.attack, attacked, 0])
    write_json(done, {"key": key})
    attack()
    with pytest.raises(Ran):
        attack(seed=1)
    assert not done.exists()
    write_json(done, {"key": key})
    write_json(artifact, {**made, "provenance": {"time": "later"}})
    with pytest.raises(Ran):
        attack()


def test_latency_is_measured_once_for_the_same_artifacts(tmp_path, commands):
    artifacts = [tmp_path / "a"]
    write_json(tmp_path / "a" / "artifact.json", {"provenance": {"time": "then"}})
    for _ in range(2):
        demo._latency(tmp_path, artifacts, lambda text: None)
        write_json(Path(commands[0][-1]), {})
    assert [command[:2] for command in commands] == [["latency", str(tmp_path / "a")]]
    write_json(tmp_path / "a" / "artifact.json", {"provenance": {"time": "later"}})
    demo._latency(tmp_path, artifacts, lambda text: None)
    assert len(commands) == 2
