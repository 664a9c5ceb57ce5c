"""What every defense keeps, over the table of defenses; the checks are those that others hold theirs to."""

import importlib
import pkgutil

import pytest
import torch

from splitleak import defenses
from splitleak.defenses import DEFENSES
from splitleak.defenses.base import Defense
from splitleak.defenses.stack import DefenseConfig, Stack
from splitleak.defenses.training import train
from splitleak.testing import DEFENSE_CHECKS, DefenseSubject
from splitleak.testing.defenses import an_interrupted_training_ends_with_the_same_bits
from splitleak.testing.material import same

CPU = torch.device("cpu")
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


SLOW = (an_interrupted_training_ends_with_the_same_bits,)
CHECKS = [
    pytest.param(each, marks=pytest.mark.slow if each in SLOW else (), id=each.__name__) for each in DEFENSE_CHECKS
]


def behind(name):
    """The defenses that one needs before it."""
    return [{"name": each, **SETTINGS.get(each, {})} for each in NEEDS.get(name, ())]


@EVERY
@pytest.mark.parametrize("check", CHECKS)
def test_it_keeps(check, name):
    check(DefenseSubject(DEFENSES[name], SETTINGS.get(name, {}), behind(name)))


@EVERY
def test_it_is_named_as_in_the_table_and_documented_with_its_source(name):
    assert DEFENSES[name].name == name
    assert " et al., " in DEFENSES[name].__doc__


@EVERY
def test_it_is_trained_in_bfloat16_too_where_that_is_asked(name, small_splits, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    config = DefenseSubject(DEFENSES[name], SETTINGS.get(name, {}), behind(name)).target(classes=10)
    losses = []
    for precision in ("single", "bfloat16"):
        training = config.training.model_copy(update={"precision": precision, "epochs": 1})
        trained = train(config.model_copy(update={"training": training}), small_splits, device=CPU)
        losses.append(trained.record["history"][0]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.slow
@EVERY
def test_cem_of_weight_zero_on_top_changes_no_bit(name, small_splits):
    noise = [] if name == "gaussian-noise" else [{"name": "gaussian-noise"}]
    subject = DefenseSubject(DEFENSES[name], SETTINGS.get(name, {}), noise)
    if name == "bottleneck":  # which noise is behind
        subject = DefenseSubject(DEFENSES["gaussian-noise"], {}, [{"name": name}])
    config = subject.target(classes=10)
    cem = DefenseConfig.model_validate({"name": "cem", "weight": 0})
    plain = train(config, small_splits, device=CPU)
    with_cem = train(config.model_copy(update={"defenses": (*config.defenses, cem)}), small_splits, device=CPU)
    assert same(plain.model.state_dict(), with_cem.model.state_dict())
    assert plain.record == with_cem.record


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
