"""Half the bits where a device is built for them."""

from typing import Any

import torch


def mixed_precision(device: torch.device) -> torch.autocast:
    """A context in which convolutions and matrix products run in bfloat16: on CUDA, and on a CPU with AMX.

    Elsewhere it changes nothing: without units for it a CPU is slower in bfloat16. Weights stay in single precision;
    what a network gives is for the caller to bring back to it.
    """
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # the oldest torch we run on has none
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" or bool(known.get("amx_bf16")))
