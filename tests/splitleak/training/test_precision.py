"""Networks run in bfloat16 where a device is built for it, and nowhere else."""

import pytest
import torch

from splitleak.training.precision import mixed_precision


@pytest.mark.parametrize(
    ("capabilities", "expected"), [({"amx_bf16": True}, torch.bfloat16), ({"amx_bf16": False}, torch.float32)]
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
