"""Halves of a model as ONNX, and their run in ONNX Runtime."""

import copy
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from splitleak.artifacts import written_file

_INPUT, _OUTPUT = "input", "output"


def export_onnx(module: nn.Module, input_shape: tuple[int, ...], path: Path) -> None:
    """Writes ``module``, in eval mode, as ONNX with its weights inside and any number of rows ``(N, *input_shape)``.

    ``module`` itself is not changed. What draws random numbers of its own does not belong in it.
    """
    plain = copy.deepcopy(module).to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    rows = torch.export.Dim("rows")
    with torch.no_grad():
        program = torch.onnx.export(
            plain,
            (torch.zeros(2, *input_shape),),  # two rows: one would be taken for a constant
            dynamic_shapes=({0: rows},),
            input_names=[_INPUT],
            output_names=[_OUTPUT],
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    with written_file(path) as partial:
        program.save(partial, external_data=False)


class OnnxModule:
    """An exported module on the CPU, in ONNX Runtime with ``threads`` threads."""

    def __init__(self, path: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows ``(N, *input_shape)`` through the module."""
        result: NDArray[np.float32] = self._session.run([_OUTPUT], {_INPUT: rows})[0]
        return result


def check_parity(module: nn.Module, exported: OnnxModule, rows: NDArray[np.float32], tolerance: float = 1e-4) -> float:
    """The greatest difference between the two on ``rows``, relative to the greatest value that ``module`` gives.

    Raises:
        RuntimeError: It is over ``tolerance``: they do not compute the same.
    """
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    with torch.inference_mode():
        expected = module(torch.from_numpy(rows).to(device)).float().cpu().numpy()
    found = exported(rows)
    if found.shape != expected.shape:
        raise RuntimeError(f"expected ONNX to give {expected.shape} as torch does, got {found.shape}")
    difference = float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-12))
    if not difference <= tolerance:
        raise RuntimeError(
            f"expected ONNX within {tolerance:g} of torch, relative to the largest value, got {difference:g}"
        )
    return difference
