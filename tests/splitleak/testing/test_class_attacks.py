import pytest
import torch

from splitleak.attacker.class_inversion.base import ClassInversion
from splitleak.config import Config
from splitleak.testing import ClassAttackSubject, check_class_attack
from splitleak.testing import class_attacks as checks


class NothingToSet(Config):
    """There is nothing to set."""


class SurestPublic(ClassInversion):
    """The public image of which the model is surest."""

    name = "surest"
    config_type = NothingToSet
    access = "white"
    needs = frozenset({"model", "public"})

    def invert(self, known, run):
        scores = known.model(known.public).softmax(1)
        self.findings = {"confidence": float(scores.max())}
        return known.public[scores.topk(1, dim=0).indices.T]


class Drawn(SurestPublic):
    def invert(self, known, run):
        return torch.rand(10, 1, *known.image_shape)


class Nosy(SurestPublic):
    def invert(self, known, run):
        return super().invert(known, run) * (0.5 if known.labels is None else 1)


class Blind(SurestPublic):
    needs = frozenset()


@pytest.mark.parametrize(
    ("kind", "check", "said"),
    [
        (Drawn, checks.the_model_takes_most_of_its_pictures_for_the_classes_they_are_of, "for their classes"),
        (Drawn, checks.one_seed_gives_the_same_pictures_whatever_ran_before, "one seed gives two results"),
        (Nosy, checks.it_uses_nothing_that_it_does_not_need, "does not need"),
        (Blind, checks.it_refuses_by_name_each_missing_piece_of_knowledge, "needs nothing"),
        (Blind, checks.both_its_presets_are_sound, "a white box needs the model"),
    ],
)
def test_what_an_attack_does_not_keep_is_named(kind, check, said):
    with pytest.raises(AssertionError, match=said):
        check(ClassAttackSubject(kind))


def test_an_attack_that_keeps_all_of_it_passes():
    check_class_attack(SurestPublic)
