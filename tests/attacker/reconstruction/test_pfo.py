from dataclasses import replace

import pytest
import torch
from torch import nn

from splitleak.attacker.base import Knowledge, Query
from splitleak.attacker.reconstruction.glass import GlassAttack, GlassConfig
from splitleak.attacker.reconstruction.pfo import PfoAttack, PfoConfig
from splitleak.measures.pixel import mse

SEARCH = {"candidates": 64, "restarts": 1, "latent_steps": 10, "steps": 30, "w_weights": [0.0], "rehearsal_images": 2}
SEARCH |= {"tv_weights": [0.0]}


@pytest.fixture
def known(tiny_prior, small_splits):
    return Knowledge(
        captured=small_splits.victims.floats()[:6],
        image_shape=(1, 16, 16),
        public=small_splits.public.floats(),
        encoder=nn.Identity(),
        prior=tiny_prior,
    )


def attacked(known, **settings):
    attack = PfoAttack(PfoConfig.parse({**SEARCH, "block_steps": 40, **settings}, source="test"))
    return attack(known), attack.findings


def test_with_radius_0_it_is_glass(known):
    glass = GlassAttack(GlassConfig.parse(SEARCH, source="test"))(known)
    assert torch.allclose(attacked(known, radii=[0.0])[0], glass, atol=1e-5)


def test_errors_do_not_rise_from_block_to_block_and_end_below_those_of_glass(known):
    rebuilt, findings = attacked(known, radii=[0.3])
    errors = [findings["w_error"], *findings["blocks_errors"]]
    assert errors == sorted(errors, reverse=True)
    glass = GlassAttack(GlassConfig.parse(SEARCH, source="test"))(known)
    assert mse(rebuilt, known.captured).mean() < 0.8 * mse(glass, known.captured).mean()


def test_no_feature_leaves_its_ball(known):
    small, large = (mse(attacked(known, radii=[radius])[0], known.captured).mean() for radius in (0.001, 1.0))
    assert large < small


def test_the_radius_is_rehearsed_on_public_images(known):
    _, findings = attacked(known, radii=[0.001, 1.0])
    losses = {candidate[0]: loss for candidate, loss in findings["rehearsed_radii"]}
    assert findings["radius"] == min(losses, key=losses.get) == 1.0


def test_behind_much_noise_it_keeps_the_pictures_of_glass(known):
    """Each block fits more of the noise: with a radius of 1 the rehearsed ones had half again the error."""
    draw = torch.Generator().manual_seed(0)

    def noisy(images):
        return images + torch.randn(images.shape, generator=draw)

    behind = replace(known, captured=noisy(known.captured), query=Query(noisy))
    glass = GlassAttack(GlassConfig.parse(SEARCH, source="test"))(behind)
    rebuilt, findings = attacked(replace(behind, query=Query(noisy)), radii=[0.3, 1.0])
    assert findings["radius"] == 0
    assert mse(rebuilt, known.captured).mean() < 1.2 * mse(glass, known.captured).mean()
