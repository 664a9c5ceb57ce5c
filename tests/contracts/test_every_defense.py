import importlib
import pkgutil

import pytest
import torch
from torch.optim import SGD

import defenses
from defenses import DEFENSES
from defenses.base import Defense, EpochEnd
from defenses.stack import DefenseConfig, Stack
from defenses.training import TargetConfig, assemble, training_step
from splitleak.models.split import ModelConfig

CPU = torch.device("cpu")
CLASSES = 3
NEEDS = {"cem": ("gaussian-noise",)}
EVERY = pytest.mark.parametrize("name", sorted(DEFENSES))


def assembled(name, seed=0):
    """The network under the defense and what it needs, and the defense."""
    config = TargetConfig(
        model=ModelConfig(architecture="cnn", width=0.5, channels=1, size=16, classes=CLASSES),
        defenses=tuple(DefenseConfig.model_validate({"name": each}) for each in (*NEEDS.get(name, ()), name)),
        seed=seed,
    )
    model, stack = assemble(config, "builtin")
    stack.seed(seed, CPU)
    *_, defense = stack
    return model, stack, defense


def features_of(model, count=24):
    return torch.rand(count, *model.feature_shape, generator=torch.Generator().manual_seed(0))


def end_an_epoch(model, stack):
    stack.on_epoch(EpochEnd(0, 10, lambda: (features_of(model), torch.arange(24) % CLASSES)))


@EVERY
def test_the_gradient_is_finite_through_the_encoder(name):
    model, stack, _ = assembled(name)
    end_an_epoch(model, stack)
    images = torch.rand(12, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    optimizer = SGD([*model.parameters(), *stack.parameters()], lr=0.1)
    figures = training_step(model, stack, optimizer, images, torch.arange(12) % CLASSES, epoch=1, rate=0.01)
    assert all(bool(figure.isfinite()) and not figure.requires_grad for figure in figures)
    for parameter in (*model.parameters(), *stack.parameters()):
        assert bool(parameter.grad.isfinite().all())
        assert bool(parameter.isfinite().all())
    assert any(parameter.grad.any() for parameter in model.encoder.parameters())


@EVERY
@pytest.mark.parametrize("count", [1, 5])
def test_the_shape_of_what_is_sent_is_that_of_the_features(name, count):
    model, _, defense = assembled(name)
    features = features_of(model, count)
    before = features.clone()
    for mode in (True, False):
        sent = defense.train(mode)(features)
        assert (sent.shape, sent.dtype) == (features.shape, features.dtype)
    assert torch.equal(features, before), "what the encoder gave was changed in place"


@EVERY
def test_its_state_survives_a_round_trip(name):
    model, stack, defense = assembled(name)
    end_an_epoch(model, stack)
    other_model, _, other = assembled(name, seed=1)
    other.load_state_dict(defense.state_dict())
    other_model.load_state_dict(model.state_dict())
    expected = defense.state_dict()
    assert all(torch.equal(expected[key], value) for key, value in other.state_dict().items())


@EVERY
def test_the_same_seed_gives_the_same_output(name):
    model, _, defense = assembled(name)
    _, _, again = assembled(name)
    features = features_of(model)
    assert torch.equal(defense(features), again(features))


@EVERY
def test_its_config_is_closed_and_complete_without_values(name):
    kind = DEFENSES[name]
    assert kind(kind.config_type()).config == kind.config_type()
    with pytest.raises(ValueError, match="no_such_setting"):
        kind.config_type.parse({"no_such_setting": 1}, source=name)


@EVERY
def test_it_is_named_as_in_the_table_and_documented_with_its_source(name):
    kind = DEFENSES[name]
    assert kind.name == name
    assert " et al., " in kind.__doc__
    assert all(field.description for field in kind.config_type.model_fields.values())


@EVERY
def test_it_states_noise_exactly_when_it_draws_noise_alone(name):
    model, _, defense = assembled(name)
    centre = torch.zeros(24, *model.feature_shape)
    assert (defense.noise_variance > 0) == bool(defense(centre).any())


def test_the_table_lists_every_defense_in_the_folder():
    modules = [importlib.import_module(f"defenses.{found.name}") for found in pkgutil.iter_modules(defenses.__path__)]
    kinds = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Defense) and value.__module__ == module.__name__
    }
    assert kinds - {Defense} == set(DEFENSES.values())


def test_a_stack_of_every_defense_can_be_built_and_run():
    config = [DefenseConfig.model_validate({"name": name}) for name in DEFENSES]
    stack = Stack.build(config)
    stack.seed(0, CPU)
    assert stack(torch.rand(2, 8, 4, 4)).shape == (2, 8, 4, 4)
