import torch

from splitleak.cli.options import use_device


def test_threads_are_those_asked_for(train):
    before = torch.get_num_threads()
    try:
        train("--threads", "2")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_an_emulated_device_uses_no_more_threads_than_asked_for():
    before = torch.get_num_threads()
    try:
        assert use_device("raspberry-pi-4", 1).name == "raspberry-pi-4"
        assert torch.get_num_threads() == 1
        assert use_device(None, 2) is None
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
