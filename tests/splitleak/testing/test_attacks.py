import pytest
import torch

from splitleak.attacker.base import Attack
from splitleak.config import Config
from splitleak.testing import AttackSubject, check_attack
from splitleak.testing import attacks as checks


class NothingToSet(Config):
    """There is nothing to set."""


class Mean(Attack):
    """Gives everybody the mean image."""

    name = "mean"
    config_type = NothingToSet
    needs = frozenset({"public"})

    def reconstruct(self, known, run):
        self.findings = {"images": len(known.public)}
        return known.public.mean(0).expand(len(known.captured), -1, -1, -1)


class Drawn(Mean):
    def reconstruct(self, known, run):
        return torch.rand(len(known.captured), *known.image_shape)


class Greedy(Mean):
    needs = frozenset({"private"})


@pytest.mark.parametrize(
    ("kind", "check", "said"),
    [
        (Mean, checks.it_rebuilds_an_undefended_model_better_than_the_mean_image, "1.00 of the mean image's error"),
        (Drawn, checks.one_seed_gives_the_same_images_whatever_ran_before, "one seed gives two results"),
        (Drawn, checks.it_gives_one_image_in_range_for_each_capture_and_reports_findings, "no findings"),
        (Greedy, checks.it_refuses_by_name_each_missing_piece_of_knowledge, "private"),
    ],
)
def test_what_an_attack_does_not_keep_is_named(kind, check, said):
    with pytest.raises(AssertionError, match=said):
        check(AttackSubject(kind))


def test_a_weak_attack_passes_where_no_good_one_is_asked_for():
    check_attack(Mean, error=None)
