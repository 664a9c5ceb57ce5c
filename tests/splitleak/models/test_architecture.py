import pytest
import torch
from torch import nn

from splitleak.models.architecture import scaled, xavier_uniform


@pytest.mark.parametrize("width", [0.001, 0.1, 0.125, 0.5, 1.0, 2.5])
def test_scaled_widths_are_whole_and_at_least_one(width):
    for channels in (1, 16, 64, 512):
        assert scaled(channels, width) >= 1
        assert abs(scaled(channels, width) - max(1, channels * width)) <= 0.5


def test_xavier_fills_its_interval_and_clears_biases():
    torch.manual_seed(0)
    layer = nn.Conv2d(16, 32, 3)
    xavier_uniform(nn.Sequential(layer))
    bound = (6 / ((16 + 32) * 9)) ** 0.5
    assert 0.98 * bound < layer.weight.abs().max() <= bound
    assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)
    assert torch.equal(layer.bias, torch.zeros(32))
