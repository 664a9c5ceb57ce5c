"""The cloud's input and output as edge and cloud agree on them: from metadata, the config, or the first response."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from splitleak.errors import WireError
from splitleak.wire.client.metadata import select
from splitleak.wire.protocol import codec
from splitleak.wire.protocol.checks import fits
from splitleak.wire.protocol.pb import open_inference_pb2 as pb


@dataclass
class Agreement:
    """The names of input and output, and the shape of one output; the output's are empty while unknown."""

    input_name: str
    output_name: str
    output_shape: tuple[int, ...]
    layout: codec.Layout | None = None  # of the last response that was decoded in full

    def logits(self, response: pb.ModelInferResponse, rows: int) -> npt.NDArray[np.float32]:
        """Decodes the output for ``rows`` images; a name and a shape that were not announced are learnt from it.

        Raises:
            WireError: It has no such output, or one of another shape.
        """
        outputs, raw = response.outputs, response.raw_output_contents
        alone = len(outputs) == 1
        if self.layout is not None and alone and raw:
            values = self.layout.read(outputs[0], raw[0])
            if values is not None and len(values) == rows:
                return values
        if not self.output_name and alone:
            self.output_name = outputs[0].name
        output = codec.response_array(response, self.output_name)
        announced = self.output_shape or output.shape[1:]
        if output.ndim < 2 or len(output) != rows or not fits(output.shape[1:], announced):
            expected = (rows, *(announced or ("...",)))
            raise WireError(f"expected logits of shape {expected}, got {output.shape}")
        self.output_shape = output.shape[1:]
        self.layout = codec.Layout.of(outputs[0], output) if alone else None
        return output


def agree(
    metadata: pb.ModelMetadataResponse,
    feature_shape: tuple[int, ...],
    *,
    input_name: str | None,
    output_name: str | None,
    pair: str | None,
    where: str,
) -> Agreement:
    """Checks a model's metadata against the encoder; what is not announced is taken on trust.

    Args:
        metadata: As the cloud announces it.
        feature_shape: What the encoder gives for one image, without the batch axis.
        input_name: None: the model's only input, as announced.
        output_name: None: its only output.
        pair: What both halves of the encoder's artifact have in common; None: not told.
        where: Model and address in words, for error messages.

    Raises:
        LookupError: There is no such input or output, or there are several and none was named.
        ValueError: It takes other features, is the half of another artifact, or announces no input and none is named.
    """
    check_pair(metadata.properties.get("pair"), pair, where)
    features = select(metadata.inputs, input_name, f"{where}: expected one input")
    logits = select(metadata.outputs, output_name, f"{where}: expected one output")
    if not features.name:
        raise ValueError(f"{where}: expected the name of the input, there or as input_name, got none")
    shape = tuple(features.shape[1:])
    if shape and not fits(feature_shape, shape):
        raise ValueError(f"{where}: expected the encoder's features {feature_shape}, got {shape}")
    return Agreement(features.name, logits.name, tuple(logits.shape[1:]))


def check_pair(told: str | None, pair: str | None, where: str) -> None:
    """Refuses the half of another artifact, as far as cloud and edge tell which theirs are of.

    Raises:
        ValueError: The cloud tells of another than the edge's ``pair``.
    """
    if pair and told and told != pair:
        raise ValueError(f"{where}: expected the other half of the encoder's artifact, got that of another one")
