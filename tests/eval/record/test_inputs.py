import json

import pytest

from splitleak.artifacts import write_json
from splitleak.defenses.artifact import artifact_digest, read_record
from splitleak.defenses.artifact import save as save_artifact
from splitleak.defenses.training import TargetConfig, train
from splitleak.eval.record.inputs import Attacked, target_of
from splitleak.eval.targets.backdoor import PoisonConfig, poison
from splitleak.seeding import resolve_device

DOCUMENT = {
    "attack": "decoder",
    "config": {"epochs": 2},
    "seed": 3,
    "queries": 300,
    "views": 2,
    "knowledge": ["public", "query"],
    "rebuilt": 40,
    "findings": {"held_out_mse": 0.1, "own": [1, 2]},
    "public_hashes": ["a", "b"],
    "provenance": {"commit": "abc"},
}


@pytest.fixture
def attacked(tmp_path):
    def make(*left_out, **changes):
        kept = {key: value for key, value in {**DOCUMENT, **changes}.items() if key not in left_out}
        write_json(tmp_path / "attack.json", kept)
        return Attacked.read(tmp_path)

    return make


def test_the_target_is_told_with_a_digest_of_its_weights(artifact):
    target, made = target_of(artifact)
    assert made == read_record(artifact)
    assert (target.name, target.accuracy, target.digest) == ("toy", made["accuracy"], artifact_digest(artifact))
    assert target.design.document().items() >= {"seed": 0}.items()
    assert target.design.model.architecture == "cnn"
    assert target.dataset.document() == made["dataset"]


def test_a_target_of_poisoned_images_is_told_with_the_poison(small_splits, tmp_path):
    poisoned = poison(small_splits, PoisonConfig(trigger="blended", fraction=0.1))
    document = {"model": {"architecture": "cnn", "width": 0.25, "channels": 1, "size": 16, "classes": 10}}
    config = TargetConfig.parse({**document, "training": {"epochs": 1}}, source="test")
    save_artifact(tmp_path / "bad", "bad", train(config, poisoned, device=resolve_device("cpu")))
    target, _ = target_of(tmp_path / "bad")
    assert target.dataset.document() == poisoned.record
    assert target.dataset.poison["fraction"] == 0.1


@pytest.mark.parametrize("key", ["config", "seed", "queries", "knowledge"])
def test_what_every_attack_tells_is_not_made_up_where_it_lacks(attacked, key):
    with pytest.raises(ValueError, match=rf"attack\.json: expected keys {key} too, got attack"):
        attacked(key)


def test_what_an_attack_left_is_the_run_the_threat_model_and_whose_images_it_had(attacked):
    found = attacked()
    assert (found.run.name, found.run.config, found.run.seed, found.run.rebuilt) == ("decoder", {"epochs": 2}, 3, 40)
    assert found.run.findings.held_out_mse == 0.1
    assert found.run.findings.document()["own"] == [1, 2]  # an attack may have figures of its own
    assert found.public == ("a", "b")
    threat = found.threat_model(sees="features")
    assert (threat.sees, threat.queries, threat.views, threat.draws) == ("features", 300, 2, 1)
    assert threat.knowledge == ("public", "query")


def test_what_tells_attacks_apart_leaves_out_what_older_ones_did_not_write(attacked):
    keys = ("attack", "seed", "prior", "views")
    assert attacked().identity(*keys) == ["decoder", 3, 2]
    assert attacked(prior="p").identity(*keys) == ["decoder", 3, "p", 2]


@pytest.mark.parametrize("lacking", ["attack", "public_hashes"])
def test_what_no_attack_wrote_is_refused_by_file_and_key(attacked, tmp_path, lacking):
    with pytest.raises(ValueError, match=rf"attack\.json: expected a key '{lacking}'"):
        attacked(lacking)


def test_findings_that_are_no_figures_are_refused(attacked):
    with pytest.raises(ValueError, match=r"attack\.json: expected a AttackRun, but findings\.held_out_mse"):
        attacked(findings={"held_out_mse": "low"})


def test_nothing_at_all_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        Attacked.read(tmp_path)
    (tmp_path / "attack.json").write_text(json.dumps([]))
    with pytest.raises(ValueError, match="expected a table of keys and values"):
        Attacked.read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"public_hashes": 5}, "a list of hashes as public_hashes, got 5"),
        ({"public_hashes": "ab"}, "a list of hashes as public_hashes, got 'ab'"),
        ({"public_hashes": [1]}, r"a list of hashes as public_hashes, got \[1\]"),
        ({"models": ["edge"]}, r"digests by name as models, got \['edge'\]"),
    ],
)
def test_what_is_of_another_kind_than_an_attack_writes_is_refused_by_file_and_key(attacked, changes, said):
    with pytest.raises(ValueError, match=rf"attack\.json: expected {said}"):
        attacked(**changes)
