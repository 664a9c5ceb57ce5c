"""What makes a training fast on the device that it runs on, and changes nothing on a CPU unless asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def mixed_precision(device: torch.device, *, on_cpu: bool = False) -> torch.autocast:
    """A bfloat16 autocast context on CUDA, and if ``on_cpu`` also on a CPU that multiplies in bfloat16.

    Elsewhere it is disabled: a CPU with neither AMX nor AVX-512 BF16 is slower in bfloat16. Weights stay in float32;
    the caller casts outputs back to it.
    """
    if device.type == "cuda":
        return torch.autocast("cuda", torch.bfloat16)
    return torch.autocast("cpu", torch.bfloat16, enabled=on_cpu and _cpu_has_bfloat16())


def fused_on(device: torch.device) -> bool | None:
    """The option ``fused`` of an optimiser of weights on ``device``: on CUDA a step is one kernel."""
    return True if device.type == "cuda" else None


@contextmanager
def tuned_convolutions(device: torch.device) -> Iterator[None]:
    """While the block runs, cuDNN times its algorithms for each shape of a convolution, and keeps the fastest.

    For trainings, whose shapes repeat. Which is the fastest may differ from run to run, and with it the last digits,
    so not where whoever calls has asked torch for deterministic ones. On a CPU nothing changes.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark
    cudnn.benchmark = before or (device.type == "cuda" and not cudnn.deterministic)
    try:
        yield
    finally:
        cudnn.benchmark = before


def _cpu_has_bfloat16() -> bool:
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # missing in the oldest supported torch
    return bool(known.get("amx_bf16") or known.get("avx512_bf16"))
