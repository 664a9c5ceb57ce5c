"""Networks run in bfloat16 where a device is built for it, and nowhere else."""

import pytest
import torch

from splitleak.training.precision import fused_on, mixed_precision, tuned_convolutions


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"amx_bf16": True}, torch.bfloat16),
        ({"amx_bf16": False, "avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": False, "avx512_bf16": False}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_a_cpu_runs_in_bfloat16_if_it_has_units_for_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    with mixed_precision(torch.device("cpu"), on_cpu=True):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected


def test_without_cpu_capabilities_autocast_is_off(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    with mixed_precision(torch.device("cpu"), on_cpu=True):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_a_cpu_runs_in_single_precision_unless_it_is_asked(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    with mixed_precision(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_optimisers_are_fused_on_cuda_alone():
    weights = [torch.zeros(3, requires_grad=True)]
    for kind in (torch.optim.SGD, torch.optim.Adam):
        assert kind(weights, lr=0.1, fused=fused_on(torch.device("cpu"))).defaults["fused"] is None
    assert fused_on(torch.device("cuda:1")) is True


def test_convolutions_are_tuned_on_cuda_alone_for_a_while_and_not_where_they_are_to_be_deterministic(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    for device, tuned in (("cpu", False), ("cuda", True)):
        with tuned_convolutions(torch.device(device)):
            assert torch.backends.cudnn.benchmark is tuned
        assert torch.backends.cudnn.benchmark is False
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    with tuned_convolutions(torch.device("cuda")):
        assert torch.backends.cudnn.benchmark is False
