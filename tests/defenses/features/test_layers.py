import pytest
from torch import nn

from splitleak.defenses.features.layers import last_layer, last_linear, positions, reduces_resolution
from splitleak.defenses.training import assemble
from splitleak.models.split import ModelConfig, build


def shrinking(architecture, size):
    model = build(ModelConfig(architecture=architecture, width=0.1, channels=1, size=size, classes=10))
    return [index for index, place in positions(model).items() if reduces_resolution(place.layer)]


def test_positions_are_found_in_both_halves_and_inside_wrappers_of_defenses(small_target):
    plain, _ = assemble(small_target(), "builtin")
    wrapped, _ = assemble(small_target("bottleneck", {"name": "transfer", "frozen": 3}), "builtin")
    assert list(positions(plain)) == list(positions(wrapped)) == [1, 2, 3]
    assert positions(plain)[3].layer is plain.head[0]
    assert positions(wrapped)[1].layer.layer[0].out_channels == 8


def test_the_positions_that_shrink_images_are_pools_blocks_and_the_starts_of_stages():
    assert shrinking("vgg11", 32) == [2, 4, 7, 10, 13]
    assert shrinking("cnn", 16) == shrinking("conv3", 16) == [1, 2, 3]
    assert shrinking("resnet20", 16) == [2, 5, 8]
    assert shrinking("vgg16", 32) == [3, 6, 10, 14, 18]


def test_a_convolution_without_a_border_shrinks_images_too():
    assert shrinking("mcnn", 32) == shrinking("scnn", 32) == [1, 2, 3]
    assert not reduces_resolution(nn.Conv2d(1, 1, 4, padding="same"))


def test_the_last_layer_is_found_behind_a_bottleneck_and_replaced_once(small_target):
    model, _ = assemble(small_target("bottleneck"), "builtin")
    place, layer = last_linear(model.head, "me")
    assert (layer.in_features, layer.out_features) == (32, 10)
    place.replace(nn.Identity())
    assert isinstance(last_layer(model.head).layer, nn.Identity)
    with pytest.raises(ValueError, match="me: expected a head that ends in a linear layer, got Identity"):
        last_linear(model.head, "me")
    with pytest.raises(ValueError, match="expected a head of several layers, got Linear"):
        last_layer(nn.Linear(2, 3))
