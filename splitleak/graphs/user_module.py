"""A user's own torch network as an ONNX graph; afterwards nothing needs the user's code."""

import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from splitleak.artifacts import load_tensors
from splitleak.errors import first_line
from splitleak.graphs.network import Cut, Network, same
from splitleak.graphs.prepared import IMAGES
from splitleak.onnx_runtime import session_of
from splitleak.tables import nearest
from splitleak.user_code import current_folder_first, load_attribute, reason

Shapes = Mapping[str, tuple[int, ...]]


def load_user_module(address: str, weights: Path | None = None) -> nn.Module:
    """The network that ``module:callable`` of the user's own code gives, in eval mode. That code is run.

    Args:
        address: The module is found as Python finds it, in the current folder too; what stands after the colon is a
            network, or gives one when it is called without arguments.
        weights: Safetensors, or a state dict of `torch.save`, of which nothing but tensors is read.

    Raises:
        FileNotFoundError: There are no such weights.
        ValueError: There is no such module or callable, it gives no network, or the weights do not fit it.
    """
    what = "a network or what gives one"
    made = load_attribute(address, what)
    if not isinstance(made, nn.Module):
        try:
            with current_folder_first():
                made = made()  # type: ignore[operator]  # at the user's word
        except Exception as error:  # whatever the user's code raises
            raise ValueError(f"expected {what} at {address}, but {reason(error)}") from None
    if not isinstance(made, nn.Module):
        raise ValueError(f"expected a torch network at {address}, got {type(made).__name__}")
    if weights is not None:
        _load_weights(made, weights)
    return made.eval()


