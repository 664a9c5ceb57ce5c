"""Half the bits where a device is built for them."""

from typing import Any

import torch


def mixed_precision(device: torch.device, *, on_cpu: bool = False) -> torch.autocast:
    """A context in which convolutions and matrix products run in bfloat16 on CUDA; ``on_cpu``: on a CPU with AMX too.

    Elsewhere it changes nothing: without units for it a CPU is slower in bfloat16. Weights stay in single precision;
    what a network gives is for the caller to bring back to it.
    """
    if device.type == "cuda":
        return torch.autocast("cuda", torch.bfloat16)
    return torch.autocast("cpu", torch.bfloat16, enabled=on_cpu and _cpu_has_amx())


def _cpu_has_amx() -> bool:
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # the oldest torch we run on has none
    return bool(known.get("amx_bf16"))
