"""What every class inversion keeps, over the table of such attacks."""

import dataclasses
import importlib
import pkgutil

import pytest
import torch
from torch import nn
from torch.nn import functional

from splitleak.attacker import class_inversion
from splitleak.attacker.base import Query, Run
from splitleak.attacker.class_inversion import CLASS_ATTACKS
from splitleak.attacker.class_inversion.base import ClassInversion, ClassKnowledge
from splitleak.attacker.class_inversion.search import LatentSearch
from splitleak.attacker.run import AttackConfig
from splitleak.defenses.artifact import load_whole, save
from splitleak.defenses.classes.adaptive import adaptive_model
from splitleak.defenses.training import TargetConfig, train

GAN = {"width": 8, "batch_size": 16, "iterations": 100, "average": 0.9}
BRIEF_GAN = {"width": 2, "batch_size": 8, "iterations": 2}
QUICK_OF = {
    "brep-mi": {"steps": 10},
    "class-inference": {"epochs": 12, "width": 0.125},
    "if-gmi": {"block_steps": 10, "final_views": {"count": 5}},
    "ked-mi": {"gan": {**GAN, "iterations": 150}},
    "lomma-gmi": {"students": 1, "student_epochs": 2},
    "lomma-ked": {"gan": {**GAN, "iterations": 200}, "students": 1, "student_epochs": 2},
    "mirror-genetic": {"restarts": 30, "steps": 15},
    "plg-mi": {"gan": GAN},
}
BRIEF = {"epochs": 1, "width": 0.0625, "steps": 2, "gan": BRIEF_GAN, "final_views": {"count": 2}, "candidates": 64}
BRIEF |= {"block_steps": 1, "students": 1, "student_epochs": 1}

FEATURES = {"loss": "features", "each": 5}

every_attack = pytest.mark.parametrize("name", sorted(CLASS_ATTACKS))
every_search = pytest.mark.parametrize(
    "name",
    sorted(name for name, kind in CLASS_ATTACKS.items() if issubclass(kind, LatentSearch) and kind.access == "white"),
)


def made(name, **settings):
    return AttackConfig(attack=name, settings={**QUICK_OF.get(name, {}), **settings}).build()


def brief(name):
    """Settings for tests that do not ask for a good attack."""
    return {key: value for key, value in BRIEF.items() if key in CLASS_ATTACKS[name].config_type.model_fields}


@pytest.fixture(scope="module")
def model(small_splits):
    """A softmax regression on the training images."""
    torch.manual_seed(0)
    images, labels = small_splits.train.floats(), small_splits.train.labels
    model = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=1e-3)
    for _ in range(150):
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.requires_grad_(False).eval()


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


@pytest.fixture
def known(model, small_splits, tiny_prior):
    """A threat model that withholds nothing but the training images."""
    images = small_splits.public.floats()
    return ClassKnowledge(
        image_shape=tuple(images.shape[1:]),
        classes=10,
        public=images,
        query=Query(lambda asked: model(asked).softmax(1)),
        labels=small_splits.public.labels,
        model=model,
        prior=tiny_prior,
    )


@pytest.mark.slow
@every_attack
def test_the_model_takes_most_of_its_pictures_for_the_classes_they_are_of(name, known, model):
    attack = made(name)
    rebuilt = attack(known)[:, 0]
    assert (model(rebuilt).argmax(1) == torch.arange(10)).float().mean() >= 0.8
    assert attack.findings


@every_attack
def test_it_gives_pictures_in_range_of_each_class_however_many_it_was_told(name, known):
    for classes in (10, None):
        rebuilt = made(name, **brief(name))(dataclasses.replace(known, classes=classes))
        assert rebuilt.shape[0] == 10
        assert rebuilt.shape[2:] == known.image_shape
        assert 0 <= rebuilt.min() <= rebuilt.max() <= 1


@every_attack
def test_it_refuses_by_name_each_missing_piece_of_knowledge(name, known):
    attack = made(name)
    assert attack.needs <= {field.name for field in dataclasses.fields(ClassKnowledge)} - {"image_shape", "classes"}
    assert attack.needs
    for need in attack.needs:
        with pytest.raises(PermissionError, match=f"{name}.*'{need}'"):
            attack(dataclasses.replace(known, **{need: None}))


@every_attack
def test_it_uses_nothing_that_it_does_not_need(name, known):
    attack = made(name, **brief(name))
    optional = {"public", "query", "labels", "model", "prior"} - attack.needs
    least = dataclasses.replace(known, **dict.fromkeys(optional))
    assert torch.equal(attack(least), made(name, **brief(name))(known))


@every_search
def test_every_search_of_a_white_box_can_match_features_and_then_needs_public_images(name, known):
    attack = made(name, **brief(name), identity=FEATURES)
    assert attack.needs == CLASS_ATTACKS[name].needs | {"public"}
    assert attack(known).shape[0] == 10
    with pytest.raises(PermissionError, match=f"{name}.*'public'"):
        attack(dataclasses.replace(known, public=None))


@every_search
@pytest.mark.parametrize("settings", [{}, {"identity": FEATURES}], ids=["its own loss", "features"])
def test_every_search_of_a_white_box_attacks_a_low_rank_head_adaptively(name, settings, known, low_rank):
    attack, given = made(name, **brief(name), **settings), dataclasses.replace(known, model=adaptive_model(low_rank))
    first = attack(given)[:, 0]
    if type(attack).judge is LatentSearch.judge:
        told = torch.from_numpy(low_rank.predict(first.numpy())).softmax(1).diagonal()
        found = torch.tensor([scores[0] for scores in attack.findings["scores"]])
        assert torch.allclose(found, told, atol=1e-4), "selected by other scores than the deployed model's"


@every_attack
def test_answers_of_another_number_of_classes_are_refused(name, known):
    with pytest.raises(ValueError, match=f"{name}.*expected scores of 7 classes, got 10"):
        made(name, **brief(name))(dataclasses.replace(known, classes=7))


@every_attack
def test_one_seed_gives_the_same_pictures_whatever_ran_before(name, known):
    first = made(name, **brief(name))(known, Run(seed=3))
    torch.rand(7)
    assert torch.equal(made(name, **brief(name))(known, Run(seed=3)), first)


@every_attack
def test_its_table_entry_and_both_presets_are_sound(name):
    kind = CLASS_ATTACKS[name]
    assert kind.name == name
    assert (kind.access == "white") == ("model" in kind.needs)
    kind(kind.config_type())
    kind(kind.paper_config())
    assert kind.__doc__


def test_the_table_lists_every_attack_of_the_folder():
    found = set()
    for module in pkgutil.iter_modules(class_inversion.__path__, "splitleak.attacker.class_inversion."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, ClassInversion) and value.__module__ == module.name:
                found.add(value)
    assert {kind for kind in found if hasattr(kind, "name")} == set(CLASS_ATTACKS.values())
