"""What several crossings of the same pictures are read as."""

import pytest
import torch

from splitleak.attacker.crossings import together
from splitleak.wire.protocol import codec

FEATURES = torch.randn(30, 4, 5, 5, generator=torch.Generator().manual_seed(0)).relu()


def crossed(times, rate=0.0, noise=0.0, bent=None):
    draw = torch.Generator().manual_seed(1)
    sent = FEATURES + noise * torch.randn(times, *FEATURES.shape, generator=draw)
    sent = sent if bent is None else bent(sent)
    return sent * (torch.rand(sent.shape, generator=draw) >= rate)


@pytest.mark.parametrize("times", [2, 3, 8])
def test_what_was_zeroed_now_and_then_does_not_count_and_the_scale_is_the_means(times):
    sent = crossed(times, rate=0.3)
    seen, share = sent.any(0), 0.7 / (1 - 0.3**times)
    torch.testing.assert_close(
        together(sent)[seen] / FEATURES[seen], torch.full((int(seen.sum()),), share), atol=0.02, rtol=0
    )
    assert not together(sent)[~seen].any()


def test_a_codec_and_little_noise_hide_no_zeros():
    def sent_as(codec_name):
        sent = crossed(4, rate=0.3, noise=0.02)
        coded = [codec.decode(codec.encode(each.numpy(), codec_name)) for row in sent for each in row[:, None]]
        return torch.stack([torch.from_numpy(each[0]) for each in coded]).view(sent.shape)

    for name in ("fp16", "uint8"):
        sent = sent_as(name)
        plain, better = sent.mean(0), together(sent)
        fitting = [(each * FEATURES).sum() / each.square().sum() * each - FEATURES for each in (plain, better)]
        assert fitting[1].square().mean() < fitting[0].square().mean() / 5, name


@pytest.mark.parametrize(
    "sent",
    [
        crossed(4, noise=0.5),
        crossed(4, noise=0.5, bent=torch.relu),
        crossed(4, noise=0.5, bent=torch.round),
        crossed(4, noise=torch.tensor([0.0, 0.0, 0.0, 2.0]).view(4, 1, 1), bent=torch.relu),
        crossed(3),
        crossed(3) * float("inf"),
        torch.zeros(3, 2, 4),
    ],
    ids=["noise", "noise below 0 cut off", "rounded noise", "noise in one channel", "nothing", "not finite", "zeros"],
)
def test_zeros_that_nobody_put_there_count(sent):
    assert torch.equal(together(sent).nan_to_num(7), sent.mean(0).nan_to_num(7))


def test_one_crossing_is_as_it_is():
    assert torch.equal(together(FEATURES[None]), FEATURES)
