"""ONNX Runtime, whose distributions all put their files into one folder: one alone may be installed."""

import logging
import math
import os
import platform
import sys
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from splitleak.errors import first_line

_LOGGER = logging.getLogger(__name__)
_DISTRIBUTIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-silicon",
)
_GPU_WHEELS = (("linux", "x86_64"), ("win32", "AMD64"))  # as the markers in pyproject.toml say

MEMORY = "SPLITLEAK_ONNX_GIB"
"""The environment variable with the limit of `most_memory`, in GiB."""


@cache
def onnx_runtime() -> Any:  # noqa: ANN401  # onnxruntime has no types
    """The package ``onnxruntime``; where several distributions of it overwrite each other, that is logged once.

    Raises:
        RuntimeError: It cannot be used; the message says how to install it.
    """
    there = [name for name in _DISTRIBUTIONS if _is_installed(name)]
    wanted = "onnxruntime-gpu" if (sys.platform, platform.machine()) in _GPU_WHEELS else "onnxruntime"
    remove = f"pip uninstall -y {' '.join(there)} && " if there else ""
    advice = f"`{remove}pip install {wanted}` mends that"
    try:
        found = import_module("onnxruntime")
        found.InferenceSession  # noqa: B018  # the folder that is left after one of two is uninstalled has none
    except (ImportError, AttributeError) as error:
        got = f"{', '.join(there) or 'none'} ({' '.join(str(error).split())})"
        raise RuntimeError(f"expected one ONNX Runtime that can be imported, got {got}; {advice}") from None
    if len(there) > 1:
        _LOGGER.warning(
            "expected one ONNX Runtime, got %s, which overwrite each other's files; %s", " and ".join(there), advice
        )
    return found


def most_memory() -> int:
    """Bytes that all sessions of this process may compute with: 4 GiB, or ``SPLITLEAK_ONNX_GIB``.

    Raises:
        ValueError: The variable is no number above 0.
    """
    said = os.environ.get(MEMORY, "4")
    try:
        gib = float(said)
    except ValueError:
        gib = 0.0
    if not (gib > 0 and math.isfinite(gib)):
        raise ValueError(f"expected a number of GiB above 0 in {MEMORY}, got {said!r}")
    return int(gib * 2**30)


def session_of(model: Path | bytes, threads: int) -> Any:  # noqa: ANN401  # onnxruntime has no types
    """ONNX Runtime's session on the CPU of a graph that may be anybody's: its memory is limited, see `most_memory`.

    Thread spinning is off: idle spinning threads would occupy the cores that a service's front end needs.

    Args:
        model: A file, or its contents.
        threads: To compute with.

    Raises:
        RuntimeError: ONNX Runtime cannot be used.
        ValueError: It cannot compute the graph.
    """
    runtime = onnx_runtime()
    _limit_memory()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its errors are raised, too
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")  # let go with the session
    source = model if isinstance(model, bytes) else str(model)
    try:
        # Its fallback, for which there is no other provider, prints errors on standard output.
        return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # its errors have no base of their own
        said = first_line(error)
        if "bfloat16" in said:
            said = "it computes little in bfloat16: write the network in float32 (`.float()` before its export)"
        raise ValueError(f"expected a network that ONNX Runtime computes, but {said}") from None


@cache
def _limit_memory() -> None:
    """Gives all sessions of this process one arena of limited size."""
    runtime = onnx_runtime()
    memory = runtime.OrtMemoryInfo("Cpu", runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, runtime.OrtMemType.DEFAULT)
    as_requested = runtime.OrtArenaCfg({"max_mem": most_memory(), "arena_extend_strategy": 1})
    runtime.create_and_register_allocator(memory, as_requested)


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
