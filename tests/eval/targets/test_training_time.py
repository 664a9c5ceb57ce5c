import pytest

from splitleak.defenses.training import TargetConfig
from splitleak.eval.targets.training_time import TimeConfig, training_times

BRIEF = TimeConfig(rounds=2, epochs=1, images=64)


def target(epochs=4, defenses=()):
    document = {
        "model": {"architecture": "conv3", "width": 0.05, "channels": 1, "size": 16, "classes": 10},
        "defenses": list(defenses),
        "training": {"epochs": epochs, "batch_size": 32},
    }
    return TargetConfig.parse(document, source="test")


def test_the_baseline_is_once_itself_and_more_epochs_count_in_proportion(small_splits):
    found = training_times({"none": target(), "long": target(epochs=4000)}, "none", small_splits, BRIEF)
    assert found["targets"]["none"]["ratio"] == 1
    assert found["targets"]["long"]["ratio"] > 50  # a thousand times the epochs, each of about the same cost
    for each in found["targets"].values():
        assert each["lowest"] <= each["ratio"] <= each["highest"]
        assert each["seconds"] > 0
    assert found["images"] == 64


def test_a_defense_that_swaps_its_head_is_trained_as_any(small_splits):
    swapped = target(defenses=[{"name": "low-rank", "config": {"rank": 4, "swap_at": 0.5}}])
    assert training_times({"none": target(), "x": swapped}, "none", small_splits, BRIEF)["targets"]["x"]["ratio"] > 0


def test_the_baseline_is_one_of_the_targets(small_splits):
    with pytest.raises(ValueError, match="expected a baseline of none, got 'nobody'"):
        training_times({"none": target()}, "nobody", small_splits, BRIEF)
