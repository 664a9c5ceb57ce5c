import pytest
import torch
from torch import nn

from splitleak.defenses.features.bottleneck import Bottleneck, BottleneckConfig
from splitleak.models.split import ModelConfig, build


def narrowed(model=None, **config):
    model = model or build(ModelConfig(architecture="cnn", channels=1, size=32, classes=10))
    Bottleneck(BottleneckConfig(**config)).prepare(model, 10)
    return model


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
@pytest.mark.parametrize("kernel", [1, 5])
def test_the_wire_is_narrow_and_the_head_undoes_it(stride, kernel):
    model = narrowed(channels=3, stride=stride, kernel=kernel)
    assert model.feature_shape == (3, 8 // stride, 8 // stride)
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 10)
    assert model.head[:-1](torch.rand(2, *model.feature_shape)).shape == (2, 32, 8, 8)


def test_vgg11_has_the_published_parameter_counts():
    model = narrowed(build(ModelConfig(architecture="vgg11", channels=3, size=32, classes=10)))
    assert model.feature_shape == (8, 8, 8)
    assert sum(each.numel() for each in model.encoder.parameters()) == 85_256
    assert sum(each.numel() for each in model.head.parameters()) == 9_689_738


@torch.no_grad()
def test_a_sigmoid_bounds_what_is_sent_unless_it_is_switched_off():
    images = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    bounded, free = narrowed().encoder.eval(), narrowed(sigmoid=False).encoder.eval()
    free.load_state_dict(bounded.state_dict())
    torch.testing.assert_close(bounded(images), torch.sigmoid(free(images)))


class Turned(nn.Module):
    def __init__(self, *axes):
        super().__init__()
        self.axes = axes

    def forward(self, features):
        return features.permute(self.axes)


def test_channels_are_narrowed_where_they_stand_last_too():
    """As Swin and exports of TensorFlow have them: the height was narrowed, and the channels taken for the width."""
    model = build(ModelConfig(architecture="cnn", channels=1, size=32, classes=10))
    model.encoder, model.head = (
        nn.Sequential(model.encoder, Turned(0, 2, 3, 1)),
        nn.Sequential(Turned(0, 3, 1, 2), model.head),
    )
    assert model.feature_shape == (8, 8, 32)
    narrowed(model, channels=3, stride=2)
    assert model.feature_shape == (3, 4, 4)
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 10)


def test_odd_features_are_refused():
    model = build(ModelConfig(architecture="cnn", channels=1, size=28, classes=10))
    with pytest.raises(ValueError, match=r"divisible by stride 2, got \(32, 7, 7\)"):
        narrowed(model, stride=2)
