import pytest
import torch
from torch import nn

from splitleak.models import ARCHITECTURES
from splitleak.models.penultimate import penultimate
from splitleak.models.split import ModelConfig, build

DIMENSIONS = {
    "vgg11": 128,
    "resnet20": 32,
    "cnn": 16,
    "conv3": 35,
    "conv4": 35,
    "mcnn": 64,
    "scnn": 128,
    "vgg16": 128,
}


def last_linear(model):
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_the_last_layer_of_every_architecture_makes_the_logits_of_the_features(architecture):
    torch.manual_seed(0)
    model = build(ModelConfig(architecture=architecture, channels=1, size=32, classes=7, width=0.25)).eval()
    images = torch.rand(3, 1, 32, 32)
    features, logits = penultimate(model, images)
    assert features.shape == (3, DIMENSIONS[architecture])
    assert torch.equal(logits, model(images))
    torch.testing.assert_close(last_linear(model)(features), logits)


def test_a_gradient_flows_from_the_features_to_the_image():
    model = build(ModelConfig(architecture="cnn", channels=1, size=16, classes=4)).eval()
    images = torch.rand(2, 1, 16, 16, requires_grad=True)
    penultimate(model, images)[0].square().sum().backward()
    assert images.grad is not None
    assert bool(images.grad.flatten(1).any(1).all())


class Backwards(nn.Module):
    """Declares its layers in another order than it runs them."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(2, 3)
        self.first = nn.Linear(4, 2)

    def forward(self, images):
        return self.last(self.first(images.flatten(1)).tanh())


def test_the_last_layer_is_the_one_that_runs_last():
    model, images = Backwards(), torch.rand(5, 1, 2, 2)
    torch.testing.assert_close(penultimate(model, images)[0], model.first(images.flatten(1)).tanh())


def test_nothing_is_left_behind_even_by_a_failure():
    model = Backwards()
    with pytest.raises(RuntimeError):
        penultimate(model, torch.rand(5, 1, 3, 3))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_network_without_a_linear_layer_is_refused():
    with pytest.raises(ValueError, match="expected a network with a linear layer at its end, got Flatten with none"):
        penultimate(nn.Flatten(), torch.rand(2, 1, 2, 2))
