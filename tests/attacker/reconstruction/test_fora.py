from dataclasses import replace

import pytest
import torch
from torch import nn

from splitleak.attacker.base import Knowledge, Run
from splitleak.attacker.reconstruction.fora import ForaAttack, ForaConfig
from splitleak.measures.pixel import mse

QUICK = ForaConfig(iterations=150, learning_rate=1e-2, critic_width=8, decoder_epochs=3)


def stream(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def known(small_splits):
    """An encoder whose only secret is how strongly it darkens, as one number says."""
    encoder = nn.Conv2d(1, 1, 1)
    encoder.weight.data.fill_(-2.0)
    encoder.bias.data.fill_(1.0)
    with torch.no_grad():
        captured = encoder(small_splits.victims.floats())
    return Knowledge(
        captured=captured,
        image_shape=(1, 16, 16),
        public=small_splits.public.floats(),
        fresh_encoder=lambda: nn.Conv2d(1, 1, 1),
    )


@pytest.mark.slow
def test_without_query_weights_and_labels_it_rebuilds_better_than_the_mean_image(known, small_splits):
    truth, attack = small_splits.victims.floats(), ForaAttack(QUICK)
    assert mse(attack(known), truth).mean() < 0.5 * mse(known.public.mean(0).expand_as(truth), truth).mean()
    assert len(attack.findings["history"]) == 6


@pytest.mark.slow
def test_who_knows_that_the_wire_draws_noise_trains_the_inverse_behind_it(known, small_splits):
    noisy = replace(known, captured=known.captured + 0.6 * torch.randn(known.captured.shape, generator=stream(0)))

    def simulate(features, draws, seed):
        return features + 0.6 * torch.randn((draws, *features.shape), generator=stream(seed + 1))

    told, blind = (ForaAttack(QUICK)(each) for each in (replace(noisy, simulate=simulate), noisy))
    truth = small_splits.victims.floats()
    assert mse(told, truth).mean() < 0.8 * mse(blind, truth).mean()


@pytest.mark.slow
def test_interrupted_in_the_alignment_and_taken_up_again_it_gives_the_same(known, tmp_path, killed):
    config = QUICK.model_copy(update={"iterations": 50, "decoder_epochs": 1})
    whole = ForaAttack(config)(known)
    with pytest.raises(KeyboardInterrupt):
        ForaAttack(config)(known, Run(checkpoint=tmp_path / "c", report=killed(1, "fora")))
    assert torch.equal(ForaAttack(config)(known, Run(checkpoint=tmp_path / "c")), whole)
    assert not list(tmp_path.iterdir())
