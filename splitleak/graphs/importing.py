"""What an import is told of a network, and the network itself: from an ONNX file, or from a user's own torch code."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from pydantic import Field

from splitleak.config import Config
from splitleak.errors import explained
from splitleak.graphs.network import Network
from splitleak.graphs.prepared import Preprocessing, input_shapes, prepare
from splitleak.graphs.reading import read_graph


class NetworkConfig(Config):
    """What a network is given and what its answer is, where its file does not tell."""

    inputs: dict[str, tuple[int, int, int]] = Field(
        default_factory=dict, description="(C, H, W) of each input that is an image; several are channels of one image"
    )
    fixed: dict[str, float | list[Any]] = Field(
        default_factory=dict, description="of each other input, what it is given with every image"
    )
    output: str | None = Field(
        default=None, coerce_numbers_to_str=True, description="the output that is the answer; none: the only one"
    )
    preprocessing: Preprocessing = Preprocessing()


def network_of(
    model: ModelProto, config: NetworkConfig, image_shape: tuple[int, int, int] | None = None, *, logits: bool = True
) -> Network:
    """The network as one of images in [0, 1], ready to be cut.

    Args:
        model: As it was read or exported; it is changed.
        config: Its inputs, output and preprocessing.
        image_shape: ``(C, H, W)`` of its only image, where neither file nor config tell it.
        logits: Whether its answer is read as logits, see `prepare`.

    Raises:
        ValueError: An input has no shape, or the network cannot be computed.
    """
    told = input_shapes(model, config.preprocessing.layout)
    images = [name for name, shape in told.items() if name not in config.fixed]
    if image_shape is not None and not config.inputs:
        if len(images) != 1:
            raise ValueError(f"expected the shape of each of {', '.join(images)} (inputs.NAME), got one for all")
        config = config.model_copy(update={"inputs": {images[0]: image_shape}})
    shapes = {}
    for name in images:
        shape = config.inputs.get(name, told[name])
        if len(shape) != 3 or None in shape:
            expected = "(C, H, W) by --input, or a value by fixed.NAME"
            raise ValueError(f"expected input {name!r} as an image {expected}, got {shape}")
        if _fits(told[name], (*shape[1:], shape[0])) and not _fits(told[name], shape):
            last = "channels come last there, so set preprocessing.layout=hwc"
            raise ValueError(f"expected input {name!r} as {told[name]}, got {shape}: {last}")
        shapes[name] = tuple(int(side or 0) for side in shape)
    fixed = {name: _value(name, value, told.get(name, ())) for name, value in config.fixed.items()}
    return Network(prepare(model, config.preprocessing, shapes, fixed, config.output, logits=logits))


def read_network(path: Path, config: NetworkConfig, image_shape: tuple[int, int, int] | None = None) -> Network:
    """`network_of` an ONNX file, which may be a stranger's.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no ONNX file, or one that cannot be computed here; one line that names the file.
    """
    model = read_graph(path)
    with explained(path, "a network that can be computed"):
        return network_of(model, config, image_shape)


def network_digest(network: Network) -> str:
    """Twelve hexadecimal digits that change with any weight, node or preprocessing of the network."""
    return hashlib.sha256(network.model.SerializeToString(deterministic=True)).hexdigest()[:12]


def read_names(path: Path, count: int) -> tuple[str, ...]:
    """The names of the classes, one a line.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no text, or has another number of lines than ``count``.
    """
    if not path.is_file():
        raise FileNotFoundError(f"expected names of classes, one a line, at {path}, got no such file")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text in UTF-8, but {error}") from None
    if len(lines) != count:
        raise ValueError(f"{path}: expected {count} names, one a line, as the network has outputs, got {len(lines)}")
    return tuple(lines)


def _fits(told: tuple[int | None, ...], shape: tuple[int | None, ...]) -> bool:
    """Whether an input that a file tells as ``told``, None where any size will do, may be of a shape."""
    return len(told) == len(shape) and all(side in (None, own) for side, own in zip(told, shape, strict=True))


def _value(name: str, value: float | list[Any], shape: tuple[int | None, ...]) -> NDArray[np.float32]:
    try:
        given = np.array(value, np.float32)
    except (ValueError, TypeError) as error:
        raise ValueError(f"expected numbers as fixed.{name}, but {error}") from None
    if given.ndim == 0 and None not in shape:
        return np.full([side or 1 for side in shape], given, np.float32)
    if given.ndim != len(shape) or any(side not in (None, own) for side, own in zip(shape, given.shape, strict=True)):
        raise ValueError(f"expected fixed.{name} of shape {shape}, as the network takes it, got {given.shape}")
    return given
