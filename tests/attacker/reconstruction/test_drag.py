import dataclasses
import math

import pytest
import torch
from torch import nn

from splitleak.attacker.base import Knowledge, Query, Run
from splitleak.attacker.diffusion import DiffusionConfig, train_diffusion
from splitleak.attacker.reconstruction.drag import DragAttack, DragConfig, Sampler, deviation, guided
from splitleak.attacker.training.denoiser import alpha_bar
from splitleak.measures.pixel import mse
from splitleak.seeding import generator

QUICK = DragConfig(start="noise", timesteps=12, recurrences=2, guidance=(0.5,))


@pytest.fixture(scope="module")
def prior(small_splits):
    return train_diffusion(DiffusionConfig(width=8, iterations=60, batch_size=16), small_splits.public, Run())


@pytest.fixture
def known(prior, small_splits):
    return Knowledge(
        captured=small_splits.victims.floats()[:4],
        image_shape=(1, 16, 16),
        public=small_splits.public.floats(),
        encoder=nn.Identity(),
        prior=prior,
    )


def test_what_a_step_adds_is_as_long_as_noise_and_plain_noise_without_guidance():
    torch.manual_seed(0)
    noise, direction = 0.3 * torch.randn(3, 1, 8, 8), torch.randn(3, 1, 8, 8)
    added = guided(noise, direction, 0.3, torch.tensor([0.0, 0.2, 1.0]))
    assert torch.equal(added[0], noise[0])
    assert added[1:].flatten(1).norm(dim=1).tolist() == pytest.approx([0.3 * 8, 0.3 * 8], abs=1e-5)
    against = nn.functional.cosine_similarity(added[2].flatten(), -direction[2].flatten(), dim=0)
    assert against > 1 - 1e-6
    assert not guided(0 * noise, direction, 0.0, torch.ones(3)).any()


def test_without_guidance_it_is_plain_ddim(known, prior):
    images = DragAttack(QUICK.model_copy(update={"guidance": (0.0,), "recurrences": 1}))(known, Run(seed=3))
    draw = generator(3, "drag", "sampling")
    noisy = torch.randn(4, 1, 16, 16, generator=draw)
    with torch.no_grad():
        for step in range(12):
            time = (12 - step) / 12
            now, after = alpha_bar(time), alpha_bar(time - 1 / 12)
            clean, noise = prior.denoiser.split(noisy, time)
            spread = deviation(1.0, now, after)
            rest = math.sqrt(max(0.0, 1 - after - spread**2))
            noisy = math.sqrt(after) * clean + rest * noise + spread * torch.randn(noisy.shape, generator=draw)
    assert torch.allclose(images, ((noisy + 1) / 2).clamp(0, 1), atol=1e-4)


def test_features_with_channels_last_are_as_near_as_those_with_channels_first(prior):
    class Last(nn.Conv2d):
        def forward(self, images):
            return super().forward(images).permute(0, 2, 3, 1)

    torch.manual_seed(0)
    first, last = nn.Conv2d(1, 6, 2, stride=2), Last(1, 6, 2, stride=2)
    last.load_state_dict(first.state_dict())
    config, images = QUICK.model_copy(update={"distance": "cosine"}), torch.rand(3, 1, 16, 16)
    near = [
        Sampler(config, encoder, prior, (1, 16, 16), Run()).distance(images, encoder(images.flip(3)))
        for encoder in (first, last)
    ]
    torch.testing.assert_close(*near)


def test_the_gradient_goes_through_the_denoiser(known, prior):
    sampler = Sampler(QUICK, nn.Identity(), prior, (1, 16, 16), Run())
    noisy = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    kept = {"noisy": noisy, "first": torch.zeros_like(noisy), "second": torch.zeros_like(noisy)}
    clean, _, _ = sampler.step(kept, known.captured, 0.5)
    through = kept["first"].flatten(1)
    at_the_picture = ((clean + 1) / 2 - known.captured).flatten(1)
    alike = nn.functional.cosine_similarity(through, at_the_picture)
    assert (alike < 0.999).all()
    assert (through.norm(dim=1) <= 0.1 * 0.02 + 1e-6).all()


def test_guidance_brings_the_feature_closer_and_one_seed_gives_one_picture(known):
    guidances = (0.0, 0.5)
    plain, guided_images = (DragAttack(QUICK.model_copy(update={"guidance": (each,)}))(known) for each in guidances)
    assert mse(guided_images, known.captured).mean() < 0.7 * mse(plain, known.captured).mean()
    assert torch.equal(DragAttack(QUICK)(known), guided_images)


