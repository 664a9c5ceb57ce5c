"""ONNX export of the halves of a model, inference in ONNX Runtime, and the parity check against torch."""

import copy
import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from splitleak.artifacts import written_file
from splitleak.graphs.user_module import unheard
from splitleak.onnx_runtime import session_of

_NAMES = ("input", "output")

TOLERANCE = 1e-4
"""Tolerance of the parity check, relative to the largest absolute output. Single-precision sums of a few thousand
products in another order differ by about 1e-6; a wrong or missing layer by 1e-2 and more."""


class OneByOne(nn.Module):
    """A network that takes one row at a time, for any number of rows; in eval mode, for one row has no statistics."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval()

    def train(self, mode: bool = True) -> Self:
        self.training = mode
        return self

    def forward(self, rows: Tensor) -> Tensor:
        return torch.cat([self.network(row) for row in rows.split(1)])


def takes_one(module: nn.Module) -> bool:
    """Whether a module, or a part of it, takes one row at a time, so that its graph does."""
    return any(isinstance(each, OneByOne) for each in module.modules())


def onnx_bytes(module: nn.Module, input_shape: tuple[int, ...], names: tuple[str, str] = _NAMES) -> bytes:
    """``module`` in eval mode as ONNX, with its weights and a dynamic batch size; of one row, if it `takes_one`.

    The exporter is torch's older one (``dynamo=False``): a service exports as it starts, and the newer one takes ten
    times as long or more.

    Args:
        module: Without random layers; it is not changed.
        input_shape: Without batch dimension.
        names: Of the input and the output.
    """
    alone = takes_one(module)
    plain = copy.deepcopy(module).to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    written = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings(), unheard():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the older exporter
        warnings.simplefilter("ignore", TracerWarning)  # whoever uses the graph compares it with the module
        warnings.filterwarnings("ignore", "Constant folding")  # ONNX Runtime folds what the exporter does not
        torch.onnx.export(
            plain,
            (torch.zeros(1 if alone else 2, *input_shape),),
            written,  # type: ignore[arg-type]  # this exporter takes files
            input_names=names[:1],
            output_names=names[1:],
            dynamic_axes=None if alone else {name: {0: "rows"} for name in names},
            dynamo=False,
        )
    return written.getvalue()


def export_onnx(module: nn.Module, input_shape: tuple[int, ...], path: Path) -> None:
    """Writes `onnx_bytes` to ``path`` atomically."""
    with written_file(path) as partial:
        partial.write_bytes(onnx_bytes(module, input_shape))


class OnnxModule:
    """An exported module, from a file or bytes, in ONNX Runtime on the CPU with ``threads`` threads.

    ``one_by_one``: it takes one row at a time, and is given each row of a batch in turn.
    """

    def __init__(self, model: Path | bytes, threads: int, *, one_by_one: bool = False) -> None:
        self._session = session_of(model, threads)
        self._one_by_one = one_by_one
        self._input, self._output = self._session.get_inputs()[0].name, self._session.get_outputs()[0].name

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """The module's output for a batch ``(N, *input_shape)``."""
        if self._one_by_one and len(rows) > 1:
            return np.concatenate([self(row) for row in np.split(rows, len(rows))])
        result: NDArray[np.float32] = self._session.run([self._output], {self._input: rows})[0]
        return result


def check_parity(
    module: nn.Module,
    other: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    rows: NDArray[np.float32],
    tolerance: float = TOLERANCE,
) -> float:
    """The maximum absolute difference of two implementations, relative to the maximum absolute output of ``module``.

    Args:
        module: The reference, in eval mode.
        other: The implementation to check.
        rows: Input batch ``(N, *input_shape)``.
        tolerance: Maximum relative difference.

    Raises:
        RuntimeError: The difference is above ``tolerance``, or the shapes differ.
    """
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    with torch.inference_mode():
        expected = module(torch.from_numpy(rows).to(device)).float().cpu().numpy()
    actual = other(rows)
    if actual.shape != expected.shape:
        raise RuntimeError(f"expected {expected.shape} as torch gives, got {actual.shape}")
    difference = float(np.abs(actual - expected).max() / max(float(np.abs(expected).max()), 1e-12))
    if not difference <= tolerance:
        raise RuntimeError(f"expected values within {tolerance:g} of torch's, of the largest, got {difference:g}")
    return difference


def checked_onnx(module: nn.Module, probes: Sequence[NDArray[np.float32]], names: tuple[str, str] = _NAMES) -> bytes:
    """As `onnx_bytes`, once ONNX Runtime gives what ``module`` gives for batches ``(N, *input_shape)``.

    Raises:
        RuntimeError: It gives something else.
    """
    exported = onnx_bytes(module, probes[0].shape[1:], names)
    session = OnnxModule(exported, threads=1, one_by_one=takes_one(module))
    for rows in probes:
        check_parity(module, session, rows)
    return exported
