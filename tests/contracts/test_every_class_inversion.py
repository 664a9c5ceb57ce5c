"""What every class inversion keeps, over the table of them; the checks are those that others hold theirs to."""

import dataclasses
import importlib
import pkgutil

import pytest
import torch

from splitleak.attacker import class_inversion
from splitleak.attacker.class_inversion import CLASS_ATTACKS
from splitleak.attacker.class_inversion.base import ClassInversion, ClassKnowledge
from splitleak.attacker.class_inversion.search import LatentSearch
from splitleak.defenses.artifact import load_whole, save
from splitleak.defenses.classes.adaptive import adaptive_model
from splitleak.defenses.training import TargetConfig, train
from splitleak.testing import CLASS_ATTACK_CHECKS, ClassAttackSubject
from splitleak.testing.class_attacks import the_model_takes_most_of_its_pictures_for_the_classes_they_are_of

GAN = {"width": 8, "batch_size": 16, "iterations": 100, "average": 0.9}
BRIEF_GAN = {"width": 2, "batch_size": 8, "iterations": 2}
STUDENT = {"students": 1, "student_epochs": 2, "student_steps": 0}
QUICK_OF = {
    "brep-mi": {"steps": 10},
    "class-inference": {"epochs": 12, "width": 0.125},
    "if-gmi": {"block_steps": 10, "final_views": {"count": 5}},
    "ked-mi": {"gan": {**GAN, "iterations": 150}, "steps": 250},
    "lomma-gmi": STUDENT,
    "lomma-ked": {"gan": {**GAN, "iterations": 200}, **STUDENT, "steps": 250},
    "mirror-genetic": {"restarts": 30, "steps": 15},
    "plg-mi": {"gan": GAN},
    "vmi": {"steps": 300},
}
BRIEF = {"epochs": 1, "width": 0.0625, "steps": 2, "gan": BRIEF_GAN, "final_views": {"count": 2}, "candidates": 64}
BRIEF |= {"block_steps": 1, "students": 1, "student_epochs": 1, "student_steps": 0}

FEATURES = {"loss": "features", "each": 5}

SLOW = (the_model_takes_most_of_its_pictures_for_the_classes_they_are_of,)
CHECKS = [
    pytest.param(each, marks=pytest.mark.slow if each in SLOW else (), id=each.__name__) for each in CLASS_ATTACK_CHECKS
]

every_attack = pytest.mark.parametrize("name", sorted(CLASS_ATTACKS))
every_search = pytest.mark.parametrize(
    "name",
    sorted(name for name, kind in CLASS_ATTACKS.items() if issubclass(kind, LatentSearch) and kind.access == "white"),
)


def brief(name):
    """Settings for tests that do not ask for a good attack."""
    used = {*CLASS_ATTACKS[name].config_type.model_fields} - getattr(CLASS_ATTACKS[name], "unused", set())
    return {key: value for key, value in BRIEF.items() if key in used}


@pytest.fixture
def subject(tiny_prior):
    """``subject(name)``: an attack of the table, made quick."""

    def make(name):
        kind = CLASS_ATTACKS[name]
        recognised = 0.5 if kind.baseline else 0.8  # what is only picked is as good as the pool, or the labels
        return ClassAttackSubject(kind, QUICK_OF.get(name, {}), brief(name), tiny_prior, recognised)

    return make


@pytest.fixture(scope="module")
def low_rank(small_splits, tmp_path_factory):
    """A deployed model whose head hides gradients behind a Tanh."""
    folder = tmp_path_factory.mktemp("low-rank") / "target"
    document = {
        "model": {"architecture": "cnn", "width": 0.5, "channels": 1, "size": 16, "classes": 10},
        "defenses": [{"name": "low-rank", "rank": 4}],
        "training": {"epochs": 1},
    }
    target = TargetConfig.parse(document, source="test")
    save(folder, "target", train(target, small_splits, device=torch.device("cpu")))
    return load_whole(folder, torch.device("cpu"), seed=0)


