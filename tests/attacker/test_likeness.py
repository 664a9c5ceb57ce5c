import numpy as np
import pytest
import torch

from splitleak.attacker.likeness import compared, nearest_apart


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

    near = nearest_apart(sent(pictures[:1000]))
    known = sent(pictures[1000:1300]).flatten(1)
    again = torch.cdist(sent(pictures[1000:1300]).flatten(1), known).amin(1) <= near
    new = torch.cdist(sent(pictures[1300:]).flatten(1), known).amin(1) <= near
    assert again.float().mean() > 0.95
    assert new.float().mean() < 0.03


def test_too_few_pictures_tell_nothing():
    assert nearest_apart(torch.randn(99, 4)) is None
