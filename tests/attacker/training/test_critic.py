import pytest
import torch

from splitleak.attacker.training.critic import Critic, PatchCritic, gradient_penalty
from splitleak.models.generator import GeneratorConfig


def parameters(network):
    return sum(each.numel() for each in network.parameters())


def test_the_critics_have_the_published_numbers_of_parameters():
    config = GeneratorConfig(channels=1, size=32, latent=100, width=64, kernel=5)
    assert parameters(Critic(config, "instance")) == 1_030_913
    assert parameters(PatchCritic((3, 32, 32))) == 1_034_113


def test_at_32_pixels_the_two_critics_are_one():
    torch.manual_seed(0)
    mirrored = Critic(GeneratorConfig(channels=3, size=32, width=8, kernel=5), "instance")
    torch.manual_seed(0)
    patch, images = PatchCritic((3, 32, 32), 8), torch.rand(2, 3, 32, 32)
    assert torch.equal(patch(images), mirrored(images))


@pytest.mark.parametrize("kernel", [4, 5])
@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize(("size", "channels"), [(8, 1), (16, 1), (28, 1), (32, 3), (64, 3)])
def test_images_of_each_size_are_judged(size, channels, classes, kernel):
    config = GeneratorConfig(channels=channels, size=size, width=2, kernel=kernel, classes=classes)
    labels, images = None if classes is None else torch.tensor([0, 2]), torch.rand(2, channels, size, size)
    for norm in ("instance", "spectral"):
        assert Critic(config, norm)(images, labels).shape == (2,)
        assert Critic(config, norm, outputs=5)(images, labels).shape == (2, 5)


def test_the_class_changes_the_judgement():
    torch.manual_seed(0)
    critic = Critic(GeneratorConfig(channels=1, size=8, width=4, classes=3))
    image = torch.rand(1, 1, 8, 8).expand(3, -1, -1, -1)
    assert len(set(critic(image, torch.arange(3)).tolist())) == 3


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 32, 32), (3, 48, 48), (3, 64, 64)])
def test_a_patch_critic_gives_one_score_an_image_of_any_size(shape):
    critic = PatchCritic(shape, 4)
    images = torch.rand(3, *shape)
    assert critic(images).shape == (3,)
    torch.testing.assert_close(critic(images)[1:], critic(images[1:]))


def test_images_too_small_for_a_patch_critic_are_refused():
    with pytest.raises(ValueError, match=r"at least 16 × 16 .*\(1, 8, 8\)"):
        PatchCritic((1, 8, 8))


@pytest.mark.parametrize("epsilon", [0.0, 1e-12])
def test_the_penalty_is_the_mean_of_the_squared_distance_of_slopes_from_1(epsilon):
    slopes = torch.tensor([3.0, 0.5])
    images = torch.zeros(2, 1, 2, 2)
    penalty = gradient_penalty(lambda x: slopes * x[:, 0, 0, 0], images, epsilon=epsilon)
    assert penalty.item() == pytest.approx((2**2 + 0.5**2) / 2)


def test_the_penalty_of_a_critic_without_a_slope_is_one():
    critic = Critic(GeneratorConfig(channels=1, size=8, width=2), "instance")
    torch.nn.init.zeros_(critic.last.weight)
    assert gradient_penalty(critic, torch.rand(4, 1, 8, 8)).item() == pytest.approx(1)