@every_attack
@pytest.mark.parametrize("check", CHECKS)
def test_it_keeps(check, name, subject):
    check(subject(name))


@every_attack
def test_it_is_named_as_in_the_table(name):
    assert CLASS_ATTACKS[name].name == name


@every_search
def test_every_search_of_a_white_box_can_match_features_and_then_needs_public_images(name, subject):
    attack, known = subject(name).made(brief=True, identity=FEATURES), subject(name).known()
    assert attack.needs == CLASS_ATTACKS[name].needs | {"public"}
    assert attack(known).shape[0] == 10
    with pytest.raises(PermissionError, match=f"{name}.*'public'"):
        attack(dataclasses.replace(known, public=None))


@every_search
@pytest.mark.parametrize("settings", [{}, {"identity": FEATURES}], ids=["its own loss", "features"])
def test_every_search_of_a_white_box_attacks_a_low_rank_head_adaptively(name, settings, subject, low_rank):
    attack = subject(name).made(brief=True, **settings)
    given = dataclasses.replace(subject(name).known(), model=adaptive_model(low_rank))
    first = attack(given)[:, 0]
    if type(attack).judge is LatentSearch.judge:
        told = torch.from_numpy(low_rank.predict(first.numpy())).softmax(1).diagonal()
        found = torch.tensor([scores[0] for scores in attack.findings["scores"]])
        assert torch.allclose(found, told, atol=1e-4), "selected by other scores than the deployed model's"


@every_attack
def test_answers_of_another_number_of_classes_are_refused(name, subject):
    tested = subject(name)
    with pytest.raises(ValueError, match=f"{name}.*expected scores of 7 classes, got 10"):
        tested.made(brief=True)(dataclasses.replace(tested.known(), classes=7))


def test_the_table_lists_every_attack_of_the_folder():
    found = set()
    for module in pkgutil.iter_modules(class_inversion.__path__, "splitleak.attacker.class_inversion."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, ClassInversion) and value.__module__ == module.name:
                found.add(value)
    assert {kind for kind in found if hasattr(kind, "name")} == set(CLASS_ATTACKS.values())


@pytest.mark.parametrize("name", sorted(name for name, kind in CLASS_ATTACKS.items() if kind.access == "white"))
def test_a_model_that_lets_no_gradient_through_is_refused_and_not_descended_on(name, tiny_prior):
    class Rounding(torch.nn.Module):
        def forward(self, images):
            return (images * 255).floor()

    layers = Rounding(), torch.nn.Flatten(), torch.nn.Linear(256, 10)
    known = ClassKnowledge(
        image_shape=(1, 16, 16),
        public=torch.rand(20, 1, 16, 16),
        model=torch.nn.Sequential(*layers).eval(),
        prior=tiny_prior,
    )
    with pytest.raises(ValueError, match=f"attack '{name}': expected a model that lets gradients through to the image"):
        CLASS_ATTACKS[name](CLASS_ATTACKS[name].config_type(**brief(name)))(known)


@pytest.mark.parametrize(
    ("name", "settings"),
    [(name, {"candidates": 7}) for name in ("ked-mi", "lomma-ked", "vmi")]
    + [(name, {"identity": "logit", "learning_rate": 3.0}) for name in ("brep-mi", "mirror-genetic")],
)
def test_settings_that_a_search_has_no_use_for_are_refused(name, settings):
    config = CLASS_ATTACKS[name].config_type
    with pytest.raises(ValueError, match=f"attack '{name}': expected settings that it uses, got {', '.join(settings)}"):
        CLASS_ATTACKS[name](config.parse(settings, source="test"))
    CLASS_ATTACKS[name](config.parse({key: getattr(config(), key) for key in settings}, source="test"))
    CLASS_ATTACKS[name](CLASS_ATTACKS[name].paper_config())
