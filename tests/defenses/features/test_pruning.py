import copy

import pytest
import torch
from torch import nn

from splitleak.defenses.features.pruning import GatedBatchNorm, flatten_sequential, prunable_convolutions
from splitleak.models.digits import MCNN
from splitleak.models.resnet import RESNET20
from splitleak.models.vgg import VGG11

LAYERS = (nn.Conv2d, nn.BatchNorm2d)


def drawn(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def edge(architecture, cut, width=0.25):
    positions, _ = architecture.build(3, 10, width, 32)
    return nn.Sequential(*positions[:cut])


def squeezed(encoder, channels):
    return nn.Sequential(encoder, nn.Conv2d(channels, 2, 3, padding=1), nn.Sigmoid())


def test_nested_sequences_are_flattened_in_the_order_of_calls():
    inner = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    nested = nn.Sequential(nn.Identity(), nn.Sequential(inner, nn.Sigmoid()))
    assert [type(place.layer).__name__ for place in flatten_sequential(nested)] == [
        "Identity",
        "Conv2d",
        "ReLU",
        "Sigmoid",
    ]
    first, *_ = flatten_sequential(inner)
    first.replace(nn.Identity())
    assert isinstance(inner[0], nn.Identity)


def test_a_layer_that_feeds_one_convolution_is_prunable_and_the_last_is_not():
    assert [layer.channels for layer in prunable_convolutions(edge(VGG11, 4))] == [16]
    assert [layer.channels for layer in prunable_convolutions(squeezed(edge(VGG11, 4), 32))] == [16, 32]


def test_of_a_residual_network_the_inner_channels_of_its_blocks_can_be_pruned():
    found = prunable_convolutions(squeezed(edge(RESNET20, 5, width=1), 64))
    assert [layer.channels for layer in found] == [32, 32, 32, 64]


@pytest.mark.parametrize("between", [nn.Sigmoid(), nn.Dropout(), nn.Conv2d(4, 4, 3, groups=2)])
def test_a_layer_that_is_not_zero_preserving_prevents_pruning_before_it(between):
    encoder = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), between, nn.Conv2d(4, 2, 1))
    assert prunable_convolutions(encoder) == []


def test_leaky_layers_are_zero_preserving():
    assert [layer.channels for layer in prunable_convolutions(edge(MCNN, 2))] == [16]


def gradients(gate, images, probe):
    ((gate(images) * probe).sum() ** 2).backward()


def test_with_all_gates_open_it_is_plain_batch_normalisation():
    norm = nn.BatchNorm2d(4)
    nn.init.uniform_(norm.weight)
    gate, images, probe = GatedBatchNorm(copy.deepcopy(norm)), drawn(0, 5, 4, 3, 3), drawn(1, 5, 4, 3, 3)
    for module in (norm, gate):
        gradients(module, images, probe)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(norm.parameters(), gate.parameters(), strict=True))
    assert torch.equal(norm.running_var, gate.norm.running_var)
    assert torch.equal(norm.eval()(images), gate.eval()(images))


def test_the_importance_is_the_squared_derivative_of_the_loss_by_the_gate():
    gate, images, probe = (
        GatedBatchNorm(nn.BatchNorm2d(4)).double(),
        drawn(0, 5, 4, 3, 3).double(),
        drawn(1, 5, 4, 3, 3),
    )
    nn.init.uniform_(gate.norm.weight)
    nn.init.uniform_(gate.norm.bias)

    def loss(channel, step):
        other = copy.deepcopy(gate)
        other.mask[channel] += step
        with torch.no_grad():
            return (other(images) * probe).sum() ** 2

    slopes = torch.stack([(loss(c, 1e-5) - loss(c, -1e-5)) / 2e-5 for c in range(4)])
    gradients(gate, images, probe)
    torch.testing.assert_close(gate.importance, slopes.square(), rtol=1e-6, atol=0)
    gradients(gate, images, probe)
    torch.testing.assert_close(gate.importance, 2 * slopes.square(), rtol=1e-6, atol=0)


def test_importance_is_accumulated_in_training_only():
    gate = GatedBatchNorm(nn.BatchNorm2d(4))
    with torch.no_grad():
        gate(drawn(0, 5, 4, 3, 3))
    gradients(gate.eval(), drawn(0, 5, 4, 3, 3), drawn(1, 5, 4, 3, 3))
    assert not gate.importance.any()


def test_the_least_important_gates_are_masked_and_masking_again_changes_nothing():
    gate = GatedBatchNorm(nn.BatchNorm2d(4))
    gate.importance.copy_(torch.tensor([3.0, 1.0, 2.0, 0.5]))
    gate.close(2)
    assert gate.mask.tolist() == [1, 0, 1, 0]
    gate.importance.zero_()
    gate.close(2)
    assert gate.mask.tolist() == [1, 0, 1, 0]
    assert not gate.eval()(drawn(0, 5, 4, 3, 3))[:, [1, 3]].any()


@pytest.mark.parametrize(("architecture", "cut", "channels"), [(VGG11, 4, 32), (RESNET20, 5, 16)])
def test_removing_masked_channels_does_not_change_the_output(architecture, cut, channels):
    encoder = squeezed(edge(architecture, cut), channels)
    for layer in encoder.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                nn.init.uniform_(tensor)
    gated = [(layer, layer.gate()) for layer in prunable_convolutions(encoder)]
    for seed, (_, gate) in enumerate(gated):
        gate.importance.copy_(drawn(seed, len(gate.importance)))
        gate.close(len(gate.mask) // 3)
    images = drawn(9, 4, 3, 32, 32)
    with torch.no_grad():
        before = encoder.eval()(images)
        for layer, gate in gated:
            layer.cut(gate.mask.nonzero().flatten())
        after = encoder(images)
    torch.testing.assert_close(after, before)
    assert not any(isinstance(layer, GatedBatchNorm) for layer in encoder.modules())
    for layer, gate in gated:
        norm = layer.normalisation.layer
        left = int(gate.mask.sum())
        assert layer.convolution.out_channels == layer.following.in_channels == norm.num_features == left
        assert layer.convolution.weight.shape[0] == layer.following.weight.shape[1] == len(norm.running_var) == left
        assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in norm.parameters())
