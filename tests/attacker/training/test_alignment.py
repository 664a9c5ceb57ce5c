from dataclasses import replace

import pytest
import torch

from splitleak.attacker.base import Knowledge, Run
from splitleak.attacker.training.alignment import AlignmentConfig, FeatureCritic, align, discrepancy, evening

QUICK = AlignmentConfig(iterations=30, batch_size=16, critic_width=4)


class Scaled(torch.nn.Conv2d):
    """The encoder of `knowledge` with features of another scale."""

    def __init__(self, scale):
        super().__init__(1, 2, 2, stride=2)
        self.scale = scale

    def forward(self, images):
        return self.scale * super().forward(images)


def knowledge():
    torch.manual_seed(0)
    return Knowledge(
        captured=3 + torch.randn(20, 2, 4, 4),
        image_shape=(1, 8, 8),
        public=torch.rand(40, 1, 8, 8),
        fresh_encoder=lambda: torch.nn.Conv2d(1, 2, 2, stride=2),
    )


def test_the_discrepancy_of_alike_features_is_less_than_that_of_others():
    torch.manual_seed(0)
    some, alike, others = torch.randn(64, 5), torch.randn(64, 5), 2 + torch.randn(64, 5)
    assert discrepancy(some, some) == pytest.approx(0, abs=1e-6)
    assert discrepancy(some, alike) < 0.2 * discrepancy(some, others)


def test_what_the_substitute_makes_comes_closer_to_what_was_captured():
    known = knowledge()
    encoder, history = align("a", known, QUICK, Run(), lambda rows, made, real, share: discrepancy(made, real))
    untrained = known.fresh_encoder()
    with torch.no_grad():
        before, after = (abs(float(each(known.public).mean()) - 3) for each in (untrained, encoder))
    assert after < before
    assert len(history) == 2


def test_features_of_slight_and_of_large_scale_are_aligned_alike():
    made = []
    for scale in (2**-7, 2**7):  # powers of two, so that nothing is rounded otherwise
        known = knowledge()
        scaled = replace(known, captured=scale * known.captured, fresh_encoder=lambda s=scale: Scaled(s))
        encoder, _ = align("a", scaled, QUICK, Run(), lambda rows, made, real, share: 0.0)
        made.append(encoder(known.public) / scale)
    assert torch.equal(*made)


@pytest.mark.parametrize("shape", [(6, 4, 4), (5, 6), (6,)])
def test_a_channel_of_huge_values_drowns_no_other_before_the_critic(shape):
    captured = torch.randn(50, *shape, generator=torch.Generator().manual_seed(0))
    captured.select(2 if len(shape) == 2 else 1, 1).mul_(1000)
    known = Knowledge(captured, (1, 16, 16))
    variances = (evening(known) * captured).flatten(1).var(0)
    assert 0.1 < variances.min() < variances.max() < 10
    usual = replace(known, captured=captured.clamp(-3, 3))
    assert bool((evening(usual) == 1).all())


def test_an_encoder_to_other_features_is_refused():
    known = knowledge()
    other = Knowledge(torch.zeros(3, 5), (1, 8, 8), public=known.public, fresh_encoder=known.fresh_encoder)
    with pytest.raises(ValueError, match=r"a: expected an encoder to features \(5,\), got \(2, 4, 4\)"):
        align("a", other, QUICK, Run(), lambda rows, made, real, share: 0.0)


@pytest.mark.parametrize("shape", [(3, 4, 4), (5, 6), (7,)])
def test_features_of_any_shape_are_judged(shape):
    assert FeatureCritic((shape,), (1, 16, 16), 4, torch.ones(()))(torch.randn(3, *shape)).shape == (3,)


def test_interrupted_and_taken_up_again_it_gives_the_same(tmp_path, killed):
    def further(rows, made, real, share):
        return made.square().mean()

    whole, _ = align("a", knowledge(), QUICK, Run(), further)
    with pytest.raises(KeyboardInterrupt):
        align("a", knowledge(), QUICK, Run(checkpoint=tmp_path / "c", report=killed(1, "a")), further)
    again, _ = align("a", knowledge(), QUICK, Run(checkpoint=tmp_path / "c"), further)
    assert torch.equal(again.weight, whole.weight)
