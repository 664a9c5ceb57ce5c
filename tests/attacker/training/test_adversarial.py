import pytest
import torch

from splitleak.attacker.base import Run
from splitleak.attacker.training.adversarial import (
    Game,
    GanTraining,
    MixedGame,
    networks,
    play,
)
from splitleak.attacker.training.critic import hinge

QUICK = GanTraining(width=4, batch_size=8, iterations=60)


class Plain(Game):
    """Real images are bright."""

    def __init__(self, config, run):
        super().__init__("plain", *networks("plain", config.generator((1, 8, 8)), run, "spectral"))
        self.images = torch.full((20, 1, 8, 8), 0.9)

    def critic_loss(self, rows, fakes, labels):
        return hinge(self.critic(self.images[rows]), self.critic(fakes))

    def generator_loss(self, rows, fakes, labels):
        return -self.critic(fakes).mean()


class Mixed(MixedGame, Plain):
    """The same, where a device is built for it, in half the bits; what it learns by was seen in single precision."""

    def critic_loss(self, rows, fakes, labels):
        real, fake = self.judge(torch.cat([self.images[rows], fakes])).chunk(2)
        assert {fakes.dtype, real.dtype, fake.dtype} == {torch.float32}
        return hinge(real, fake)

    def generator_loss(self, rows, fakes, labels):
        return -self.judge(fakes).mean()


def played(config=QUICK, run=None):
    game = Plain(config, run or Run())
    return game, play(game, 20, config, run or Run(), identity="test")


def weights(game):
    return torch.cat([value.flatten() for value in game.generator.state_dict().values()])


@pytest.mark.slow
def test_the_generator_learns_what_the_critic_calls_real():
    latents = torch.randn(32, 64)
    before = Plain(QUICK, Run()).generator.eval()(latents).mean()
    game, history = played(GanTraining(width=4, batch_size=8, iterations=200, average=0))
    assert game.generator(latents).mean() > before + 0.1
    assert len(history) == 8
    assert not game.generator.training
    assert not any(each.requires_grad for network in (game.generator, game.critic) for each in network.parameters())


@pytest.mark.slow
def test_a_game_in_half_the_bits_is_learnt_too(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    config, latents = GanTraining(width=4, batch_size=8, iterations=200, average=0), torch.randn(32, 64)
    game = Mixed(config, Run())
    assert not torch.equal(game.draw(latents, None), Plain(config, Run()).draw(latents, None))
    before = game.generator.eval()(latents).mean()
    play(game, 20, config, Run(), identity="test")
    assert game.generator(latents).mean() > before + 0.1
    assert {each.dtype for each in game.generator.parameters()} == {torch.float32}


@pytest.mark.slow
def test_one_seed_gives_the_same_generator_and_another_another():
    assert torch.equal(weights(played()[0]), weights(played()[0]))
    assert not torch.equal(weights(played()[0]), weights(played(run=Run(seed=1))[0]))


@pytest.mark.slow
def test_an_interrupted_training_goes_on_to_the_bit(tmp_path, killed):
    checkpoint = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        played(run=Run(report=killed(2), checkpoint=checkpoint))
    heard = []
    again, _ = played(run=Run(report=lambda what, done, total, figures: heard.append(done), checkpoint=checkpoint))
    assert heard[0] == 1
    assert torch.equal(weights(again), weights(played()[0]))
    assert list(tmp_path.iterdir()) == []


def test_images_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match=r"expected square images, got \(1, 8, 16\)"):
        QUICK.generator((1, 8, 16))


def test_the_mean_of_the_weights_is_kept():
    last, _ = played(GanTraining(width=2, batch_size=8, iterations=25, average=0))
    mean, _ = played(GanTraining(width=2, batch_size=8, iterations=25, average=0.9999))
    untrained = networks("plain", QUICK.model_copy(update={"width": 2}).generator((1, 8, 8)), Run(), "spectral")[0]
    start, there, here = (next(each.parameters()) for each in (untrained, last.generator, mean.generator))
    assert 0 < (here - start).norm() < 0.01 * (there - start).norm()
