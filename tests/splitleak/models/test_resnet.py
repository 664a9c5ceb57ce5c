import pytest
import torch
from torch import nn
from torch.nn import functional

from splitleak.models.resnet import BasicBlock
from splitleak.models.split import ModelConfig, build


@pytest.mark.parametrize(
    ("cut", "feature"),
    [(1, (16, 64, 64)), (2, (32, 32, 32)), (4, (32, 32, 32)), (5, (64, 16, 16)), (8, (128, 8, 8)), (10, (128, 8, 8))],
)
def test_features_have_the_published_shapes(cut, feature):
    config = ModelConfig(architecture="resnet20", channels=3, size=64, classes=200, cut=cut)
    with torch.device("meta"):
        assert build(config).feature_shape == feature


@pytest.mark.parametrize(("channels", "wide", "stride", "side"), [(4, 4, 1, 6), (4, 8, 2, 6), (3, 8, 2, 7)])
def test_the_shortcut_keeps_every_second_pixel_and_pads_channels_with_zeros(channels, wide, stride, side):
    block = BasicBlock(channels, wide, stride)
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
    features = torch.rand(2, channels, side, side)
    kept = features if stride == 1 else functional.max_pool2d(features, 1, stride=2)
    out = block.eval()(features)
    below = (wide - channels) // 2
    assert torch.equal(out[:, below : below + channels], kept)
    assert out.sum().item() == pytest.approx(float(kept.sum()), rel=1e-5)


def test_edge_convolutions_start_normal_with_the_deviation_of_their_outputs():
    torch.manual_seed(0)
    model = build(ModelConfig(architecture="resnet20", channels=3, size=64, classes=10, cut=8))
    last = model.encoder.position8.body[3].weight
    assert last.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
    assert model.head.position9.body[0].weight.abs().max() <= (128 * 9) ** -0.5
