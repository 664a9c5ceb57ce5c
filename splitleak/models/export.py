"""Halves of a model as ONNX, and their run in ONNX Runtime."""

import copy
import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from splitleak.artifacts import written_file

_NAMES = ("input", "output")

TOLERANCE = 1e-4
"""How far two runs of one module may be apart, relative to the largest value either should give. Single-precision sums
of a few thousand products in another order differ by 1e-6 or so; a layer that is wrong or missing, by 1e-2 and more."""


def onnx_bytes(module: nn.Module, input_shape: tuple[int, ...], names: tuple[str, str] = _NAMES) -> bytes:
    """``module``, in eval mode, as ONNX with its weights inside and any number of rows ``(N, *input_shape)``.

    ``names`` are its input's and its output's. ``module`` itself is not changed. What draws random numbers of its own
    does not belong in it. The exporter is torch's older one: a service exports as it starts, and the newer one takes
    ten times as long or more.
    """
    plain = copy.deepcopy(module).to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    written = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it says that it is the older one,
        warnings.filterwarnings("ignore", "Constant folding")  # and what it leaves to ONNX Runtime to fold
        torch.onnx.export(
            plain,
            (torch.zeros(2, *input_shape),),
            written,  # type: ignore[arg-type]  # this exporter takes files
            input_names=names[:1],
            output_names=names[1:],
            dynamic_axes={name: {0: "rows"} for name in names},
            dynamo=False,
        )
    return written.getvalue()


def export_onnx(module: nn.Module, input_shape: tuple[int, ...], path: Path) -> None:
    """Writes `onnx_bytes` to ``path``, whole or not at all."""
    with written_file(path) as partial:
        partial.write_bytes(onnx_bytes(module, input_shape))


class OnnxModule:
    """An exported module, from its file or its bytes, on the CPU in ONNX Runtime with ``threads`` threads.

    Threads that have nothing to compute sleep: spinning ones would take the cores that a service's front end needs.
    """

    def __init__(self, model: Path | bytes, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        source = model if isinstance(model, bytes) else str(model)
        self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        self._input, self._output = self._session.get_inputs()[0].name, self._session.get_outputs()[0].name

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows ``(N, *input_shape)`` through the module."""
        result: NDArray[np.float32] = self._session.run([self._output], {self._input: rows})[0]
        return result


def check_parity(
    module: nn.Module,
    other: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    rows: NDArray[np.float32],
    tolerance: float = TOLERANCE,
) -> float:
    """The greatest difference between the two on ``rows``, relative to the greatest value that ``module`` gives.

    Raises:
        RuntimeError: It is over ``tolerance``: they do not compute the same.
    """
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    with torch.inference_mode():
        expected = module(torch.from_numpy(rows).to(device)).float().cpu().numpy()
    found = other(rows)
    if found.shape != expected.shape:
        raise RuntimeError(f"expected {expected.shape} as torch gives, got {found.shape}")
    difference = float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-12))
    if not difference <= tolerance:
        raise RuntimeError(f"expected values within {tolerance:g} of torch's, of the largest, got {difference:g}")
    return difference
