"""ONNX Runtime, whose distributions all put their files into one folder: one alone may be installed."""

import logging
import platform
import sys
from functools import cache
from importlib import import_module, metadata
from typing import Any

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


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
