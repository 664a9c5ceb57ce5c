"""What every reconstruction attack keeps, over the table of attacks."""

import dataclasses
import importlib
import math
import pkgutil

import pytest
import torch

from splitleak.attacker import reconstruction
from splitleak.attacker.base import Attack, Knowledge, Query, Run
from splitleak.attacker.reconstruction import ATTACKS
from splitleak.measures.pixel import mse
from splitleak.models.split import ModelConfig, build

QUICK = {"epochs": 6, "batch_size": 32, "channels": 16, "blocks": 1}
QUICK_OF = {
    "gan": {"epochs": 12, "batch_size": 16, "critic_width": 4},
    "inverse-network": {"epochs": 15},
    "prediction-inversion": {"batch_size": 16, "epochs": 40},
    "maximum-likelihood": {"decoder_epochs": 4, "iterations": 50, "l2_weights": [1e-3, 1e-2]},
    "query-free": {"decoder_epochs": 2, "iterations": 25},
}
# The head here is untrained: what it understands says nothing of the encoder. The attack's own tests train both.
NEEDS_A_TRAINED_HEAD = {"query-free"}

every_attack = pytest.mark.parametrize("name", sorted(ATTACKS))


def made(name, **settings):
    kind = ATTACKS[name]
    quick = {key: value for key, value in QUICK.items() if key in kind.config_type.model_fields}
    return kind(kind.config_type.parse({**quick, **QUICK_OF.get(name, {}), **settings}, source="test"))


def brief(name):
    """Settings for tests that do not ask for a good attack."""
    least = {"epochs": 1, "decoder_epochs": 1, "iterations": 2}
    return {key: value for key, value in least.items() if key in ATTACKS[name].config_type.model_fields}


def toy_model():
    return build(ModelConfig(architecture="cnn", width=0.5, channels=1, size=16, classes=10))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return toy_model().requires_grad_(False).eval()


@pytest.fixture
def known(model, small_splits):
    """``known(name)`` is a threat model for an attack, that withholds nothing but the victims' images."""
    send = {"features": model.encoder, "scores": lambda images: model(images).softmax(1)}
    victims = small_splits.victims.floats()

    def of(name):
        takes = ATTACKS[name].takes
        return Knowledge(
            captured=send[takes](victims),
            image_shape=tuple(victims.shape[1:]),
            public=small_splits.public.floats(),
            query=Query(send[takes]),
            labels=small_splits.public.labels,
            encoder=model.encoder,
            head=model.head,
            fresh_encoder=lambda: toy_model().encoder,
            kind=takes,
        )

    return of


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(ATTACKS) - NEEDS_A_TRAINED_HEAD))
def test_it_rebuilds_an_undefended_model_at_half_the_error_of_the_mean_image(name, known, small_splits):
    truth = small_splits.victims.floats()
    rebuilt = made(name)(known(name))
    of_the_mean = mse(known(name).public.mean(0).expand_as(truth), truth).mean()
    assert mse(rebuilt, truth).mean() <= of_the_mean / 2


@every_attack
def test_it_gives_one_image_in_range_for_each_feature_and_reports_findings(name, known):
    attack = made(name, **brief(name))
    given = known(name)
    rebuilt = attack(dataclasses.replace(given, captured=given.captured[:5]))
    assert rebuilt.shape == (5, *given.image_shape)
    assert 0 <= rebuilt.min() <= rebuilt.max() <= 1
    assert attack.findings


@every_attack
def test_it_refuses_by_name_each_missing_piece_of_knowledge(name, known):
    attack = made(name)
    assert attack.needs <= {field.name for field in dataclasses.fields(Knowledge)} - {"captured", "image_shape"}
    for need in attack.needs:
        with pytest.raises(PermissionError, match=f"{name}.*'{need}'"):
            attack(dataclasses.replace(known(name), **{need: None}))


@every_attack
def test_it_refuses_scores_for_features_and_features_for_scores(name, known):
    other = next(each for each in sorted(ATTACKS) if ATTACKS[each].takes != ATTACKS[name].takes)
    wrong, right = ATTACKS[other].takes, ATTACKS[name].takes
    with pytest.raises(ValueError, match=f"'{name}': expected captured {right} .*, got {wrong} "):
        made(name)(known(other))


SHAPES = {"map": (8, 7, 5), "tokens": (13, 24), "vector": (37,), "parts": (4 * 7 * 5 + 24 + 6 * 9,)}
PARTS = ((4, 7, 5), (24,), (6, 9))


class AnyShape(torch.nn.Module):
    """An encoder to features of a shape, or a head from them: a linear map."""

    def __init__(self, given, wanted):
        super().__init__()
        self.wanted = wanted
        self.map = torch.nn.Linear(math.prod(given), math.prod(wanted))

    def forward(self, rows):
        return self.map(rows.flatten(1)).unflatten(1, self.wanted)


@every_attack
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("picture", [(3, 20, 28), (1, 16, 16), (4, 24, 24)], ids=str)
def test_it_rebuilds_pictures_of_any_shape_from_features_of_any_shape(name, kind, picture):
    torch.manual_seed(0)
    cut, scores = SHAPES[kind], ATTACKS[name].takes == "scores"
    if scores:
        cut = (9,)
    encoder = AnyShape(picture, cut).requires_grad_(False)
    send = (lambda images: encoder(images).softmax(1)) if scores else encoder
    public = torch.rand(24, *picture)
    known = Knowledge(
        captured=send(torch.rand(5, *picture)),
        image_shape=picture,
        public=public,
        query=Query(send),
        labels=torch.arange(24) % 3,
        encoder=encoder,
        head=AnyShape(cut, (3,)),
        fresh_encoder=lambda: AnyShape(picture, cut),
        kind=ATTACKS[name].takes,
        parts=PARTS if kind == "parts" and not scores else None,
    )
    rebuilt = made(name, **brief(name))(known)
    assert rebuilt.shape == (5, *picture)
    assert rebuilt.isfinite().all()


@every_attack
def test_parts_that_are_not_what_was_captured_are_refused(name, known):
    with pytest.raises(ValueError, match=r"expected features \(218,\), which pack .*, got"):
        made(name)(dataclasses.replace(known(name), parts=PARTS))


@pytest.mark.slow
@every_attack
def test_one_seed_gives_the_same_images_whatever_ran_before(name, known):
    few = dataclasses.replace(known(name), captured=known(name).captured[:8])
    first = made(name, **brief(name))(few, Run(seed=3))
    torch.rand(7)
    assert torch.equal(made(name, **brief(name))(few, Run(seed=3)), first)
    assert not torch.equal(made(name, **brief(name))(few, Run(seed=4)), first)


@every_attack
def test_its_table_entry_and_both_presets_are_sound(name):
    kind = ATTACKS[name]
    assert kind.name == name
    kind(kind.config_type())
    kind(kind.paper_config())
    assert kind.__doc__


def test_the_table_lists_every_attack_of_the_folder():
    found = set()
    for module in pkgutil.iter_modules(reconstruction.__path__, "splitleak.attacker.reconstruction."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, Attack) and value.__module__ == module.name:
                found.add(value)
    assert found == set(ATTACKS.values())
