import pytest
import torch
from torch import nn

from splitleak.defenses.artifact import load_cloud, load_edge, save
from splitleak.defenses.features.ressfl import ResSFL, ResSFLConfig
from splitleak.defenses.stack import Stack
from splitleak.defenses.training import train
from splitleak.models.split import SplitModel

CPU = torch.device("cpu")


def test_the_published_surrogate_and_weights_are_the_default():
    assert ResSFLConfig().document() == {
        "weight": 0.3,
        "measure": "ssim",
        "ssim_threshold": 0.5,
        "inner_steps": 1,
        "learning_rate": 1e-3,
        "blocks": 4,
        "channels": 64,
    }
    defense = ResSFL(ResSFLConfig())
    encoder = nn.Sequential(nn.Conv2d(3, 8, 1), nn.AvgPool2d(4))
    Stack([defense]).prepare(SplitModel(encoder, nn.Identity(), (3, 32, 32)), 10)
    assert sum(parameter.numel() for parameter in defense.surrogate.parameters()) == 415_091


@pytest.mark.slow
def test_one_seed_gives_one_surrogate_and_another_seed_another(small_target, small_splits):
    document = {"name": "ressfl", "blocks": 0, "channels": 8}
    first, again, other = (
        train(small_target(document, seed=seed, epochs=1), small_splits, device=CPU).stack.state_dict()
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_an_adversary_of_weight_zero_does_not_change_the_target(small_target, small_splits):
    plain = train(small_target(epochs=1), small_splits, device=CPU)
    weightless = train(small_target({"name": "ressfl", "weight": 0}, epochs=1), small_splits, device=CPU)
    expected = plain.model.state_dict()
    assert all(torch.equal(expected[key], value) for key, value in weightless.model.state_dict().items())


def test_no_half_holds_the_surrogate(small_target, small_splits, tmp_path):
    stack = ("gaussian-noise", {"name": "ressfl", "blocks": 0, "channels": 8})
    target = train(small_target(*stack, epochs=1), small_splits, device=CPU)
    assert any("surrogate" in key for key in target.stack.state_dict())
    save(tmp_path / "a", "small", target)
    edge, cloud = load_edge(tmp_path / "a" / "edge", CPU, seed=0), load_cloud(tmp_path / "a" / "cloud", CPU)
    assert [each.name for each in edge.stack] == ["gaussian-noise"]
    images = small_splits.victims.floats()
    assert cloud.predict(edge.encode(images.numpy())).shape == (len(images), len(small_splits.train.classes))


def test_a_bottleneck_after_the_adversary_is_refused(small_target, small_splits):
    with pytest.raises(ValueError, match=r"ressfl: expected features \(16, 4, 4\) .*, got \(8, 4, 4\)"):
        train(small_target("ressfl", "bottleneck"), small_splits, device=CPU)
