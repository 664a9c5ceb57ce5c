"""Mixed precision: bfloat16 autocast where the hardware supports it."""

from typing import Any

import torch


def mixed_precision(device: torch.device, *, on_cpu: bool = False) -> torch.autocast:
    """A bfloat16 autocast context on CUDA, and if ``on_cpu`` also on a CPU with AMX.

    Elsewhere it is disabled: a CPU without AMX is slower in bfloat16. Weights stay in float32; the caller casts outputs
    back to it.
    """
    if device.type == "cuda":
        return torch.autocast("cuda", torch.bfloat16)
    return torch.autocast("cpu", torch.bfloat16, enabled=on_cpu and _cpu_has_amx())


def _cpu_has_amx() -> bool:
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # missing in the oldest supported torch
    return bool(known.get("amx_bf16"))
