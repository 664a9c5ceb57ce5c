"""What a model in the cloud takes and gives: as it is announced, as the config says, or as its first answer shows."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from splitleak.errors import WireError
from splitleak.wire.protocol import codec
from splitleak.wire.protocol.paths import method_path
from splitleak.wire.protocol.pb import open_inference_pb2 as pb
from splitleak.wire.protocol.status import error_of

_METADATA = method_path("ModelMetadata")


@dataclass
class Agreement:
    """The names of input and output, and the shape of one output; name and shape of the output are empty if unknown."""

    input_name: str
    output_name: str
    output_shape: tuple[int, ...]
    known: codec.Layout | None = None  # of the last answer that had to be looked at in full

    def logits(self, response: pb.ModelInferResponse, rows: int) -> npt.NDArray[np.float32]:
        """The output of an answer to ``rows`` images, which what was not announced is learnt from.

        Raises:
            WireError: It has no such output, or one of another shape.
        """
        outputs, raw = response.outputs, response.raw_output_contents
        alone = len(outputs) == 1
        if self.known is not None and alone and raw:
            found = self.known.read(outputs[0], raw[0])
            if found is not None and len(found) == rows:
                return found
        if not self.output_name and alone:
            self.output_name = outputs[0].name
        output = codec.response_array(response, self.output_name)
        wanted = self.output_shape or output.shape[1:]
        if output.ndim < 2 or len(output) != rows or not _fits(output.shape[1:], wanted):
            expected = (rows, *(wanted or ("...",)))
            raise WireError(f"expected logits of shape {expected}, got {output.shape}")
        self.output_shape = output.shape[1:]
        self.known = codec.Layout.of(outputs[0], output) if alone else None
        return output


def agree(
    channel: grpc.Channel,
    model: str,
    feature_shape: tuple[int, ...],
    *,
    input_name: str | None,
    output_name: str | None,
    what: str,
    timeout_s: float,
) -> Agreement:
    """Reads the metadata of ``model`` and checks it against the encoder's ``feature_shape``, without the batch axis.

    What a server does not announce is taken from the arguments, and shapes on trust. ``what`` begins every error.

    Raises:
        LookupError: There is no such model.
        ConnectionError, TimeoutError: The server cannot be asked.
        ValueError: It takes other features; it has several inputs or outputs, none of them of the given name; or it
            announces no input and none is given.
    """
    call = channel.unary_unary(
        _METADATA, pb.ModelMetadataRequest.SerializeToString, pb.ModelMetadataResponse.FromString
    )
    try:
        told = call(pb.ModelMetadataRequest(name=model), timeout=timeout_s)
    except grpc.RpcError as error:
        raise error_of(error, what) from error
    name, shape = _tensor(told.inputs, input_name, f"{what}: expected one input")
    if not name:
        raise ValueError(f"{what}: expected the name of the input, there or as input_name, got none")
    if shape and not _fits(feature_shape, shape):
        raise ValueError(f"{what}: expected the encoder's features {feature_shape}, got {shape}")
    return Agreement(name, *_tensor(told.outputs, output_name, f"{what}: expected one output"))


def _tensor(announced: Iterable[Any], wanted: str | None, expected: str) -> tuple[str, tuple[int, ...]]:
    """Name and shape, without the batch axis, of the tensor ``wanted``, or the only one; empty if not announced."""
    found = {each.name: tuple(each.shape[1:]) for each in announced}
    name = next(iter(found)) if wanted is None and len(found) == 1 else wanted or ""
    if found and name not in found:
        raise ValueError(f"{expected}{f' {name!r}' if name else ''}, got {sorted(found)}")
    return name, found.get(name, ())


def _fits(shape: tuple[int, ...], announced: tuple[int, ...]) -> bool:
    """Whether a shape is as announced, where -1 stands for any size."""
    return len(shape) == len(announced) and all(size in (-1, own) for own, size in zip(shape, announced, strict=True))
