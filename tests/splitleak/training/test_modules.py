import torch
from torch import nn

from splitleak.training.modules import HostState, at_once, evaluating, freeze, to_channels_last

CPU = torch.device("cpu")


def test_a_frozen_network_is_itself_in_eval_mode_and_its_input_still_has_a_gradient():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout())
    assert freeze(network, CPU) is network
    assert not any(module.training for module in network.modules())
    assert not any(weight.requires_grad for weight in network.parameters())
    images = torch.rand(1, 1, 4, 4, requires_grad=True)
    assert torch.autograd.grad(network(images).sum(), images)[0].abs().sum() > 0


def test_convolutions_in_channels_last_layout_give_what_they_gave():
    network, images = nn.Conv2d(3, 4, 3), torch.rand(2, 3, 8, 8)
    before = network(images)
    assert to_channels_last(network, CPU) is network
    assert network.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(network(images), before)


def test_afterwards_each_part_is_in_the_mode_that_it_was_in():
    network = nn.Sequential(nn.BatchNorm2d(2).eval(), nn.Dropout())
    network.training = True
    with evaluating(network):
        assert not any(module.training for module in network.modules())
    assert [module.training for module in network.modules()] == [True, False, True]


def test_an_exported_program_stays_in_the_mode_that_it_was_exported_in():
    network = torch.export.export(nn.Sequential(nn.Linear(2, 2)).eval(), (torch.rand(1, 2),)).module()
    with evaluating(network):
        assert network(torch.rand(1, 2)).shape == (1, 2)
    assert freeze(network, CPU) is network


class Counting(HostState):
    on_host = ("count",)

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.tensor(3, device="cpu"))
        self.register_buffer("sums", torch.zeros(2))


def test_what_the_host_reads_stays_on_the_cpu_and_is_saved_with_the_rest():
    whole = nn.Sequential(Counting()).to("meta", torch.float64)
    assert (whole[0].count.device.type, whole[0].sums.device.type) == ("cpu", "meta")
    assert int(whole[0].count) == 3
    assert set(whole.state_dict()) == {"0.count", "0.sums"}
    other = nn.Sequential(Counting())
    other[0].count += 4
    other.load_state_dict({**whole.state_dict(), "0.sums": torch.ones(2)})
    assert int(other[0].count) == 3


def test_batches_that_are_moved_at_once_are_those_that_they_were():
    batches = [torch.tensor([3, 1]), torch.tensor([2]), torch.tensor([0, 5])]
    assert [batch.tolist() for batch in at_once(batches, CPU)] == [[3, 1], [2], [0, 5]]
