import torch
from torch import nn

from splitleak.models.decoder import LARGE
from splitleak.training import memory
from splitleak.training.memory import activation_bytes, affordable_rows


def network():
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Sequential(nn.BatchNorm2d(4), nn.Flatten())).eval()


def test_the_outputs_of_all_layers_are_counted_once_and_nothing_else_changes():
    net, row = network(), torch.rand(1, 2, 5, 6)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert activation_bytes(net, row) == 4 * 3 * 4 * 5 * 6
    assert activation_bytes(net, row) == 4 * 3 * 4 * 5 * 6
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_batches_of_small_pictures_are_those_asked_for_and_of_large_ones_those_that_fit(monkeypatch):
    net, row = network(), torch.rand(1, 2, 5, 6)
    monkeypatch.setattr(memory, "MOST_BYTES", 10 * activation_bytes(net, row))
    assert affordable_rows(net, row, LARGE, 256) == 256
    assert affordable_rows(net, row, LARGE + 1, 256) == 10
    assert affordable_rows(net, row, LARGE + 1, 7) == 7
    monkeypatch.setattr(memory, "MOST_BYTES", 1)
    assert affordable_rows(net, row, LARGE + 1, 7) == 1