@pytest.mark.parametrize("distance", ["error", "cosine"])
def test_features_that_are_alike_are_at_distance_0(prior, distance):
    sampler = Sampler(QUICK.model_copy(update={"distance": distance}), nn.Flatten(), prior, (1, 16, 16), Run())
    images = torch.rand(3, 1, 16, 16)
    assert sampler.distance(images, images.flatten(1)).tolist() == pytest.approx([0, 0, 0], abs=1e-5)
    assert (sampler.distance(images, images.flip(0).flatten(1))[0::2] > 1e-3).all()


@pytest.mark.parametrize("distance", ["error", "cosine"])
def test_features_that_differ_in_what_was_dropped_alone_are_at_distance_0(prior, distance):
    config, images = QUICK.model_copy(update={"distance": distance}), torch.rand(3, 1, 16, 16)
    sampler = Sampler(config, nn.Flatten(), prior, (1, 16, 16), Run(), drops=True)
    sent = images.flatten(1) * (torch.rand(3, 256) >= 0.3)
    assert sampler.distance(images, sent).tolist() == pytest.approx([0, 0, 0], abs=1e-5)
    assert (sampler.distance(images.flip(0), sent)[0::2] > 1e-3).all()


@pytest.mark.slow
def test_through_dropout_it_rebuilds_much_better_than_the_mean_image(known, small_splits):
    config = QUICK.model_copy(update={"timesteps": 30})
    draw, eightfold = torch.Generator().manual_seed(0), nn.Upsample((32, 64))

    def send(images):
        features = eightfold(images)
        return features * (torch.rand(features.shape, generator=draw) >= 0.3)

    truth = small_splits.victims.floats()[:4]
    known = dataclasses.replace(known, captured=eightfold(truth), encoder=eightfold)
    through = dataclasses.replace(known, captured=send(truth), query=Query(send))
    grey = mse(known.public.mean(0).expand_as(truth), truth).mean()
    assert mse(DragAttack(config)(through), truth).mean() < 0.5 * grey


def test_of_large_pictures_as_many_are_in_one_pass_as_memory_affords(known, in_small_passes):
    attack = DragAttack(QUICK)
    whole = attack(known)
    apart, most = in_small_passes(attack, known, known.encoder)
    assert most <= 2  # of the check for a gradient
    torch.testing.assert_close(apart, whole, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_lighter_guidance_is_tried_where_the_lightest_is_the_best_and_pictures_stay_where_none_betters_them(
    known, small_splits
):
    """Behind noise, whose feature no picture is to match; unguided, what is sampled forgets the feature."""
    draw, config = torch.Generator().manual_seed(0), QUICK.model_copy(update={"start": "decoder", "timesteps": 60})
    config, truth = config.model_copy(update={"decoder_epochs": 3}), small_splits.victims.floats()[:16]

    def send(images):
        return images + 2 * torch.randn(images.shape, generator=draw)

    known = dataclasses.replace(known, captured=send(truth), public=known.public[:96], query=Query(send))
    attack = DragAttack(config.model_copy(update={"guidance": (0.5, 0.9)}))
    images = attack(known)
    tried = [guidance for guidance, _ in attack.findings["rehearsed_guidance"]]
    assert tried == pytest.approx([0.5, 0.9, 0.5 / 3, 0.5 / 9])
    assert attack.findings["rehearsed_start"] < min(loss for _, loss in attack.findings["rehearsed_guidance"])
    always = DragAttack(config.model_copy(update={"guidance": (0.5,)}))(known)
    assert mse(images, truth).mean() < 0.8 * mse(always, truth).mean()


def test_a_generator_is_refused(known, tiny_prior):
    with pytest.raises(ValueError, match="expected a prior of kind diffusion, got a generator"):
        DragAttack(QUICK)(dataclasses.replace(known, prior=tiny_prior))


def test_interrupted_and_taken_up_again_it_gives_the_same(known, tmp_path, killed):
    whole = DragAttack(QUICK)(known)
    with pytest.raises(KeyboardInterrupt):
        DragAttack(QUICK)(known, Run(checkpoint=tmp_path / "c", report=killed(1, "sampling")))
    assert torch.equal(DragAttack(QUICK)(known, Run(checkpoint=tmp_path / "c")), whole)


def test_the_papers_preset_is_the_published_one():
    paper = DragAttack.paper_config()
    assert (paper.timesteps, paper.recurrences, paper.guidance, paper.eta, paper.clip) == (250, 16, (0.2,), 1.0, 0.02)
