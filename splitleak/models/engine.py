"""Inference engines: torch, torch with batch normalisation fused into convolutions, or ONNX Runtime."""

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from splitleak.models import ENGINES

M = TypeVar("M", bound=nn.Module)

_LOGGER = logging.getLogger(__name__)
_Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Engine:
    """Runs a batch ``(N, *input_shape)`` from the CPU through a module; the output is on the module's device.

    The output has the memory format of torch's for every engine, so that noise drawn in that order is the same.
    """

    name: str
    run: Callable[[_Floats], Tensor]
    direct: Callable[[_Floats], _Floats] | None = None  # numpy to numpy, where the engine does not need torch

    def __call__(self, rows: _Floats) -> Tensor:
        return self.run(rows)

    def values(self, rows: _Floats) -> _Floats:
        """The output of `run` as float32 numpy."""
        if self.direct is not None:
            return self.direct(rows)
        with torch.inference_mode():
            result: _Floats = self.run(rows).float().cpu().numpy()
        return result


def choose_engine(
    choice: str,
    module: nn.Module,
    device: torch.device,
    probes: Sequence[_Floats],
    layout: torch.memory_format = torch.preserve_format,
) -> Engine:
    """Makes an engine of `ENGINES`; every engine but plain torch must match torch's output on ``probes``.

    Args:
        choice: Its name.
        module: In eval mode.
        device: Of the module.
        probes: Input batches ``(N, *input_shape)`` for the parity check.
        layout: Memory format of the input.

    Raises:
        ValueError: There is no such engine.
        RuntimeError: It cannot run the module, or computes other values.
    """
    make = ENGINES.choose(choice)
    try:
        return make(module, device, probes, layout)
    except Exception as error:  # an exporter may fail in any way
        raise RuntimeError(f"expected a half that engine {choice!r} can compute, but {error}") from error


def auto_engine(
    module: nn.Module, device: torch.device, probes: Sequence[_Floats], layout: torch.memory_format
) -> Engine:
    """ONNX Runtime if it matches torch, else fused torch, else torch; on other devices than the CPU, torch."""
    for name in ("onnx", "fused") if device.type == "cpu" else ():
        try:
            return ENGINES[name](module, device, probes, layout)
        except Exception as error:
            _LOGGER.warning("engine %r is not used: %s", name, error)
    return torch_engine(module, device, probes, layout)


def torch_engine(
    module: nn.Module,
    device: torch.device,
    probes: Sequence[_Floats] = (),
    layout: torch.memory_format = torch.preserve_format,
    name: str = "torch",
) -> Engine:
    """PyTorch, with bit-identical output.

    Args:
        module: In eval mode.
        device: Of the module.
        probes: Not needed.
        layout: Memory format of the input.
        name: Of the engine.
    """

    def run(rows: _Floats) -> Tensor:
        result: Tensor = module(torch.from_numpy(rows).to(device).to(memory_format=layout))
        return result

    return Engine(name, run)


def fused_engine(
    module: nn.Module, device: torch.device, probes: Sequence[_Floats], layout: torch.memory_format
) -> Engine:
    """PyTorch, with batch normalisation fused into the layers before it."""
    return _checked(torch_engine(fused(module), device, probes, layout, "fused"), module, probes)


def fused(module: M) -> M:
    """A copy of ``module`` in eval mode with each batch normalisation fused into the layer before it."""
    copied = copy.deepcopy(module).eval()
    for inner in list(copied.modules()):
        if isinstance(inner, nn.Sequential):
            for index in range(len(inner) - 1):
                joined = _fuse_pair(inner[index], inner[index + 1])
                if joined is not None:
                    inner[index], inner[index + 1] = joined, nn.Identity()
    return copied.to(memory_format=torch.channels_last)


def _fuse_pair(first: nn.Module, second: nn.Module) -> nn.Module | None:
    if isinstance(first, nn.Conv2d | nn.ConvTranspose2d) and isinstance(second, nn.BatchNorm2d):
        return fuse_conv_bn_eval(first, second, transpose=isinstance(first, nn.ConvTranspose2d))
    if isinstance(first, nn.Linear) and isinstance(second, nn.BatchNorm1d):
        return fuse_linear_bn_eval(first, second)
    return None


def image_probes(shape: tuple[int, ...]) -> list[_Floats]:
    """Inputs for the parity check of encoders: batches of one and three images of ``shape``, uniform in [0, 1]."""
    draw = np.random.default_rng(0)
    return [draw.random((rows, *shape), dtype=np.float32) for rows in (1, 3)]


def feature_probes(shape: tuple[int, ...]) -> list[_Floats]:
    """Inputs for the parity check of heads: one and three features of ``shape``, standard normal and zero."""
    draw = np.random.default_rng(0)
    normal = [draw.standard_normal((rows, *shape), dtype=np.float32) for rows in (1, 3)]
    return [*normal, *(np.zeros_like(rows) for rows in normal)]


def onnx_engine(
    module: nn.Module, device: torch.device, probes: Sequence[_Floats], layout: torch.memory_format
) -> Engine:
    """ONNX Runtime on the CPU, by an export in memory, with torch's number of threads."""
    # Deferred: a slow import that only services need.
    from splitleak.models.export import OnnxModule, onnx_bytes, takes_one

    if device.type != "cpu":
        raise RuntimeError(f"ONNX Runtime computes on the CPU alone here, not on {device}")
    exported = onnx_bytes(module, probes[0].shape[1:])
    session = OnnxModule(exported, torch.get_num_threads(), one_by_one=takes_one(module))
    with torch.inference_mode():
        given = _layout(torch_engine(module, device, probes, layout)(probes[0]))

    def run(rows: _Floats) -> Tensor:
        return torch.from_numpy(session(rows)).contiguous(memory_format=given)

    return _checked(Engine("onnx", run, session), module, probes)


def _layout(tensor: Tensor) -> torch.memory_format:
    lies_so = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if lies_so else torch.contiguous_format


def _checked(engine: Engine, module: nn.Module, probes: Sequence[_Floats]) -> Engine:
    from splitleak.models.export import check_parity

    for rows in probes:
        check_parity(module, engine.values, rows)
    return engine
