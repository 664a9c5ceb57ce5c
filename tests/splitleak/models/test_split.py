import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from splitleak.datasets.statistics import normalisation
from splitleak.models import ARCHITECTURES
from splitleak.models.split import ModelConfig, build, output_shape
from splitleak.testing import ARCHITECTURE_CHECKS, ArchitectureSubject


def small(**changes):
    return ModelConfig(**{"architecture": "cnn", "channels": 3, "size": 32, "classes": 10, **changes})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("check", ARCHITECTURE_CHECKS, ids=lambda check: check.__name__)
def test_every_architecture_keeps(check, architecture):
    check(ArchitectureSubject(ARCHITECTURES[architecture], architecture))


def test_normalisation_comes_first_and_costs_no_parameter():
    model, plain = build(small(), normalisation("cifar10", 3)).eval(), build(small()).eval()
    plain.load_state_dict(model.state_dict() | {"encoder.normalise.mean": torch.zeros(3, 1, 1)})
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in plain.parameters())
    images = torch.rand(2, 3, 32, 32)
    mean = torch.tensor(normalisation("cifar10", 3).mean).view(3, 1, 1)
    torch.testing.assert_close(model(images), plain(images - mean))


def test_wrapped_halves_keep_the_shapes_right():
    model = build(small())
    model.encoder = nn.Sequential(model.encoder, nn.Conv2d(32, 4, 3, padding=1), nn.Sigmoid())
    model.head = nn.Sequential(nn.Conv2d(4, 32, 3, padding=1), model.head)
    assert model.feature_shape == (4, 8, 8)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("training", [True, False])
def test_output_shape_changes_no_state(training):
    model = build(small(architecture="vgg11", width=0.1)).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    assert output_shape(model, (3, 32, 32)) == (10,)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert all(module.training == training for module in model.modules())


@pytest.mark.slow
@settings(max_examples=25)
@given(
    architecture=st.sampled_from(sorted(ARCHITECTURES)),
    width=st.floats(0.01, 0.3),
    channels=st.sampled_from([1, 3]),
    size=st.integers(32, 70),
    classes=st.integers(1, 20),
)
def test_any_size_and_width_gives_logits(architecture, width, channels, size, classes):
    config = small(architecture=architecture, width=width, channels=channels, size=size, classes=classes)
    model = build(config).eval()
    assert output_shape(model.head, model.feature_shape) == (classes,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cut": 0}, "expected cnn to be cut at 1..3, got 0"),
        ({"cut": 4}, "expected cnn to be cut at 1..3, got 4"),
        ({"architecture": "vgg11", "cut": 14}, "expected vgg11 to be cut at 1..13, got 14"),
        ({"architecture": "vgg16", "cut": 19}, "expected vgg16 to be cut at 1..18, got 19"),
        ({"architecture": "vgg11", "size": 28}, "expected images of at least 32 pixels for vgg11"),
        ({"width": 0.0}, "greater than 0"),
        ({"channels": 0}, "greater than or equal to 1"),
        ({"classes": 0}, "greater than or equal to 1"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        small(**changes)
