import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim import SGD

from splitleak.defenses.base import Step
from splitleak.defenses.features.ressfl import ResSFL, ResSFLConfig
from splitleak.defenses.stack import Stack
from splitleak.defenses.training import assemble, training_step
from splitleak.measures.ssim import ssim_zero_padded
from splitleak.models.split import SplitModel

SHAPE, IMAGE = (4, 4, 4), (1, 16, 16)
SMALL = {"blocks": 0, "channels": 8}


def drawn(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def prepared(defense):
    stack = Stack([defense])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # The halved image in four channels stands for features that an adversary can learn to invert.
        encoder = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(1, 4, 1))
        stack.prepare(SplitModel(encoder, nn.Identity(), IMAGE), 3)
    return defense


def step(images, features, sent=None):
    sent = features if sent is None else sent
    return Step(images, torch.zeros(len(images)).long(), features, sent, torch.empty(0), 0, 0.1)


def after_learning(defense, seen, images, measure, inner_steps):
    """What the surrogate of ``defense`` rebuilds from ``seen`` after its inner steps, done over again by hand."""
    surrogate = copy.deepcopy(defense.surrogate).train()
    optimizer = torch.optim.Adam(surrogate.parameters(), lr=defense.adversary.learning_rate)
    for _ in range(inner_steps):
        optimizer.zero_grad()
        measure(surrogate(seen), images).backward()
        optimizer.step()
    return surrogate.eval()(seen).detach()


def dissimilarity(rebuilt, images):
    return -ssim_zero_padded(rebuilt, images).mean()


@pytest.mark.parametrize("inner_steps", [1, 3])
def test_the_penalty_is_the_similarity_above_the_threshold_after_the_surrogates_steps(inner_steps):
    config = ResSFLConfig(weight=0.7, ssim_threshold=-0.5, inner_steps=inner_steps, **SMALL)
    defense = prepared(ResSFL(config))
    images, features = drawn(0, 8, *IMAGE), drawn(1, 8, *SHAPE)
    rebuilt = after_learning(defense, features, images, dissimilarity, inner_steps)
    expected = 0.7 * (ssim_zero_padded(rebuilt, images).mean() + 0.5)
    torch.testing.assert_close(defense.penalty(step(images, features)), expected)


def test_with_mse_the_penalty_is_the_error_below_zero():
    defense = prepared(ResSFL(ResSFLConfig(weight=0.7, measure="mse", **SMALL)))
    images, features = drawn(0, 8, *IMAGE), drawn(1, 8, *SHAPE)
    rebuilt = after_learning(defense, features, images, functional.mse_loss, 1)
    expected = -0.7 * functional.mse_loss(rebuilt, images)
    torch.testing.assert_close(defense.penalty(step(images, features)), expected)


def test_below_the_ssim_threshold_there_is_no_penalty_but_the_surrogate_trains():
    defense = prepared(ResSFL(ResSFLConfig(ssim_threshold=1, **SMALL)))
    before = copy.deepcopy(defense.surrogate.state_dict())
    features = drawn(1, 8, *SHAPE).requires_grad_()
    found = defense.penalty(step(drawn(0, 8, *IMAGE), features))
    assert float(found) == 0
    assert not found.requires_grad
    unchanged = {key for key, value in defense.surrogate.state_dict().items() if torch.equal(before[key], value)}
    assert unchanged == {"scale", "levels"}  # of features, which a defense leaves as they are


def test_the_surrogate_learns_to_rebuild_the_images():
    defense = prepared(ResSFL(ResSFLConfig(ssim_threshold=-1, weight=1, learning_rate=1e-2, **SMALL)))
    images = functional.interpolate(drawn(0, 32, 1, 4, 4), scale_factor=4, mode="bilinear")
    features = functional.avg_pool2d(images, 4).repeat(1, 4, 1, 1)
    similarities = [float(defense.penalty(step(images, features)).detach()) - 1 for _ in range(40)]
    assert similarities[-1] > similarities[0] + 0.2


@pytest.mark.parametrize("measure", ["ssim", "mse"])
def test_the_gradient_reaches_the_features_and_no_weight_of_the_surrogate(measure):
    defense = prepared(ResSFL(ResSFLConfig(ssim_threshold=-1, measure=measure, **SMALL)))
    images, features = drawn(0, 8, *IMAGE), drawn(1, 8, *SHAPE).requires_grad_()
    penalty = defense.penalty(step(images, features))
    learnt = [parameter.grad.clone() for parameter in defense.surrogate.parameters()]
    penalty.backward()
    assert bool(features.grad.any())
    assert all(torch.equal(p.grad, g) for p, g in zip(defense.surrogate.parameters(), learnt, strict=True))


def test_adversarial_training_lowers_the_ssim_of_a_trained_surrogate():
    """One descent step on the features along the penalty makes them harder to invert."""
    config = ResSFLConfig(ssim_threshold=-1, weight=1, learning_rate=1e-2, **SMALL)
    defense = prepared(ResSFL(config))
    images = functional.interpolate(drawn(0, 32, 1, 4, 4), scale_factor=4, mode="bilinear")
    features = functional.avg_pool2d(images, 4).repeat(1, 4, 1, 1).requires_grad_()
    for _ in range(20):
        penalty = defense.penalty(step(images, features))
    penalty.backward()
    moved = features.detach() - 50 * features.grad
    with torch.no_grad():
        before, after = (ssim_zero_padded(defense.surrogate(z), images).mean() for z in (features, moved))
    assert after < before - 0.05


def test_features_of_another_shape_are_refused():
    defense = prepared(ResSFL(ResSFLConfig(**SMALL)))
    with pytest.raises(ValueError, match=r"ressfl: expected features \(4, 4, 4\) \(a defense .*\), got \(4, 2, 2\)"):
        defense.penalty(step(drawn(0, 8, *IMAGE), drawn(1, 8, 4, 2, 2)))


def test_the_targets_optimiser_leaves_the_surrogate_alone(small_target):
    """The surrogate after a training step is the one after the defense's own, though SGD decays all its weights."""
    model, stack = assemble(small_target({"name": "ressfl", **SMALL}), "builtin")
    (defense,) = stack
    model.train()
    images = drawn(0, 8, *IMAGE)
    twin_model, twin_stack = copy.deepcopy((model, stack))
    (twin,) = twin_stack
    twin.optimizer = torch.optim.Adam(twin.surrogate.parameters(), lr=twin.adversary.learning_rate)
    twin.penalty(step(images, twin_model.encoder(images.contiguous(memory_format=torch.channels_last)).detach()))
    optimizer = SGD([*model.parameters(), *stack.task_parameters()], lr=0.1, weight_decay=0.1)
    training_step(model, stack, optimizer, images, torch.arange(8) % 3, epoch=0, rate=0.1)
    expected = twin.surrogate.state_dict()
    assert all(torch.equal(expected[key], value) for key, value in defense.surrogate.state_dict().items())
