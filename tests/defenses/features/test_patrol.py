import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD

from splitleak.datasets import load
from splitleak.datasets.splits import SplitConfig, split
from splitleak.defenses.artifact import load_edge, save
from splitleak.defenses.base import EpochEnd
from splitleak.defenses.features.patrol import Patrol, PatrolConfig
from splitleak.defenses.features.pruning import GatedBatchNorm
from splitleak.defenses.stack import DefenseConfig, Stack
from splitleak.defenses.training import TargetConfig, TrainingConfig, assemble, train, training_step
from splitleak.models.split import ModelConfig, SplitModel

CPU = torch.device("cpu")
SMALL = {"name": "patrol", "blocks": 0, "channels": 8, "extra_channels": 4, "exempt": 8, "ratio": 0.25}


def target_config(*documents, width=1.0, channels=3, architecture="vgg11", size=32, **training):
    return TargetConfig(
        model=ModelConfig(architecture=architecture, width=width, channels=channels, size=size, classes=10),
        defenses=tuple(DefenseConfig.model_validate(document) for document in documents),
        training=TrainingConfig(**{"epochs": 4, "batch_size": 32, **training}),
    )


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def end(epoch, epochs=4):
    return EpochEnd(epoch, epochs, lambda: (torch.empty(0), torch.empty(0)))


def small(*before, **changes):
    """A quarter of the network behind a bottleneck, the defense in it, and one training step."""
    documents = ({"name": "bottleneck"}, *before, {**SMALL, **changes})
    model, stack = assemble(target_config(*documents, width=0.25), "cifar10")
    stack.seed(0, CPU)
    *_, defense = stack
    trained = [*model.parameters(), *stack.task_parameters()]
    optimizer = SGD(trained, lr=0.05, momentum=0.9, weight_decay=5e-4)
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def step():
        return training_step(model, stack, optimizer, images, torch.arange(8), epoch=1, rate=0.05)

    return model.train(), defense, step


def widths(model):
    return [layer.out_channels for layer in model.encoder.modules() if isinstance(layer, nn.Conv2d)]


def test_the_published_edge_has_the_published_size_before_and_after_pruning():
    model, stack = assemble(target_config({"name": "bottleneck"}, {"name": "patrol"}), "cifar10")
    cloud = parameters(model.head)
    assert parameters(model.encoder) == 93_224
    assert widths(model) == [16, 64, 128, 8]
    stack.finish(model)
    assert parameters(model.encoder) == 83_723
    assert widths(model) == [16, 60, 121, 8]
    assert parameters(model.head) == cloud == 9_689_738


def test_without_a_bottleneck_the_last_layer_is_not_pruned():
    model, stack = assemble(target_config({"name": "patrol"}), "cifar10")
    stack.finish(model)
    assert widths(model) == [16, 60, 128]
    assert model.feature_shape == (128, 8, 8)


def test_behind_the_layer_put_before_it_the_first_convolution_keeps_its_dilation_and_its_padding():
    first = nn.Conv2d(3, 16, 3, padding=2, dilation=2, padding_mode="reflect")
    encoder = nn.Sequential(first, nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1))
    model = SplitModel(encoder, nn.Flatten(), (3, 16, 16))
    Patrol(PatrolConfig(blocks=0, channels=8, extra_channels=4, exempt=8)).prepare(model, 10)
    assert model.encoder(torch.rand(2, 3, 16, 16)).shape == (2, 8, 16, 16)
    deeper = next(layer for layer in model.encoder.modules() if isinstance(layer, nn.Conv2d) and layer.in_channels == 4)
    assert (deeper.dilation, deeper.padding_mode) == (first.dilation, first.padding_mode)


def test_a_resnet_is_pruned_inside_its_blocks():
    config = target_config({"name": "bottleneck"}, {"name": "patrol"}, architecture="resnet20", size=64)
    model, stack = assemble(config, "cifar10")
    stack.finish(model)
    assert widths(model) == [16, 16, *[32] * 6, 60, 64, 8]
    with torch.no_grad():
        assert model.eval()(torch.rand(2, 3, 64, 64)).shape == (2, 10)


def test_after_pruning_every_tensor_trains_and_masked_channels_stay_masked():
    model, defense, step = small()
    step()
    defense.on_epoch(end(2))
    gates = [layer for layer in model.encoder.modules() if isinstance(layer, GatedBatchNorm)]
    closed = [int((gate.mask == 0).sum()) for gate in gates]
    assert closed == [4, 8]
    step()
    before = {name: parameter.detach().clone() for name, parameter in model.encoder.named_parameters()}
    step()
    assert all(not torch.equal(before[name], p) for name, p in model.encoder.named_parameters())
    assert [int((gate.mask == 0).sum()) for gate in gates] == closed


