import importlib
import pkgutil

import pytest
import torch
from torch.optim import SGD

from splitleak import defenses
from splitleak.defenses import DEFENSES
from splitleak.defenses.artifact import load_cloud, load_edge, save
from splitleak.defenses.base import Defense, EpochEnd, TrainingStart
from splitleak.defenses.stack import DefenseConfig, Stack
from splitleak.defenses.training import TargetConfig, TrainingConfig, assemble, train, training_step
from splitleak.models.split import ModelConfig

CPU = torch.device("cpu")
CLASSES = 3
NEEDS = {"cem": ("gaussian-noise",), "noise-arl": ("gaussian-noise",)}
SURROGATE = {"blocks": 0, "channels": 4, "ssim_threshold": -1}
SETTINGS = {
    "confidence-adaptation": {"start": 0, "wait_for": 0},
    "label-smoothing": {"alpha": -0.3, "plain": 0, "ramp": 0.5},
    "low-rank": {"rank": 4, "swap_at": 0.5},
    "mid": {"beta": 0.1},
    "ressfl": SURROGATE,
    "noise-arl": SURROGATE,
    "patrol": {**SURROGATE, "exempt": 4, "ratio": 0.25, "prune_at": 0.3},
}
EVERY = pytest.mark.parametrize("name", sorted(DEFENSES))


def stack_of(name, *more):
    """The defense behind what it needs and before ``more``; settings make its effect felt in a small network."""
    documents = [{"name": each, **SETTINGS.get(each, {})} for each in ("gaussian-noise", name)]
    return (*documents[name not in NEEDS :], *more)


def config_of(*documents, classes=CLASSES, seed=0, **training):
    return TargetConfig(
        model=ModelConfig(architecture="cnn", width=0.5, channels=1, size=16, classes=classes),
        defenses=tuple(DefenseConfig.model_validate(document) for document in documents),
        training=TrainingConfig(**{"epochs": 2, "batch_size": 64, **training}),
        seed=seed,
    )


def assembled(name, seed=0):
    """The network under the defense and what it needs, and the defense."""
    model, stack = assemble(config_of(*stack_of(name), seed=seed), "builtin")
    stack.seed(seed, CPU)
    stack.begin(TrainingStart(model, "builtin", ("a", "b", "c"), epochs=1))
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
    everything = [*model.parameters(), *stack.task_parameters()]
    optimizer = SGD(everything, lr=0.1)
    figures = training_step(model, stack, optimizer, images, torch.arange(12) % CLASSES, epoch=1, rate=0.01)
    assert all(bool(figure.isfinite()) and not figure.requires_grad for figure in figures)
    trained = [parameter for parameter in everything if parameter.grad is not None]
    assert len(trained) > len(everything) / 2
    assert all(bool(parameter.grad.isfinite().all()) for parameter in trained)
    assert all(bool(parameter.isfinite().all()) for parameter in everything)
    assert any(each.grad is not None and each.grad.any() for each in model.encoder.parameters())
    assert all(bool(value.isfinite().all()) for value in stack.state_dict().values())


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


def weights(target):
    return {**target.model.state_dict(), **{f"stack.{key}": t for key, t in target.stack.state_dict().items()}}


def same(some, others):
    return some.keys() == others.keys() and all(torch.equal(some[key], others[key]) for key in some)


@pytest.mark.slow
@EVERY
def test_an_interrupted_training_ends_with_the_same_bits(name, small_splits, tmp_path, killed):
    config = config_of(*stack_of(name), classes=10, epochs=2)
    whole = train(config, small_splits, device=CPU)
    with pytest.raises(KeyboardInterrupt):
        train(config, small_splits, device=CPU, checkpoint=tmp_path / "c", report=killed(2))
    resumed = train(config, small_splits, device=CPU, checkpoint=tmp_path / "c")
    assert same(weights(resumed), weights(whole))
    assert resumed.record == whole.record


@pytest.mark.slow
@EVERY
def test_cem_of_weight_zero_on_top_changes_no_bit(name, small_splits):
    stack = stack_of("noise-arl")[:1] + tuple(each for each in stack_of(name) if each["name"] != "gaussian-noise")
    plain = train(config_of(*stack, classes=10), small_splits, device=CPU)
    with_cem = train(config_of(*stack, {"name": "cem", "weight": 0}, classes=10), small_splits, device=CPU)
    assert same(plain.model.state_dict(), with_cem.model.state_dict())
    assert plain.record == with_cem.record


@EVERY
def test_the_halves_of_a_trained_target_load_and_predict_as_it_does(name, small_splits, tmp_path):
    target = train(config_of(*stack_of(name), classes=10, epochs=1), small_splits, device=CPU)
    save(tmp_path / "a", "small", target)
    edge, cloud = load_edge(tmp_path / "a" / "edge", CPU, seed=0), load_cloud(tmp_path / "a" / "cloud", CPU)
    images = small_splits.victims.floats()
    with torch.no_grad():
        features = target.model.encoder(images.contiguous(memory_format=torch.channels_last))
        expected = target.model.head(load_edge(tmp_path / "a" / "edge", CPU, seed=0).stack(features))
    logits = torch.from_numpy(cloud.predict(edge.encode(images.numpy())))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


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
    found = pkgutil.walk_packages(defenses.__path__, "splitleak.defenses.")
    modules = [importlib.import_module(module.name) for module in found]
    kinds = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Defense) and value.__module__ == module.__name__
    }
    assert {kind for kind in kinds if hasattr(kind, "name")} == set(DEFENSES.values())


def test_a_stack_of_every_defense_can_be_built_and_run():
    config = [DefenseConfig.model_validate({"name": name}) for name in DEFENSES]
    stack = Stack.build(config)
    stack.seed(0, CPU)
    assert stack(torch.rand(2, 8, 4, 4)).shape == (2, 8, 4, 4)
