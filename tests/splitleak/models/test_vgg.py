import pytest
import torch
from torch import nn

from splitleak.models.split import ModelConfig, build, output_shape


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


def faces(**changes):
    return vgg(**{"architecture": "vgg16", "size": 64, "classes": 1000, **changes})


def test_the_vgg16_of_a_thousand_faces_has_the_published_count_and_head():
    with torch.device("meta"):
        model = faces()
    assert sum(each.numel() for each in model.parameters()) == 16_776_232
    assert [type(layer) for layer in model.head.classifier] == [nn.Flatten, nn.BatchNorm1d, nn.Linear]
    assert [each.numel() for each in model.head.classifier.parameters()] == [2048, 2048, 2_048_000, 1000]
    assert output_shape(model, (3, 64, 64)) == (1000,)


@pytest.mark.parametrize(
    ("cut", "size", "feature"),
    [(None, 64, (128, 16, 16)), (10, 64, (256, 8, 8)), (18, 64, (512, 2, 2)), (18, 32, (512, 1, 1))],
)
def test_each_pool_of_vgg16_halves_the_side(cut, size, feature):
    with torch.device("meta"):
        assert faces(cut=cut, size=size).feature_shape == feature


@pytest.mark.parametrize(("size", "left"), [(32, 1), (64, 4), (70, 4), (96, 9)])
def test_vgg16_takes_all_that_the_pools_leave(size, left):
    model = faces(size=size, width=1 / 64, classes=7).eval()
    assert model.head.classifier[1].num_features == 8 * left
    assert model(torch.rand(2, 3, size, size)).shape == (2, 7)


def test_images_too_small_for_five_pools_are_refused():
    with pytest.raises(ValueError, match="expected images of at least 32 pixels for vgg16, which pools them, got 31"):
        faces(size=31)


def test_the_edge_of_vgg16_draws_as_its_cloud_does():
    states = []
    for cut in (1, 18):
        torch.manual_seed(0)
        states.append([p.detach() for p in faces(cut=cut, width=1 / 64, classes=7).parameters()])
    assert all(map(torch.equal, *states))
