"""What every reconstruction attack keeps, over the table; the checks are those that others hold theirs to."""

import dataclasses
import importlib
import math
import pkgutil

import pytest
import torch

from splitleak.attacker import reconstruction
from splitleak.attacker.base import Attack, Knowledge, Query, Run
from splitleak.attacker.reconstruction import ATTACKS
from splitleak.testing import ATTACK_CHECKS, AttackSubject
from splitleak.testing.attacks import (
    it_rebuilds_an_undefended_model_better_than_the_mean_image,
    one_seed_gives_the_same_images_whatever_ran_before,
)

QUICK = {"epochs": 6, "batch_size": 32, "channels": 16, "blocks": 1}
QUICK_GENERATOR = {"iterations": 300, "width": 8, "batch_size": 16}
QUICK_OF = {
    "drag": {"training": {"iterations": 20, "width": 8}, "decoder_epochs": 3, "strength": 0.04, "guidance": [0.9]},
    "ensemble": {"members": 2, "decoder": {**QUICK, "epochs": 4}},
    "fora": {"iterations": 2, "decoder_epochs": 1},
    "glass": {"training": QUICK_GENERATOR, "steps": 150, "tv_weights": [0.0], "w_weights": [1e-4]},
    "pfo": {"training": QUICK_GENERATOR, "steps": 100, "tv_weights": [0.0], "w_weights": [1e-4], "radii": [0.3]},
    "sdar": {"iterations": 2},
    "gan": {"epochs": 4, "batch_size": 16, "critic_width": 4},
    "inverse-network": {"epochs": 15},
    "prediction-inversion": {"batch_size": 16, "epochs": 8},
    "maximum-likelihood": {"decoder_epochs": 4, "iterations": 25, "l2_weights": [1e-3, 1e-2]},
    "query-free": {"decoder_epochs": 2, "iterations": 25},
}
# The head here is untrained: what it understands says nothing of the encoder. The attack's own tests train both.
NEEDS_A_TRAINED_HEAD = {"query-free", "sdar", "fora"}
RESIDUAL = {"peel"}  # attacks on residual networks alone; at this cut they match the feature with a picture unlike it
DRAWS_NOTHING = {"nearest", "peel"}
ERROR_OF = dict.fromkeys(NEEDS_A_TRAINED_HEAD | RESIDUAL) | {"glass": 0.85, "pfo": 0.65}  # with so small a generator

BRIEF = {"epochs": 1, "decoder_epochs": 1, "iterations": 2}
BRIEF |= {"training": {"iterations": 2, "width": 4}, "steps": 2, "latent_steps": 2, "block_steps": 2, "members": 2}
BRIEF |= {"decoder": {"epochs": 1}, "recurrences": 1, "stem_steps": 2, "joint_steps": 2, "candidates": 4}
SLOW = (
    it_rebuilds_an_undefended_model_better_than_the_mean_image,
    one_seed_gives_the_same_images_whatever_ran_before,
)
CHECKS = [
    pytest.param(each, marks=pytest.mark.slow if each in SLOW else (), id=each.__name__) for each in ATTACK_CHECKS
]

every_attack = pytest.mark.parametrize("name", sorted(ATTACKS))


def subject(name):
    kind = ATTACKS[name]
    known = kind.config_type.model_fields
    quick = {key: value for key, value in QUICK.items() if key in known}
    brief = {key: value for key, value in BRIEF.items() if key in known}
    architecture = "resnet20" if name in RESIDUAL else "cnn"
    return AttackSubject(kind, {**quick, **QUICK_OF.get(name, {})}, brief, ERROR_OF.get(name, 0.5), architecture)


@every_attack
@pytest.mark.parametrize("check", CHECKS)
def test_it_keeps(check, name):
    check(subject(name))


@every_attack
def test_it_is_named_as_in_the_table(name):
    assert ATTACKS[name].name == name


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
    if name in RESIDUAL:
        with pytest.raises(ValueError, match="expected an encoder with residual blocks"):
            subject(name).made(brief=True)(known)
        return
    rebuilt = subject(name).made(brief=True)(known)
    assert rebuilt.shape == (5, *picture)
    assert rebuilt.isfinite().all()


@every_attack
def test_parts_that_are_not_what_was_captured_are_refused(name):
    tested = subject(name)
    with pytest.raises(ValueError, match=r"expected features \(218,\), which pack .*, got"):
        tested.made()(dataclasses.replace(tested.known(), parts=PARTS))


@pytest.mark.parametrize("cast", [lambda levels: levels.short().float(), torch.floor], ids=["whole numbers", "rounded"])
@pytest.mark.parametrize("name", sorted(name for name in ATTACKS if "encoder" in ATTACKS[name].needs))
def test_an_encoder_that_lets_no_gradient_through_is_refused_and_not_descended_on(name, cast):
    class Casting(torch.nn.Module):
        def forward(self, images):
            return cast(images * 255)

    images = torch.rand(24, 1, 8, 8)
    encoder = Casting()
    known = Knowledge(captured=encoder(images[:2]), image_shape=(1, 8, 8), public=images[2:], encoder=encoder)
    with pytest.raises(ValueError, match=f"{name}: expected an encoder that lets gradients through to the image"):
        subject(name).made(brief=True)(known)


@pytest.mark.slow
@every_attack
def test_another_seed_gives_other_images_where_it_draws(name):
    tested = subject(name)
    few = dataclasses.replace(tested.known(), captured=tested.known().captured[:8])
    first, second = (tested.made(brief=True)(few, Run(seed=seed)) for seed in (3, 4))
    assert torch.equal(first, second) == (name in DRAWS_NOTHING)


def test_the_table_lists_every_attack_of_the_folder():
    found = set()
    for module in pkgutil.iter_modules(reconstruction.__path__, "splitleak.attacker.reconstruction."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, Attack) and value.__module__ == module.name:
                found.add(value)
    assert found == set(ATTACKS.values())
