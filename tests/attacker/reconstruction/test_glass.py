import dataclasses

import pytest
import torch
from torch import nn

from splitleak.attacker.base import Knowledge, Run
from splitleak.attacker.diffusion import DiffusionConfig, train_diffusion
from splitleak.attacker.prior import PriorConfig, train_prior
from splitleak.attacker.reconstruction.glass import GlassAttack, GlassConfig, Search, drawing_of, squared
from splitleak.measures.pixel import mse

QUICK = GlassConfig(
    candidates=64, restarts=1, latent_steps=10, steps=30, tv_weights=(0.0,), w_weights=(0.0,), rehearsal_images=2
)


def drawn(prior, count=6):
    """Images of the prior's own, and what an attack on an identity encoder knows of them."""
    with torch.no_grad():
        images = prior.generator(torch.randn(count, 64, generator=torch.Generator().manual_seed(5)))
    return images


@pytest.fixture
def known(tiny_prior, small_splits):
    return Knowledge(
        captured=drawn(tiny_prior),
        image_shape=(1, 16, 16),
        public=small_splits.public.floats(),
        encoder=nn.Identity(),
        prior=tiny_prior,
    )


@pytest.mark.slow
def test_an_image_of_the_generator_is_found_again_through_an_identity_encoder(known):
    config = QUICK.model_copy(update={"latent_steps": 100, "steps": 500})
    assert mse(GlassAttack(config)(known), known.captured).max() < 1e-3


def test_candidates_are_compared_as_well_by_features_far_from_zero(tiny_prior):
    drawing = drawing_of(tiny_prior, (1, 16, 16), "glass")
    latents = torch.randn(64, drawing.latent, generator=torch.Generator().manual_seed(1))

    class Far(nn.Module):
        def forward(self, images):
            return images.repeat(1, 16, 1, 1) + 1e4

    with torch.no_grad():
        targets = Far()(drawing.images(latents[10:40], 0))
    found = Search(Far(), drawing, 1.0, Run(), None).compared(latents, targets)
    assert found.argmin(1).tolist() == list(range(10, 40))


def test_candidates_are_compared_by_what_was_not_dropped_on_the_way(tiny_prior):
    drawing = drawing_of(tiny_prior, (1, 16, 16), "glass")
    latents = torch.randn(64, drawing.latent, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        images = drawing.images(latents[10:40], 0)
    targets = images * (torch.rand(images.shape, generator=torch.Generator().manual_seed(2)) >= 0.8)
    search = Search(nn.Identity(), drawing, 2.0, Run(), None, drops=True)
    errors = search.compared(latents, targets)
    assert errors.argmin(1).tolist() == list(range(10, 40))
    torch.testing.assert_close(errors.diagonal(10), search.errors(images, targets), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_with_more_restarts_the_latents_error_does_not_rise(known):
    errors = []
    for restarts in (1, 4, 16):
        attack = GlassAttack(QUICK.model_copy(update={"restarts": restarts, "steps": 1}))
        attack(known)
        errors.append(attack.findings["latent_error"])
    assert errors == sorted(errors, reverse=True)


def test_of_large_pictures_as_many_are_in_one_pass_as_memory_affords(known, in_small_passes):
    attack = GlassAttack(QUICK)
    whole = attack(known)
    apart, most = in_small_passes(attack, known, known.encoder)
    assert most <= 2  # of the check for a gradient
    torch.testing.assert_close(apart, whole, atol=1e-4, rtol=0)


def test_the_settings_with_the_least_loss_on_public_images_are_chosen(known):
    attack = GlassAttack(QUICK.model_copy(update={"tv_weights": (0.0, 100.0)}))
    attack(known)
    losses = {tuple(candidate): loss for candidate, loss in attack.findings["rehearsed_weights"]}
    assert losses[0.0, 0.0] < losses[100.0, 0.0]
    assert (attack.findings["tv_weight"], attack.findings["w_weight"]) == (0.0, 0.0)
    assert attack.findings["w_error"] < attack.findings["latent_error"]


def test_a_prior_that_draws_by_classes_or_denoises_is_refused(known, small_splits):
    conditional = train_prior(PriorConfig(width=2, iterations=1, conditional=True), small_splits.public, Run())
    denoising = train_diffusion(DiffusionConfig(width=4, iterations=1, batch_size=2), small_splits.public, Run())
    for prior, said in ((conditional, "a prior without classes"), (denoising, "got one that denoises")):
        with pytest.raises(ValueError, match=said):
            GlassAttack(QUICK)(dataclasses.replace(known, prior=prior))


def test_a_prior_of_images_of_another_shape_is_refused(known):
    other = dataclasses.replace(
        known, image_shape=(1, 8, 8), public=torch.rand(9, 1, 8, 8), captured=torch.rand(2, 1, 8, 8)
    )
    with pytest.raises(ValueError, match=r"'glass': expected a prior of images \(1, 8, 8\), got \(1, 16, 16\)"):
        GlassAttack(QUICK)(other)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["prior", "w"])
def test_interrupted_and_taken_up_again_it_gives_the_same(known, tmp_path, killed, stage):
    config = QUICK.model_copy(update={"training": PriorConfig(width=2, iterations=30, batch_size=4)})
    known = dataclasses.replace(known, prior=None, public=known.public[:16])
    whole = GlassAttack(config)(known)
    with pytest.raises(KeyboardInterrupt):
        GlassAttack(config)(known, Run(checkpoint=tmp_path / "c", report=killed(1, stage)))
    assert torch.equal(GlassAttack(config)(known, Run(checkpoint=tmp_path / "c")), whole)
    assert not [path for path in tmp_path.iterdir() if not path.name.endswith(".lock")]


def test_images_are_padded_to_a_square_that_a_generator_draws():
    for shape, side in (((3, 20, 28), 28), ((1, 7, 5), 8), ((1, 33, 9), 40)):
        images = torch.rand(2, *shape)
        assert squared(images).shape == (2, shape[0], side, side)
        assert torch.equal(squared(images)[:, :, : shape[1], : shape[2]], images)


def test_the_papers_preset_is_the_published_one():
    paper = GlassAttack.paper_config()
    assert (paper.restarts, paper.latent_steps, paper.steps) == (200, 100, 20_000)
    assert (paper.tv_weights, paper.latent_weight, paper.adam_epsilon) == ((0.01,), 1.0, 1e-3)
