import pytest
import torch
from torch import nn
from torch.nn import functional

from splitleak.models.counting import count_macs
from splitleak.models.split import ModelConfig, build, output_shape


def digits(**changes):
    return build(ModelConfig(**{"architecture": "mcnn", "channels": 1, "size": 32, "classes": 5, **changes}))


@pytest.mark.parametrize(("architecture", "classes", "parameters"), [("mcnn", 5, 1_029_765), ("scnn", 10, 1_740_234)])
def test_at_full_width_it_is_the_published_network(architecture, classes, parameters):
    with torch.device("meta"):
        model = digits(architecture=architecture, classes=classes)
    assert sum(each.numel() for each in model.parameters()) == parameters
    assert output_shape(model, (1, 32, 32)) == (classes,)


@pytest.mark.parametrize(
    ("architecture", "layers"),
    [
        ("mcnn", [3_200, 128, 204_928, 256, 819_456, 512, 1_285]),
        ("scnn", [1_600, 64, 51_264, 128, 204_928, 256, 295_168, 512, 1_180_160, 1_024, 2_565]),
    ],
)
def test_its_layers_are_the_published_ones_one_by_one(architecture, layers):
    with torch.device("meta"):
        model = digits(architecture=architecture)
    assert [row.parameters for row in count_macs(model, (1, 32, 32)).rows if row.parameters] == layers


@pytest.mark.parametrize(
    ("architecture", "features"),
    [
        ("mcnn", [(64, 14, 14), (128, 5, 5), (256, 1, 1)]),
        ("scnn", [(32, 14, 14), (64, 5, 5), (128, 1, 1), (256, 1, 1), (512, 1, 1)]),
    ],
)
def test_one_pixel_is_left_of_thirty_two(architecture, features):
    with torch.device("meta"):
        cuts = range(1, len(features) + 1)
        assert [digits(architecture=architecture, cut=cut).feature_shape for cut in cuts] == features


@pytest.mark.parametrize("architecture", ["mcnn", "scnn"])
def test_smaller_images_are_refused_and_larger_ones_keep_more_pixels(architecture):
    with pytest.raises(ValueError, match=f"at least 32 pixels for {architecture}, which pools them, got 31"):
        digits(architecture=architecture, size=31)
    model = digits(architecture=architecture, size=37, width=0.05).eval()
    assert model.head[:-1](model.encoder(torch.rand(2, 1, 37, 37))).shape[2:] == (2, 2)
    assert model(torch.rand(2, 1, 37, 37)).shape == (2, 5)


def test_a_negative_value_leaks_by_a_fifth():
    leaks = [layer for layer in digits(width=0.05).modules() if isinstance(layer, nn.LeakyReLU)]
    assert [layer.negative_slope for layer in leaks] == [0.2] * 3


@pytest.mark.parametrize("architecture", ["mcnn", "scnn"])
def test_it_learns_two_classes_in_a_few_steps(architecture):
    torch.manual_seed(0)
    model = digits(architecture=architecture, classes=2, width=0.05)
    labels = torch.arange(32) % 2
    images = (0.5 + 0.3 * torch.randn(32, 1, 32, 32)) * labels.view(-1, 1, 1, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    assert (model.eval()(images).argmax(1) == labels).all()
