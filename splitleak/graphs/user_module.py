"""A user's own torch network as an ONNX graph; afterwards nothing needs the user's code."""

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from splitleak.artifacts import load_tensors
from splitleak.errors import first_line
from splitleak.graphs.network import Cut, Network, same
from splitleak.graphs.prepared import IMAGES
from splitleak.onnx_runtime import session_of
from splitleak.seeding import seeded
from splitleak.tables import nearest
from splitleak.user_code import current_folder_first, in_eval_mode, load_attribute, reason

Shapes = Mapping[str, tuple[int, ...]]
Answers = list[NDArray[Any]]

_UNLIKE = 0.01  # of what answers vary by, from one picture to another: an exported network is this near
_WRAPPED = "module."  # begins the names of weights of `torch.nn.DataParallel`
_ROUNDING = 1e-4  # of the largest answer
_WRITTEN = "expected a network that torch can write as ONNX, but "
_INSIDE = ": hand over the network itself, in evaluation mode (`.eval()`), not a function that calls it"
_BRANCHES = (
    "for some images its graph answers otherwise than the network itself: Python code in it decides by the values "
    "(`if`, `.item()`), so that the graph would be another network"
)


def load_user_module(address: str, weights: Path | None = None) -> nn.Module:
    """The network that ``module:callable`` of the user's own code gives, in eval mode. That code is run.

    Args:
        address: The module is found as Python finds it, in the current folder too; what stands after the colon is a
            network or an exported program, or gives one when it is called without arguments.
        weights: Safetensors, or a state dict of `torch.save`, or a checkpoint of a training that holds one beside
            other things; names may begin as `torch.nn.DataParallel` has them. Nothing but tensors is read.

    Raises:
        FileNotFoundError: There are no such weights.
        ValueError: There is no such module or callable, it gives no network, or the weights do not fit it.
    """
    what = "a network or what gives one"
    made = _unwrapped(load_attribute(address, what))
    if not isinstance(made, nn.Module):
        try:
            with current_folder_first():
                made = _unwrapped(made())  # type: ignore[operator]  # at the user's word
        except Exception as error:  # whatever the user's code raises
            raise ValueError(f"expected {what} at {address}, but {reason(error)}") from None
    if not isinstance(made, nn.Module):
        raise ValueError(f"expected a torch network at {address}, got {type(made).__name__}")
    if weights is not None:
        _load_weights(made, weights)
    return in_eval_mode(made)


def _unwrapped(made: object) -> object:
    """The network of an exported program, or that `torch.compile` wrapped; anything else as it is."""
    return made.module() if isinstance(made, ExportedProgram) else getattr(made, "_orig_mod", made)


