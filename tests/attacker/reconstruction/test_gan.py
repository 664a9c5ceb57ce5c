import dataclasses

import pytest
import torch
from torch.nn import functional

from splitleak.attacker.base import Knowledge, Query, Run
from splitleak.attacker.reconstruction.gan import Game, GanAttack, GanConfig
from splitleak.attacker.training.critic import PatchCritic
from splitleak.models.decoder import ResNormDecoder

QUICK = GanConfig(blocks=0, channels=8, critic_width=4, epochs=2, batch_size=16, held_out=0.1)


@pytest.fixture
def known(small_splits):
    public, victims = small_splits.public.floats()[:60], small_splits.victims.floats()[:6]

    def send(images):
        return functional.avg_pool2d(images, 2)

    return Knowledge(captured=send(victims), image_shape=(1, 16, 16), public=public, query=Query(send))


def game(**changes):
    torch.manual_seed(0)
    config = QUICK.model_copy(update=changes)
    network = ResNormDecoder((1, 8, 8), (1, 16, 16), blocks=0, channels=8).train()
    return Game(config, network, PatchCritic((1, 16, 16), 4), torch.Generator().manual_seed(0))


def batch():
    images = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    return functional.avg_pool2d(images, 2), images


def weights(module):
    return torch.cat([each.detach().flatten() for each in module.parameters()])


def test_the_critics_loss_is_that_of_the_equation():
    players = game(penalty=7)
    _, images = batch()
    rebuilt = images.flip(0)
    loss = players.critics_loss(rebuilt, images)
    share = torch.rand(6, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    slopes = []
    for each in range(6):
        between = ((1 - share[each]) * images[each] + share[each] * rebuilt[each]).clone().requires_grad_()
        players.critic(between[None]).sum().backward()
        slopes.append(between.grad.norm())
    expected = players.critic(rebuilt).mean() - players.critic(images).mean()
    expected = expected + 7 * (torch.stack(slopes) - 1).square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.slow
def test_the_critic_learns_to_tell_images_from_rebuilt_ones():
    players = game(critic_learning_rate=0.01, learning_rate=1e-12)
    features, images = batch()
    for _ in range(40):
        players.descend(features, images, 0.0)
    with torch.no_grad():
        assert players.critic(images).min() > players.critic(players.network(features)).max()


def test_the_generator_moves_once_to_so_many_steps_of_the_critic():
    players = game(critic_steps=3)
    features, images = batch()
    moved = []
    for _ in range(6):
        before = weights(players.network), weights(players.critic)
        players.descend(features, images, 0.0)
        after = weights(players.network), weights(players.critic)
        moved.append(tuple(not torch.equal(a, b) for a, b in zip(before, after, strict=True)))
    assert moved == [(False, True), (False, True), (True, True)] * 2


def test_from_a_decoder_the_critic_waits_until_that_is_trained():
    players = game(start="decoder", decoder_epochs=2, epochs=2)
    features, images = batch()
    before = weights(players.critic)
    for progress in (0.0, 0.25, 0.49):
        players.descend(features, images, progress)
    assert torch.equal(weights(players.critic), before)
    players.descend(features, images, 0.5)
    assert not torch.equal(weights(players.critic), before)


def test_a_weightless_critic_leaves_the_generator_to_its_pairs():
    features, images = batch()
    players, alone = game(mse_weight=1e12, ssim_weight=0, weight_decay=0), game()
    players.descend(features, images, 0.0)
    optimizer = torch.optim.Adam(alone.network.parameters(), lr=alone.config.learning_rate, betas=(0.5, 0.999))
    functional.mse_loss(alone.network(features), images).backward()
    optimizer.step()
    torch.testing.assert_close(weights(players.network), weights(alone.network), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("start", ["scratch", "decoder"])
def test_interrupted_and_taken_up_again_it_gives_the_same(known, tmp_path, killed, start):
    config = QUICK.model_copy(update={"start": start, "decoder_epochs": 1, "critic_steps": 3})
    whole = GanAttack(config)
    expected = whole(known, Run(seed=2))
    checkpoint = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        GanAttack(config)(known, Run(seed=2, checkpoint=checkpoint, report=killed()))
    assert checkpoint.exists()
    again = GanAttack(config)
    assert torch.equal(again(known, Run(seed=2, checkpoint=checkpoint)), expected)
    assert again.findings == whole.findings


def test_the_findings_say_what_flags_need(known):
    attack = GanAttack(QUICK.model_copy(update={"start": "decoder", "decoder_epochs": 1}))
    attack(known)
    assert len(attack.findings["history"]) == 3
    assert attack.findings["decoder_epochs"] == 1
    assert attack.findings["held_out_mse"] == min(each["held_out_mse"] for each in attack.findings["history"])
    assert attack.findings["mean_image_mse"] > 0
    assert attack.weights().keys() == attack.network.state_dict().keys()


def test_only_public_pairs_train_it(known):
    """The victims' features change nothing but the answer."""
    first, other = GanAttack(QUICK), GanAttack(QUICK)
    first(known)
    other(dataclasses.replace(known, captured=known.captured + 1))
    assert all(torch.equal(other.weights()[name], tensor) for name, tensor in first.weights().items())


def test_the_paper_preset_is_the_published_one():
    paper = GanAttack.paper_config()
    assert (paper.blocks, paper.channels, paper.critic_width, paper.start) == (8, 64, 64, "decoder")
    assert (paper.epochs, paper.batch_size, paper.critic_steps) == (150, 128, 10)
    assert (paper.learning_rate, paper.critic_learning_rate) == (5e-4, 5e-3)
    assert (paper.mse_weight, paper.penalty, paper.ssim_weight) == (1500, 10, 0)
