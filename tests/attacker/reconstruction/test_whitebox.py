import dataclasses

import pytest
import torch
from torch import nn

from splitleak.attacker.base import Knowledge, Query, Run
from splitleak.attacker.reconstruction import whitebox
from splitleak.attacker.reconstruction.decoder import DecoderAttack, DecoderConfig
from splitleak.attacker.reconstruction.descent import descend
from splitleak.attacker.reconstruction.whitebox import MaximumLikelihoodAttack, MaximumLikelihoodConfig
from splitleak.measures.pixel import mse
from splitleak.seeding import generator

QUICK = MaximumLikelihoodConfig(decoder_epochs=1, iterations=10, l2_weights=(1e-3, 1.0))
SIGMA = 0.1


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(True), nn.MaxPool2d(2), nn.Conv2d(6, 4, 1)
    return nn.Sequential(*layers).eval()


@pytest.fixture
def known(encoder, small_splits):
    draw = torch.Generator().manual_seed(0)

    @torch.no_grad()
    def send(images):
        features = encoder(images)
        return features + SIGMA * torch.randn(features.shape, generator=draw)

    victims = small_splits.victims.floats()
    return Knowledge(
        captured=send(victims),
        image_shape=(1, 16, 16),
        public=small_splits.public.floats(),
        query=Query(send),
        encoder=encoder,
    )


@pytest.mark.slow
def test_it_ends_better_than_the_decoder_that_it_starts_from(known, small_splits):
    truth = small_splits.victims.floats()
    decoder = DecoderAttack(DecoderConfig(epochs=4))(known)
    attack = MaximumLikelihoodAttack(
        MaximumLikelihoodConfig(decoder_epochs=4, iterations=50, l2_weights=(1e-3, 1e-2, 0.1), rehearsal_images=16)
    )
    assert mse(attack(known), truth).mean() < mse(decoder, truth).mean()
    assert attack.findings["feature_loss_end"] < attack.findings["feature_loss_start"]
    assert attack.findings["gradient_norm_start"] > 0
    assert attack.findings["held_out_mse"] < attack.findings["mean_image_mse"] / 2


@pytest.mark.slow
def test_without_queries_it_learns_behind_the_noise_that_the_half_tells_of(known, small_splits):
    noisy = dataclasses.replace(known, query=None, captured=known.captured + 0.4 * torch.randn(known.captured.shape))

    def simulate(features, draws, seed):
        return features + 0.4 * torch.randn((draws, *features.shape), generator=generator(seed, "simulated"))

    config = MaximumLikelihoodConfig(decoder_epochs=4, iterations=50, rehearsal_images=16)
    truth = small_splits.victims.floats()
    told, blind = (
        mse(MaximumLikelihoodAttack(config)(each), truth).mean()
        for each in (dataclasses.replace(noisy, simulate=simulate), noisy)
    )
    assert told < 0.7 * blind


def test_an_edge_that_draws_is_asked_as_often_as_for_a_decoder_and_without_queries_images_are_encoded(known, encoder):
    plain = Query(lambda images: encoder(images).detach())
    for query, draws in {known.query: 16, plain: 1}.items():
        MaximumLikelihoodAttack(QUICK)(dataclasses.replace(known, query=query))
        assert query.made == draws * len(known.public) + 8  # asked again, to see whether it draws
    blind = MaximumLikelihoodAttack(QUICK)
    blind(dataclasses.replace(known, query=None))
    assert blind.findings["held_out_mse"] > 0


@pytest.mark.parametrize("ssim_weight", [0.0, 0.02])
def test_the_weights_with_the_least_loss_in_the_rehearsal_are_taken(known, ssim_weight):
    config = QUICK.model_copy(update={"tv_weights": (0.0, 50.0), "ssim_weight": ssim_weight})
    attack = MaximumLikelihoodAttack(config)
    attack(known)
    rehearsal = attack.findings["rehearsal"]
    tried = [(each["tv_weight"], each["l2_weight"]) for each in rehearsal]
    assert tried[:4] == [(0.0, 1e-3), (0.0, 1.0), (50.0, 1e-3), (50.0, 1.0)]
    best = min(rehearsal, key=lambda each: each["loss"])
    assert all((each["loss"] > each["mse"]) == (ssim_weight > 0) for each in rehearsal)
    assert (attack.findings["tv_weight"], attack.findings["l2_weight"]) == (best["tv_weight"], best["l2_weight"])
    assert attack.findings["held_out_mse"] == best["mse"]
    assert best["tv_weight"] == 0


def test_heavier_weights_are_tried_where_the_heaviest_is_the_best(known):
    def rehearsed(*l2_weights):
        attack = MaximumLikelihoodAttack(QUICK.model_copy(update={"tv_weights": (0.0, 1.0), "l2_weights": l2_weights}))
        attack(known)
        return attack.findings["l2_weight"], [each["l2_weight"] for each in attack.findings["rehearsal"]]

    chosen, tried = rehearsed(1e-6, 1e-5)
    assert tried == [1e-6, 1e-5, 1e-6, 1e-5, *(pytest.approx(1e-5 * 6**times) for times in range(1, len(tried) - 3))]
    assert chosen > 1e-5
    assert len(tried) > 4
    assert rehearsed(1e-5)[1] == [1e-5, 1e-5]