def export_module(module: nn.Module, inputs: Shapes, outputs: int = 1) -> ModelProto:
    """``module`` in eval mode as ONNX, for any batch; batch normalisation stays a layer of its own.

    The exporter is torch's older one, which is quick; where it cannot, the newer one; where the network is written for
    one batch alone, that is of one image.

    Args:
        module: Takes one tensor an input, in their order.
        inputs: The shape of each, by its name, without the batch axis: ``(C, H, W)`` of images.
        outputs: How many tensors it gives, called ``output``, or ``output0`` and so on.

    Raises:
        ValueError: Neither exporter can write it.
    """
    names = ["output"] if outputs == 1 else [f"output{index}" for index in range(outputs)]
    try:
        with torch.no_grad():
            module(*(torch.rand(2, *shape) for shape in inputs.values()))
    except Exception as error:  # of the user's own code; it may take one image alone, which the exporters find out
        reasons = [f"it does not take two images: {first_line(error)}"]
    else:
        reasons = []
    fast = torch.backends.mha.get_fastpath_enabled()
    logging.disable(logging.CRITICAL)  # what the exporters log, their errors say too
    torch.backends.mha.set_fastpath_enabled(False)  # one operation for a whole layer, which no exporter knows
    try:
        for export, rows in ((_older, 2), (_newer, 2), (_older, 1)):
            drawn = tuple(torch.rand(rows, *shape) for shape in inputs.values())
            try:
                with torch.no_grad(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    model = export(module, drawn, list(inputs), names)
                given = {name: each[:1].numpy() for name, each in zip(inputs, drawn, strict=True)}
                session_of(model.SerializeToString(), 1).run(None, given)
            except Exception as error:  # an exporter may fail in any way, and what it wrote may be for its batch alone
                reasons.append(first_line(error))
            else:
                return model
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        logging.disable(logging.NOTSET)
    raise ValueError(f"expected a network that torch can write as ONNX, but {reasons[0]}")


def _older(module: nn.Module, rows: tuple[Tensor, ...], inputs: list[str], names: list[str]) -> ModelProto:
    written = io.BytesIO()
    torch.onnx.export(
        module,
        rows,
        written,  # type: ignore[arg-type]  # this exporter takes files
        input_names=inputs,
        output_names=names,
        dynamic_axes={name: {0: "rows"} for name in (*inputs, *names)} if len(rows[0]) > 1 else None,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        dynamo=False,
    )
    return onnx.load_from_string(written.getvalue())


def _newer(module: nn.Module, rows: tuple[Tensor, ...], inputs: list[str], names: list[str]) -> ModelProto:
    count = torch.export.Dim("count", min=1)
    program = torch.onnx.export(
        module,
        rows,
        input_names=inputs,
        output_names=names,
        dynamic_shapes=tuple({0: count} for _ in rows),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model: ModelProto = program.model_proto
    return model


def is_path(module: nn.Module, path: str) -> bool:
    """Whether `cut_after` can look for the cut ``path``."""
    return _call_of(path)[0] in dict(module.named_modules())


def cut_after(network: Network, module: nn.Module, path: str, inputs: Shapes, tensors: int = 1) -> Cut:
    """The cut at the output of the submodule ``path``, such as ``layer1``: of all places, the one with its values.

    Args:
        network: The exported ``module``, prepared.
        module: The user's.
        path: As in ``module.named_modules()``; ``layer#2`` is the second call of one that is called several times,
            without a number the outputs of all calls cross.
        inputs: ``(C, H, W)`` of each input, in order.
        tensors: How many may cross.

    Raises:
        ValueError: There is no such submodule, or its output alone does not separate the network.
    """
    modules = dict(module.named_modules())
    layer, call = _call_of(path)
    if layer not in modules or not layer:
        raise ValueError(f"expected a submodule of the network, got {path!r}{nearest(layer, modules)}")
    rows = 2 if network.batched else 1
    images = np.random.default_rng(2).random((rows, *network.image_shape), dtype=np.float32)
    calls: list[list[Tensor]] = []

    def keep(_: nn.Module, __: object, output: object) -> None:
        given = output if isinstance(output, Sequence) else (output,)
        calls.append([each.clone() for each in given if torch.is_tensor(each)])  # what follows may change it in place

    given = _given(network, images, inputs)
    hook = modules[layer].register_forward_hook(keep)
    try:
        with torch.no_grad():
            module(*given)
    finally:
        hook.remove()
    if call is not None and not 1 <= call <= len(calls):
        raise ValueError(f"expected a call of {layer!r} from {layer}#1 to {layer}#{len(calls)}, got {path!r}")
    wanted = [tensor.numpy() for kept in (calls if call is None else [calls[call - 1]]) for tensor in kept]
    shapes_wanted = [each.shape[1:] for each in wanted]
    alike = [cut for cut in network.cuts(tensors) if [*cut.shapes] == shapes_wanted]
    names = sorted({name for cut in alike for name in cut.tensors})
    batches = list(network.forward(images, names)) if names else []
    made = {name: np.concatenate([batch[name] for batch in batches]) for name in names}
    for cut in reversed(alike):
        if all(same(made[name], each) for name, each in zip(cut.tensors, wanted, strict=True)):
            return cut
    shapes = " and ".join(map(str, shapes_wanted)) or "nothing"
    several = call is None and len(calls) > 1
    hint = f"it is called {len(calls)} times, and {layer}#{len(calls)} is the last; " if several else ""
    raise ValueError(
        f"expected a submodule whose output alone crosses, got {path!r}, which gives {shapes}; "
        f"{hint}`splitleak cuts` lists the places"
    )


def _call_of(path: str) -> tuple[str, int | None]:
    """The submodule of a path such as ``layer#2``, and which call of it is meant."""
    layer, _, number = path.rpartition("#")
    return (layer, int(number)) if layer and number.isdecimal() else (path, None)


def _given(network: Network, images: np.ndarray[tuple[int, ...], np.dtype[np.float32]], inputs: Shapes) -> list[Tensor]:
    """What the network itself is given for images, after preprocessing."""
    names = [name if name not in (IMAGES,) else f"{IMAGES}.of-network" for name in inputs]
    (made,) = network.forward(images, names)
    return [torch.from_numpy(made[name]) for name in names]


def read_state(path: Path) -> Mapping[str, Any]:
    """A state dict of safetensors or of `torch.save`, or several by name, of which nothing but tensors is read.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is none of these, or holds something else than tensors.
    """
    if path.suffix == ".safetensors":
        return load_tensors(path)[0]
    if not path.is_file():
        raise FileNotFoundError(f"expected weights at {path}, got no such file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken file leads to
        raise ValueError(f"{path}: expected a state dict of tensors alone, but {first_line(error)}") from None
    if not isinstance(state, Mapping):
        raise ValueError(f"{path}: expected a state dict, got {type(state).__name__}")
    return state


def _load_weights(module: nn.Module, path: Path) -> None:
    state = read_state(path)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path}: expected weights of the network, but {' '.join(str(error).split())}") from None