def test_pruning_is_at_its_share_of_the_epochs_by_the_importance_of_the_epoch_before():
    model, defense, step = small()
    gates = [layer for layer in model.encoder.modules() if isinstance(layer, GatedBatchNorm)]
    for epoch in range(4):
        step()
        least = [gate.importance.argsort()[: len(gate.mask) // 4].sort().values for gate in gates]
        defense.on_epoch(end(epoch))
        assert all(bool((gate.mask == 0).any()) == (epoch >= 2) for gate in gates)
        assert not any(gate.importance.any() for gate in gates)
        if epoch == 2:
            closed = [(gate.mask == 0).nonzero().flatten() for gate in gates]
            assert all(map(torch.equal, closed, least))


def test_cutting_the_channels_out_changes_no_output():
    model, defense, step = small()
    for epoch in range(4):
        step()
        defense.on_epoch(end(epoch))
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        before = model.eval().encoder(images)
        defense.finish(model)
        torch.testing.assert_close(model.encoder(images), before)
    assert widths(model) == [4, 12, 24, 8]


def test_the_importance_includes_the_adversarial_penalty():
    (model, _, step), (other, _, other_step) = small(ssim_threshold=-1), small(weight=0)
    step()
    other_step()
    pairs = zip(model.encoder.modules(), other.encoder.modules(), strict=True)
    gates = [(a, b) for a, b in pairs if isinstance(a, GatedBatchNorm)]
    assert len(gates) == 2
    assert all(not torch.equal(a.importance, b.importance) for a, b in gates)


def test_an_encoder_without_prunable_layers_is_refused_with_its_widths():
    message = r"patrol: expected a layer of more than 32 channels \(exempt\) to prune, got layers of 4, 16, 32"
    with pytest.raises(ValueError, match=message):
        small(exempt=32)
    with pytest.raises(ValueError, match="got layers of 16, 16"):
        assemble(target_config({"name": "patrol"}, width=0.25), "cifar10")


def test_a_bottleneck_that_comes_later_is_refused():
    model, stack = assemble(target_config(SMALL, {"name": "bottleneck"}, width=0.25), "cifar10")
    stack.seed(0, CPU)
    optimizer = SGD(model.parameters(), lr=0.1)
    with pytest.raises(
        ValueError, match=r"patrol: expected features \(32, 8, 8\) \(a defense .* comes before patrol\)"
    ):
        training_step(model, stack, optimizer, torch.rand(4, 3, 32, 32), torch.arange(4), epoch=0, rate=0.1)


def test_at_ratio_zero_no_layer_is_pruned():
    model, defense, _ = small(ratio=0)
    for epoch in range(4):
        defense.on_epoch(end(epoch))
    defense.finish(model)
    assert widths(model) == [4, 16, 32, 8]


def test_the_lipschitz_term_of_linear_blocks_is_the_sum_of_their_gains():
    first, second = nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False)
    for layer, gain in ((first, 3.0), (second, -0.5)):
        nn.init.constant_(layer.weight, gain)
    encoder = nn.Sequential(nn.Identity(), first, second)
    defense = Patrol(PatrolConfig(ratio=0, blocks=0, channels=2))
    Stack([defense]).prepare(SplitModel(encoder, nn.Identity(), (1, 16, 16)), 2)
    encoder[1] = first  # without the extra layer
    assert float(defense.lipschitz(torch.rand(5, 1, 16, 16)).detach()) == pytest.approx(3.5, rel=1e-4)


def test_the_lipschitz_term_has_a_gradient_and_moves_no_statistic():
    model, defense, _ = small()
    before = copy.deepcopy(model.encoder.state_dict())
    defense.lipschitz(torch.rand(8, 3, 32, 32)).backward()
    assert model.encoder.training
    assert all(torch.equal(before[key], value) for key, value in model.encoder.state_dict().items())
    gradients = [p.grad for p in model.encoder.parameters() if p.grad is not None]
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert sum(bool(gradient.any()) for gradient in gradients) > len(gradients) / 2


def test_an_equal_pair_does_not_divide_by_zero():
    model, defense, _ = small()
    for parameter in model.encoder.parameters():
        nn.init.zeros_(parameter)
    value = defense.lipschitz(torch.rand(8, 3, 32, 32))
    value.backward()
    assert bool(value.isfinite())
    assert all(bool(p.grad.isfinite().all()) for p in model.encoder.parameters() if p.grad is not None)


def test_its_state_holds_the_surrogate_and_no_weight_of_the_model():
    _, defense, _ = small()
    assert {key.split(".")[0] for key in defense.state_dict()} == {"surrogate"}
    assert list(defense.task_parameters()) == []


def test_a_trained_targets_artifact_is_slim_and_loads(tmp_path):
    splits = split(load("builtin").fitted(32, 1), SplitConfig(train=96, public=10, victims=10, test=20))
    documents = ({"name": "bottleneck"}, {"name": "gaussian-noise", "sigma": 0.0}, SMALL)
    target = train(target_config(*documents, width=0.25, channels=1, epochs=2), splits, device=CPU)
    assert widths(target.model) == [4, 12, 24, 8]
    save(tmp_path / "a", "small", target)
    half = load_edge(tmp_path / "a" / "edge", CPU, seed=0)
    assert parameters(half.encoder) == parameters(target.model.encoder)
    images = splits.victims.floats()
    with torch.no_grad():
        expected = target.model.encoder(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(torch.from_numpy(half.encode(images.numpy())), expected, rtol=1e-4, atol=1e-5)
