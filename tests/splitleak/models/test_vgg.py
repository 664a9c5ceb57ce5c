import pytest
import torch
from torch import nn

from splitleak.models.split import ModelConfig, build


def vgg(**changes):
    return build(ModelConfig(**{"channels": 3, "size": 32, "classes": 10, **changes}))


@pytest.mark.parametrize(
    ("cut", "size", "feature"),
    [
        (3, 32, (128, 16, 16)),
        (4, 32, (128, 8, 8)),
        (4, 48, (128, 12, 12)),
        (4, 64, (128, 16, 16)),
        (7, 32, (256, 4, 4)),
        (13, 48, (512, 1, 1)),
    ],
)
def test_features_have_the_published_shapes(cut, size, feature):
    with torch.device("meta"):
        assert vgg(cut=cut, size=size).feature_shape == feature


def test_without_a_bottleneck_counts_are_the_published_ones():
    with torch.device("meta"):
        model = vgg()
    assert sum(p.numel() for p in model.encoder.parameters()) == 76_032
    assert sum(p.numel() for p in model.head.parameters()) == 9_680_394


def test_only_edge_convolutions_start_from_xavier_with_zero_bias():
    torch.manual_seed(0)
    model = vgg(width=0.25)
    edge = [layer for layer in model.encoder.modules() if isinstance(layer, nn.Conv2d)]
    cloud = [layer for layer in model.head.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert all(not layer.bias.any() for layer in edge)
    assert all(layer.bias.all() for layer in cloud)
    bound = (6 / ((16 + 32) * 9)) ** 0.5
    assert 0.98 * bound < edge[1].weight.abs().max() <= bound
    assert cloud[0].weight.abs().max() <= (32 * 9) ** -0.5


def test_width_scales_classifiers_too_but_not_classes():
    shapes = [p.shape for p in vgg(width=0.5).head.classifier.parameters()]
    assert shapes == [(256, 256), (256,), (256, 256), (256,), (10, 256), (10,)]
