import pytest
import torch
from torch import nn

from splitleak.defenses.features.permutation import Permutation, PermutationConfig
from splitleak.defenses.stack import DefenseConfig, Stack
from splitleak.models.split import SplitModel
from splitleak.wire.protocol.codec import decode, encode


def model(channels=8, side=4):
    """A model whose encoder gives the image, and whose head gives what it was sent."""
    return SplitModel(nn.Identity(), nn.Identity(), (channels, side, side))


def permuted(secret=0, bits=10, **size):
    defense, whole = Permutation(PermutationConfig(secret=secret, bits=bits)), model(**size)
    defense.prepare(whole, 10)
    return defense.eval(), whole


def seeded(defense, seed):
    defense.generator = torch.Generator().manual_seed(seed)
    return defense


@pytest.mark.parametrize(("bits", "channels", "side"), [(10, 8, 4), (1, 3, 1), (16, 5, 4), (4, 1, 3)])
def test_the_cloud_puts_back_every_sessions_order(bits, channels, side):
    defense, whole = permuted(bits=bits, channels=channels, side=side)
    images = torch.rand(3, channels, side, side, generator=torch.Generator().manual_seed(0))
    for seed in range(20):
        sent = seeded(defense, seed)(whole.encoder(images))
        assert sent.shape == (3, channels + 1, side, side)
        assert torch.equal(whole.head(sent), images)


def test_channels_that_stand_last_are_permuted_and_put_back_last():
    """Else rows of the picture are, and the session's number is one more of them."""

    class Last(nn.Module):
        def forward(self, images):
            return images.permute(0, 2, 3, 1)

    defense, whole = Permutation(PermutationConfig()), SplitModel(Last(), nn.Identity(), (8, 4, 4))
    defense.prepare(whole, 10)
    images = torch.rand(3, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    sent = seeded(defense.eval(), 1)(whole.encoder(images))
    assert sent.shape == (3, 9, 4, 4)
    assert {tuple(map_.tolist()) for map_ in sent[0, :-1].flatten(1)} == {
        tuple(map_.tolist()) for map_ in images[0].flatten(1)
    }
    assert torch.equal(whole.head(sent), images.permute(0, 2, 3, 1))


def test_noise_on_what_is_sent_leaves_the_session_readable():
    defense, whole = permuted(side=8)
    images = torch.rand(50, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    sent = seeded(defense, 1)(whole.encoder(images))
    noise = 0.2 * torch.randn(sent.shape, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(whole.head(sent + noise), images, atol=1.5, rtol=0)
    assert float((whole.head(sent + noise) - images).std()) == pytest.approx(0.2, rel=0.1)


@pytest.mark.parametrize("size", [0.003, 0.2, 1, 60, 600, 5000])
def test_eight_bits_over_the_range_of_a_message_keep_the_session_and_the_features(size):
    defense, whole = permuted(side=4)
    images = size * torch.rand(9, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    for seed in range(5):
        sent = seeded(defense, seed)(whole.encoder(images))
        arrived = torch.from_numpy(decode(encode(sent.numpy(), "uint8")).copy())
        torch.testing.assert_close(whole.head(arrived), images, atol=0.01 * size, rtol=0)
        torch.testing.assert_close(defense.undone(arrived)[:, :-1], images, atol=0.01 * size, rtol=0)


def test_a_session_has_one_order_and_another_has_another():
    defense, whole = permuted()
    images = whole.encoder(torch.rand(2, 8, 4, 4, generator=torch.Generator().manual_seed(0)))
    seeded(defense, 0)
    once, again = defense(images), defense(images)
    assert torch.equal(once, again)
    assert not torch.equal(once, seeded(defense, 1)(images))
    assert torch.equal(once, seeded(defense, 0)(images))
    assert torch.equal(once[:, :-1].sort(1).values, images[:, :-1].sort(1).values)  # nothing else changes
    orders = {tuple(defense.order(session, 8).tolist()) for session in range(100)}
    assert len(orders) > 90
    assert not torch.equal(defense.order(0, 8), permuted(secret=1)[0].order(0, 8))


def test_in_training_each_batch_is_a_session():
    defense, whole = permuted()
    images = whole.encoder(torch.rand(2, 8, 4, 4))
    seeded(defense, 0).train()
    assert not torch.equal(defense(images), defense(images))


def test_distances_within_a_session_are_those_without():
    defense, whole = permuted()
    images = torch.rand(6, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    sent = seeded(defense, 0)(whole.encoder(images))
    torch.testing.assert_close(
        torch.cdist(sent.flatten(1), sent.flatten(1)), torch.cdist(images.flatten(1), images.flatten(1))
    )


@pytest.mark.parametrize("shape", [(8, 3, 3), (16, 1, 1)])
def test_features_without_room_for_a_number_are_refused(shape):
    with pytest.raises(ValueError, match=r"permutation: expected features \(C, H, W\) of at least 12 places"):
        Permutation(PermutationConfig()).prepare(SplitModel(nn.Identity(), nn.Identity(), shape), 10)


def test_it_stands_in_a_stack_by_its_name():
    stack = Stack.build([DefenseConfig.parse({"name": "permutation", "bits": 4}, source="test")], on_wire_only=True)
    stack.seed(0, torch.device("cpu"))
    assert stack.eval()(torch.rand(2, 5, 2, 2)).shape == (2, 5, 2, 2)


def test_the_number_of_the_session_is_the_one_channel_that_tells_nothing():
    configs = [DefenseConfig.model_validate({"name": name}) for name in ("permutation", "gaussian-noise")]
    assert Stack.build(configs).public_channels == 1
    assert Stack.build(configs[1:]).public_channels == 0
