import numpy as np
import pytest
import torch

from splitleak.attacker.likeness import Apart, compared


def test_the_values_that_are_compared_are_bounded_in_number_and_finite():
    feature = np.full((1, 3, 50, 50), np.nan, np.float32)
    feature[0, 0, 0, 0] = 7
    assert compared(feature).shape == (1, 2048)
    assert compared(feature)[0, 0] == 7
    assert compared(feature[:, :, :2, :2]).sum() == 7


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_pictures_that_come_again_are_nearer_than_different_ones_whatever_the_noise(noise):
    draw = torch.Generator().manual_seed(0)
    pictures = torch.randn(1600, 8, 4, 4, generator=draw)

    def sent(chosen):
        return chosen + noise * torch.randn(chosen.shape, generator=draw)

    apart = Apart.of(sent(pictures[:1000]))
    known = sent(pictures[1000:1300]).flatten(1)

    def found(chosen):
        rows = torch.cdist(sent(chosen).flatten(1), known).sort().values.numpy()
        return sum(apart.again(row[0], row[1:]) for row in rows) / len(rows)

    assert found(pictures[1000:1300]) > 0.95
    assert found(pictures[1300:]) < 0.03
    assert found(0.8 * pictures[1000:1300]) > 0.95  # not the same, but much nearer than to the next


def test_among_few_the_next_is_far_by_chance():
    apart = Apart(distance=1.0, ratio=0.5)
    assert not apart.again(2.0, np.full(99, 10.0))
    assert apart.again(2.0, np.full(100, 10.0))
    assert apart.again(1.0, np.ones(0))


def test_too_few_pictures_tell_nothing():
    assert Apart.of(torch.randn(99, 4)) is None
