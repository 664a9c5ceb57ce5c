import pytest
import torch
from torch import nn
from torch.nn import functional

from splitleak.models.counting import count_macs
from splitleak.models.split import ModelConfig, build


def conv(**changes):
    return build(ModelConfig(**{"architecture": "conv3", "channels": 1, "size": 32, "classes": 10, **changes}))


@pytest.mark.parametrize(
    ("architecture", "size", "classes", "parameters"),
    [("conv3", 32, 10, 1_888_560), ("conv4", 64, 530, 51_025_344)],
)
def test_at_full_width_it_is_the_published_network(architecture, size, classes, parameters):
    with torch.device("meta"):
        model = conv(architecture=architecture, size=size, classes=classes)
    assert sum(each.numel() for each in model.parameters()) == parameters


def test_its_layers_are_the_published_ones_one_by_one():
    with torch.device("meta"):
        model = conv()
    rows = [row.parameters for row in count_macs(model, (1, 32, 32)).rows if row.parameters]
    assert rows == [1_280, 256, 295_168, 512, 1_180_160, 1_024, 409_650, 510]


def test_there_is_no_activation_between_the_linear_layers():
    kinds = [type(layer) for layer in conv(width=0.1).head.classifier]
    assert kinds == [nn.Flatten, nn.Linear, nn.Dropout, nn.Linear]


def test_width_scales_the_convolutions_and_not_what_is_counted_in_classes():
    shapes = [tuple(p.shape) for p in conv(width=0.125, classes=4).head.classifier.parameters()]
    assert shapes == [(20, 64 * 4 * 4), (20,), (4, 20), (4,)]


@pytest.mark.parametrize(
    ("architecture", "cut", "feature"),
    [("conv3", 1, (16, 16, 16)), ("conv3", 3, (64, 4, 4)), ("conv4", 2, (32, 8, 8)), ("conv4", 4, (128, 2, 2))],
)
def test_each_position_halves_the_side_and_doubles_the_channels(architecture, cut, feature):
    assert conv(architecture=architecture, width=0.125, cut=cut).feature_shape == feature


@pytest.mark.parametrize(("architecture", "size", "left"), [("conv3", 28, 3), ("conv3", 15, 1), ("conv4", 37, 2)])
def test_an_odd_side_loses_its_last_row_and_column_to_the_pool(architecture, size, left):
    model = conv(architecture=architecture, size=size, width=0.05).eval()
    images = torch.rand(2, 1, size, size)
    assert model(images).shape == (2, 10)
    assert model.head[:-1](model.encoder(images)).shape[2:] == (left, left)


@pytest.mark.parametrize(("architecture", "smallest"), [("conv3", 8), ("conv4", 16)])
def test_images_too_small_for_the_pools_are_refused(architecture, smallest):
    with pytest.raises(ValueError, match=f"at least {smallest} pixels for {architecture}"):
        conv(architecture=architecture, size=smallest - 1)
    assert conv(architecture=architecture, size=smallest, width=0.05).head.classifier[1].in_features > 0


def test_the_cut_does_not_change_the_first_weights():
    states = []
    for cut in (1, 3):
        torch.manual_seed(0)
        states.append([p.detach() for p in conv(cut=cut, width=0.05).parameters()])
    assert all(map(torch.equal, *states))


def test_it_learns_two_classes_in_a_few_steps():
    torch.manual_seed(0)
    model = conv(size=8, classes=2, width=0.1)
    labels = torch.arange(32) % 2
    images = (0.5 + 0.3 * torch.randn(32, 1, 8, 8)) * labels.view(-1, 1, 1, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    assert (model.eval()(images).argmax(1) == labels).all()
