"""What computes a half: torch as it was trained, torch with its normalisations folded in, or ONNX Runtime."""

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

EngineName = Literal["torch", "fused", "onnx"]
EngineChoice = Literal["auto", "torch", "fused", "onnx"]

M = TypeVar("M", bound=nn.Module)

_LOGGER = logging.getLogger(__name__)
_Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Engine:
    """Runs rows ``(N, *input_shape)`` from the CPU through a module; what comes out is on the module's device.

    Whatever the engine, the result lies in memory as torch's does: noise drawn in that order is the same noise.
    """

    name: EngineName
    run: Callable[[_Floats], Tensor]
    direct: Callable[[_Floats], _Floats] | None = None  # the same without torch, where the engine needs none

    def __call__(self, rows: _Floats) -> Tensor:
        return self.run(rows)

    def values(self, rows: _Floats) -> _Floats:
        """What `run` gives, as numpy in float32."""
        if self.direct is not None:
            return self.direct(rows)
        with torch.inference_mode():
            found: _Floats = self.run(rows).float().cpu().numpy()
        return found


def torch_engine(
    module: nn.Module,
    device: torch.device,
    layout: torch.memory_format = torch.preserve_format,
    name: EngineName = "torch",
) -> Engine:
    """``module`` in torch, bit for bit what it gives elsewhere; ``layout`` is that of the rows."""

    def run(rows: _Floats) -> Tensor:
        found: Tensor = module(torch.from_numpy(rows).to(device).to(memory_format=layout))
        return found

    return Engine(name, run)


def choose_engine(
    choice: EngineChoice,
    module: nn.Module,
    device: torch.device,
    probes: Sequence[_Floats],
    layout: torch.memory_format = torch.preserve_format,
) -> Engine:
    """An engine for ``module``, in eval mode; every one but torch's own is first held to it on ``probes``.

    ``auto`` is ONNX Runtime where that passes, else fused torch, else torch, and says why; other devices than the CPU
    have torch. ONNX Runtime is exported to here and now, from the module itself, and has torch's number of threads.

    Raises:
        RuntimeError: ``fused`` or ``onnx`` was asked for, and the module cannot be had so, or gives other values.
    """
    plain = torch_engine(module, device, layout)
    if choice == "torch" or (choice == "auto" and device.type != "cpu"):
        return plain
    makers: dict[EngineName, Callable[[], Engine]] = {
        "onnx": lambda: _onnx_engine(module, device, probes[0], plain),
        "fused": lambda: torch_engine(fused(module), device, layout, "fused"),
    }
    for name, make in makers.items():
        if choice in (name, "auto"):
            try:
                return _checked(make(), module, probes)
            except Exception as error:  # an exporter may fail in any way
                if choice != "auto":
                    raise RuntimeError(f"expected a half that engine {name!r} can compute, but {error}") from error
                _LOGGER.warning("engine %r is not used: %s", name, error)
    return plain


def fused(module: M) -> M:
    """A copy of ``module``, in eval mode, in which a layer does the work of the normalisation right behind it."""
    copied = copy.deepcopy(module).eval()
    for inner in list(copied.modules()):
        if isinstance(inner, nn.Sequential):
            for index in range(len(inner) - 1):
                joined = _joined(inner[index], inner[index + 1])
                if joined is not None:
                    inner[index], inner[index + 1] = joined, nn.Identity()
    return copied.to(memory_format=torch.channels_last)


def _joined(first: nn.Module, second: nn.Module) -> nn.Module | None:
    if isinstance(first, nn.Conv2d | nn.ConvTranspose2d) and isinstance(second, nn.BatchNorm2d):
        return fuse_conv_bn_eval(first, second, transpose=isinstance(first, nn.ConvTranspose2d))
    if isinstance(first, nn.Linear) and isinstance(second, nn.BatchNorm1d):
        return fuse_linear_bn_eval(first, second)
    return None


def image_probes(shape: tuple[int, ...]) -> list[_Floats]:
    """Inputs on which an encoder's engines must agree: one image ``(1, *shape)`` and three, uniform in [0, 1]."""
    draw = np.random.default_rng(0)
    return [draw.random((rows, *shape), dtype=np.float32) for rows in (1, 3)]


def feature_probes(shape: tuple[int, ...]) -> list[_Floats]:
    """Inputs on which a head's engines must agree: one feature ``(1, *shape)`` and three, standard normal and zero."""
    draw = np.random.default_rng(0)
    normal = [draw.standard_normal((rows, *shape), dtype=np.float32) for rows in (1, 3)]
    return [*normal, *(np.zeros_like(rows) for rows in normal)]


def _onnx_engine(module: nn.Module, device: torch.device, rows: _Floats, plain: Engine) -> Engine:
    from splitleak.models.export import OnnxModule, onnx_bytes  # only who serves pays for the import

    if device.type != "cpu":
        raise RuntimeError(f"ONNX Runtime computes on the CPU alone here, not on {device}")
    session = OnnxModule(onnx_bytes(module, rows.shape[1:]), torch.get_num_threads())
    with torch.inference_mode():
        layout = _layout(plain(rows))

    def run(rows: _Floats) -> Tensor:
        return torch.from_numpy(session(rows)).contiguous(memory_format=layout)

    return Engine("onnx", run, session)


def _layout(tensor: Tensor) -> torch.memory_format:
    lies_so = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if lies_so else torch.contiguous_format


def _checked(engine: Engine, module: nn.Module, probes: Sequence[_Floats]) -> Engine:
    from splitleak.models.export import check_parity

    for rows in probes:
        check_parity(module, engine.values, rows)
    return engine