def test_lighter_weights_are_tried_where_the_lightest_is_the_best(known, encoder):
    exact = Query(torch.no_grad()(encoder))
    known = dataclasses.replace(known, captured=exact(known.public[:8]), query=exact)
    attack = MaximumLikelihoodAttack(QUICK.model_copy(update={"l2_weights": (50.0, 100.0)}))
    attack(known)
    tried = [each["l2_weight"] for each in attack.findings["rehearsal"]]
    assert tried[:2] == [50, 100]
    assert tried[2:] == pytest.approx([50 / 6**time for time in range(1, len(tried) - 1)])
    assert attack.findings["l2_weight"] < 50


def test_no_weight_is_tried_that_is_lighter_than_0(known, encoder, monkeypatch):
    """It tried 0 four times more."""
    descents = []

    def heard(*given, name, **settings):
        descents.append(name)
        return descend(*given, name=name, **settings)

    exact = Query(torch.no_grad()(encoder))
    known = dataclasses.replace(known, captured=exact(known.public[:8]), query=exact)
    attack = MaximumLikelihoodAttack(QUICK.model_copy(update={"l2_weights": (0.0, 100.0)}))
    monkeypatch.setattr(whitebox, "descend", heard)
    attack(known)
    assert attack.findings["l2_weight"] == 0
    assert descents == ["rehearsal", "descent"]


def test_a_channel_of_huge_values_drowns_no_other_in_the_error(known, encoder, small_splits):
    truth, errors = small_splits.victims.floats(), []
    for huge in (1.0, 1000.0):
        scaled = nn.Sequential(encoder, nn.Conv2d(4, 4, 1, bias=False)).requires_grad_(False)
        scaled[1].weight.copy_(torch.tensor([huge, 1.0, 1.0, 1.0]).diag()[:, :, None, None])
        exact = Query(scaled)
        seen = dataclasses.replace(known, captured=exact(truth), query=exact, encoder=scaled)
        attack = MaximumLikelihoodAttack(
            MaximumLikelihoodConfig(decoder_epochs=2, iterations=60, l2_weights=(1e-3,), start="mean")
        )
        errors.append(float(mse(attack(seen), truth).mean()))
    assert errors[1] < 1.1 * errors[0]


def test_rehearsed_images_are_not_learnt_from(known):
    """That they cannot be rebuilt changes the rehearsal, and nothing that was learnt."""
    order = torch.randperm(300, generator=generator(0, "maximum-likelihood", "rehearsal"))
    spoilt = known.public.clone()
    spoilt[order[:48]] = 1 - spoilt[order[:48]]
    answers = known.query(known.public)
    same = dataclasses.replace(known, query=Query(lambda _: answers, recorded=True))
    once, other = MaximumLikelihoodAttack(QUICK), MaximumLikelihoodAttack(QUICK)
    once(same)
    other(dataclasses.replace(same, public=spoilt))
    assert once.findings["rehearsal"] != other.findings["rehearsal"]
    assert once.findings["feature_loss_start"] == other.findings["feature_loss_start"]


def test_one_candidate_needs_no_rehearsal(known):
    attack = MaximumLikelihoodAttack(QUICK.model_copy(update={"l2_weights": (0.01,)}))
    attack(known)
    assert attack.findings["l2_weight"] == 0.01
    assert not {"rehearsal", "held_out_mse", "mean_image_mse"} & attack.findings.keys()


def test_the_encoder_it_was_given_stays_as_it_is(known):
    known.encoder.train().requires_grad_(True)
    before = {name: value.clone() for name, value in known.encoder.state_dict().items()}
    MaximumLikelihoodAttack(QUICK)(dataclasses.replace(known, query=None))
    assert known.encoder.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in known.encoder.parameters())
    assert all(torch.equal(before[name], value) for name, value in known.encoder.state_dict().items())
    known.encoder.eval()


def test_an_encoder_to_other_features_than_the_captured_is_refused(known):
    wrong = dataclasses.replace(known, query=None, captured=known.captured[:, :, :4, :4])
    with pytest.raises(ValueError, match=r"maximum-likelihood: expected an encoder to features \(4, 4, 4\)"):
        MaximumLikelihoodAttack(QUICK)(wrong)


def test_the_papers_preset_is_the_published_descent(known, small_splits):
    paper = MaximumLikelihoodAttack.paper_config()
    assert (paper.iterations, paper.learning_rate, paper.adam_epsilon) == (5000, 0.01, 1e-3)
    assert (paper.start, paper.box, paper.tv_weights, paper.l2_weights) == ("mean", False, (10.0,), (0.0,))
    attack = MaximumLikelihoodAttack(paper.model_copy(update={"iterations": 100, "tv_weights": (1e-3,)}))
    truth = small_splits.victims.floats()
    rebuilt = attack(dataclasses.replace(known, captured=known.encoder(truth).detach()), Run())
    assert mse(rebuilt, truth).mean() < mse(known.public.mean(0).expand_as(truth), truth).mean()
