import pytest
import torch

from splitleak.defenses import DEFENSES
from splitleak.defenses.base import Defense
from splitleak.defenses.features.noise import GaussianNoise, GaussianNoiseConfig
from splitleak.testing import DefenseSubject, check_defense
from splitleak.testing import defenses as checks


class _Base(GaussianNoise):
    """A defense that keeps nothing of what it should."""

    name = "worse"


class Unseeded(_Base):
    def forward(self, features):
        return features + torch.randn_like(features)


class InPlace(_Base):
    def forward(self, features):
        return features.mul_(0.5)


class Fewer(_Base):
    def forward(self, features):
        return features[..., ::2]


class NotFinite(_Base):
    def penalty(self, step):
        return (step.sent.mean() - step.sent.mean()).sqrt()


class SilentNoise(_Base):
    noise_variance = 0.0


class Headless(_Base):
    adaptive_attacks = frozenset({"gradients"})


class Forgetful(Defense):
    name = "worse"
    config_type = GaussianNoiseConfig


@pytest.mark.parametrize(
    ("kind", "check", "said"),
    [
        (Unseeded, checks.the_same_seed_gives_the_same_output, "one seed gives two outputs"),
        (InPlace, checks.the_shape_of_what_is_sent_is_that_of_the_features, "changed in place"),
        (Fewer, checks.the_shape_of_what_is_sent_is_that_of_the_features, "what is sent is"),
        (NotFinite, checks.the_gradient_is_finite_through_the_encoder, "not finite"),
        (SilentNoise, checks.it_states_noise_exactly_when_it_draws_noise_alone, "noise_variance is"),
        (Headless, checks.it_has_adaptive_attacks_exactly_where_it_puts_a_head, "in place of the last layer: 0"),
        (Forgetful, checks.its_config_is_closed_and_complete_without_values, "does not keep its config"),
        (Forgetful, checks.it_is_documented, "no docstring"),
    ],
)
def test_what_a_defense_does_not_keep_is_named(kind, check, said):
    if kind is Forgetful:
        kind.__doc__ = None
    with pytest.raises(AssertionError, match=said):
        check(DefenseSubject(kind, {"sigma": 0.3}))
    assert "worse" not in DEFENSES


@pytest.mark.slow
def test_a_good_defense_passes_and_is_not_left_in_the_table():
    before = list(DEFENSES)
    check_defense(GaussianNoise, {"sigma": 0.2})
    assert list(DEFENSES) == before