@seeded(0, "export")
def export_module(module: nn.Module, inputs: Shapes, pictures: Tensor | None = None) -> ModelProto:
    """``module`` in eval mode as ONNX, for any batch; batch normalisation stays a layer of its own.

    The exporter is torch's older one, which is quick; where it cannot, the newer one; where the network is written for
    one batch alone, that is of one image. The older one records what is computed for one batch of noise, and so loses
    what Python decides by the values. What is exported is therefore compared with ``module``, one image at a time: on
    noise, dark and bright noise, black, white, an image of both, and ``pictures``. Its output is called ``output``; of
    several, each by its key or place, as ``output.aux`` or ``output.1``.

    Args:
        module: Takes one tensor an input, in their order.
        inputs: The shape of each, by its name, without the batch axis: ``(C, H, W)`` of images.
        pictures: ``(N, C, H, W)``, some that it will be given, of a network of one input.

    Raises:
        ValueError: Neither exporter can write it, or not as a graph that answers as it does; or it gives the same image
            another answer the second time.
    """
    probes = _probes(inputs, pictures)
    answers = _answered(module, probes)
    taken, wanted = zip(
        *((given, each) for given, each in zip(probes, answers, strict=True) if each is not None), strict=True
    )
    names = [*_called(module, taken[0])]
    try:
        with torch.no_grad():
            module(*(torch.rand(2, *shape) for shape in inputs.values()))
    except Exception as error:  # of the user's own code; it may take one image alone, which the exporters find out
        reasons = [f"it does not take two images: {first_line(error)}{float_hint(module)}"]
    else:
        reasons = []
    fast, quiet = torch.backends.mha.get_fastpath_enabled(), logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # what the exporters log, their errors say too
    torch.backends.mha.set_fastpath_enabled(False)  # one operation for a whole layer, which no exporter knows
    try:
        for export, rows in ((_older, 2), (_newer, 2), (_older, 1)):
            drawn = tuple(torch.rand(rows, *shape) for shape in inputs.values())
            try:
                with torch.no_grad(), warnings.catch_warnings(), unheard():
                    warnings.simplefilter("ignore")  # that Python decides by values shows below, in the answers
                    model = export(module, drawn, list(inputs), names)
                session = session_of(model.SerializeToString(), 1)
                made = [session.run(None, dict(zip(inputs, given, strict=True))) for given in taken]
                if _unlike(made, wanted):
                    raise ValueError(_BRANCHES)
            except Exception as error:  # an exporter may fail in any way, and what it wrote may be for its batch alone
                reasons.append(first_line(error) + (_INSIDE if "requires grad" in str(error) else ""))
            else:
                return model
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        logging.disable(quiet)
    raise ValueError(f"{_WRITTEN}{_BRANCHES if _BRANCHES in reasons else reasons[0]}")


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Torch's exporters print nothing for a while: neither the code nor the graph that they gave up at.

    The graph is written by C++ to standard output, whose redirection in Python it does not follow.
    """
    native: Any = torch._C
    logged = native._jit_onnx_log
    native._jit_onnx_log = lambda *_: None
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        native._jit_onnx_log = logged


def float_hint(module: nn.Module) -> str:
    """What to do where a network may have failed for its weights are no float32; "" where they are."""
    others = {weight.dtype for weight in module.parameters() if weight.is_floating_point()} - {torch.float32}
    return f"; its weights are {min(map(str, others))}, and images float32: call .float() on it" if others else ""


def _probes(inputs: Shapes, pictures: Tensor | None) -> list[list[NDArray[np.float32]]]:
    """For each image that is tried, the inputs ``(1, *shape)`` of the network."""
    draw = np.random.default_rng(3)

    def images(shape: tuple[int, ...]) -> list[NDArray[np.float32]]:
        noise = draw.random((3, 1, *shape), dtype=np.float32)
        half = np.zeros((1, *shape), np.float32)
        half[..., shape[-1] // 2 :] = 1
        made = [noise[0], noise[1] * 0.25, 0.75 + noise[2] * 0.25, 0 * half, 0 * half + 1, half]
        return made if pictures is None or len(inputs) > 1 else [*made, *pictures.float().numpy()[:, None]]

    return [list(given) for given in zip(*map(images, inputs.values()), strict=True)]


def _answered(module: nn.Module, probes: list[list[NDArray[np.float32]]]) -> list[Answers | None]:
    """The tensors that ``module`` gives for each of ``probes``; None for an image that it does not take.

    Raises:
        ValueError: It takes none, or gives the first another answer the second time.
    """
    answers: list[Answers | None] = []
    reason = ""
    for given in (probes[0], *probes):
        try:
            answers.append([each.float().numpy() for each in _called(module, given).values()])
        except Exception as error:  # of the user's own code
            answers.append(None)
            reason = reason or first_line(error)
    if all(each is None for each in answers):
        raise ValueError(f"{_WRITTEN}it does not take one image: {reason}{float_hint(module)}")
    first, again = answers[:2]
    if (first is None) != (again is None) or (first and again and _unlike([again], [first])):
        raise ValueError(
            "expected a network that gives an image the same answer twice, got one that draws at random or keeps a "
            "state: what is exported would be one of its answers; `.eval()` ends dropout"
        )
    return answers[1:]


@torch.no_grad()
def _called(module: nn.Module, given: list[NDArray[np.float32]]) -> dict[str, Tensor]:
    return _tensors(module(*(torch.from_numpy(each.copy()) for each in given)))  # it may work in place


def _tensors(answer: object, name: str = "output") -> dict[str, Tensor]:
    """The tensors of what a network or a layer gives, in their order, by their keys and places in it.

    >>> list(_tensors({"out": torch.zeros(1), "more": (torch.zeros(1), None)}))
    ['output.out', 'output.more.0']
    """
    if torch.is_tensor(answer):
        return {name: answer}
    parts: Iterable[tuple[object, object]] = ()
    if isinstance(answer, Mapping):
        parts = answer.items()
    elif isinstance(answer, (list, tuple)):
        parts = enumerate(answer)
    return {key: each for place, part in parts for key, each in _tensors(part, f"{name}.{place}").items()}


def _unlike(made: Sequence[Answers], wanted: Sequence[Answers]) -> bool:
    """Whether some tensor made for the images is none of those that are wanted for them."""
    columns = list(zip(*wanted, strict=False))
    return not all(any(_near(column, each) for each in columns) for column in zip(*made, strict=False))


def _near(made: Sequence[NDArray[Any]], wanted: Sequence[NDArray[Any]]) -> bool:
    """Whether the answers for all images are near, but for a hundredth of what they vary by from image to image.

    A rounding inside a network makes steps of what differs in the last digit.
    """
    if any(left.shape != right.shape for left, right in zip(made, wanted, strict=True)):
        return False
    finite = [np.where(np.isfinite(each), each, 0).astype(np.float64) for each in wanted]
    centre = sum(finite) / len(finite) if len({each.shape for each in finite}) == 1 else None
    spread = 0.0 if centre is None else math.sqrt(np.mean([np.square(each - centre).mean() for each in finite]))
    allowed = _UNLIKE * spread + _ROUNDING * max(np.abs(each).max(initial=0) for each in finite)
    for left, right in zip(made, wanted, strict=True):
        both = np.isfinite(left) & np.isfinite(right)
        alone = np.isfinite(left) ^ np.isfinite(right)
        off = np.subtract(left, right, where=both, out=np.zeros(left.shape, np.float64))
        if left.size and (math.sqrt(np.square(off).mean()) > allowed or alone.mean() > _UNLIKE):
            return False
    return True


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
    return _call_of(path)[0] in _submodules(module)


def _submodules(module: nn.Module) -> dict[str, nn.Module]:
    """By path; one that stands at several is under each."""
    return dict(module.named_modules(remove_duplicate=False))


def cut_after(network: Network, module: nn.Module, path: str, inputs: Shapes, tensors: int = 1) -> Cut:
    """The cut at the output of the submodule ``path``, such as ``layer1``: of all places, the one with its values.

    Args:
        network: The exported ``module``, prepared.
        module: The user's.
        path: As in ``module.named_modules()``, or any other of the same submodule; ``layer#2`` is the second call of
            one that is called several times, without a number the outputs of all calls cross.
        inputs: ``(C, H, W)`` of each input, in order.
        tensors: How many may cross.

    Raises:
        ValueError: There is no such submodule, or its output alone does not separate the network.
    """
    modules = _submodules(module)
    layer, call = _call_of(path)
    if layer not in modules or not layer:
        raise ValueError(f"expected a submodule of the network, got {path!r}{nearest(layer, modules)}")
    rows = 2 if network.batched else 1
    images = np.random.default_rng(2).random((rows, *network.image_shape), dtype=np.float32)
    calls: list[list[Tensor]] = []

    def keep(_: nn.Module, __: object, output: object) -> None:
        calls.append([each.clone() for each in _tensors(output).values()])  # what follows may change it in place

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
    return [torch.from_numpy(made[name].copy()) for name in names]  # a network may change it in place


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
    state = _state_of(read_state(path), path)
    if not module.state_dict().keys() & state.keys():
        state = dict(state)
        consume_prefix_in_state_dict_if_present(state, _WRAPPED)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path}: expected weights of the network, but {' '.join(str(error).split())}") from None


def _state_of(state: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """The state dict of a network; of a training's checkpoint, which holds it beside other things, that one.

    Raises:
        ValueError: It is a checkpoint that holds none, or several.
    """
    if not state or any(isinstance(value, Tensor) for value in state.values()):
        return state
    held = [name for name, value in state.items() if isinstance(value, Mapping) and _are_tensors(value)]
    if len(held) != 1:
        names = ", ".join(map(str, held or state))
        raise ValueError(f"{path}: expected a state dict, or a checkpoint that holds one, got one of {names}")
    found: Mapping[str, Any] = state[held[0]]
    return found


def _are_tensors(state: Mapping[str, Any]) -> bool:
    return bool(state) and all(isinstance(value, Tensor) for value in state.values())
