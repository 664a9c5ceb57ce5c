import pytest
import torch

from splitleak.attacker.training.siamese import SiameseConfig, train_matcher
from splitleak.measures.linkage.refinding import found_again
from splitleak.measures.linkage.whitening import Whitening

QUICK = SiameseConfig(inputs=24, width=32, dimensions=16, epochs=100, batch_size=50, learning_rate=3e-3)


def channel(seed):
    """Pictures of 8 values, sent behind 16 strong nuisances that change each time."""
    mixing = torch.randn(24, 24, generator=torch.Generator().manual_seed(7))

    def send(pictures, draw):
        return torch.cat([pictures, 2 * torch.randn(len(pictures), 16, generator=draw)], 1) @ mixing

    draw = torch.Generator().manual_seed(seed)
    return send, torch.randn(300, 8, generator=draw), draw


def trained(seed=0):
    send, public, draw = channel(0)
    seen = [send(public, draw) for _ in range(4)]
    return train_matcher(seen, Whitening.fit(seen[0]), QUICK, seed)


def test_it_learns_what_stays_of_a_picture_where_plain_distance_sees_what_changes():
    send, victims, draw = channel(1)
    once, again = send(victims, draw), send(victims, draw)
    matcher = trained()
    assert float(found_again(again, once).double().mean()) < 0.1
    assert float(found_again(matcher(again), matcher(once)).double().mean()) > 0.4
    torch.testing.assert_close(matcher(once).norm(dim=1), torch.ones(300))


@pytest.mark.slow
def test_one_seed_gives_the_same_matcher_and_another_another():
    send, victims, draw = channel(1)
    features = send(victims, draw)
    first, same, other = (trained(seed)(features) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_one_view_has_nothing_to_be_matched_with():
    with pytest.raises(ValueError, match="expected at least two views of each picture, got 1"):
        train_matcher([torch.rand(10, 4)], Whitening.fit(torch.rand(10, 4)), QUICK, 0)
