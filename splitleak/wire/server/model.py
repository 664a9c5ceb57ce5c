"""A served model: its names and shapes, the function that computes it, its metadata and its statistics."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitleak.wire.protocol import CODECS, codec
from splitleak.wire.protocol.answer import Answer
from splitleak.wire.protocol.pb import open_inference_pb2 as pb
from splitleak.wire.server.statistics import Statistics

_SHARED_MEMORY = "shared_memory_region"  # Triton's parameter
_MESSAGE_SLACK = 2**20  # bytes of names and parameters


@dataclass(frozen=True)
class ServedModel:
    """A model and how it is computed; shapes are without the batch axis.

    ``submit`` takes a float32 batch ``(N, *input_shape)``, which may be read-only, the request's id and the seconds to
    its deadline. It never computes in the calling thread: it returns a future at once, or raises `queue.Full`. Each
    execution is to be recorded in ``statistics``.
    """

    name: str
    platform: str
    input_name: str
    input_shape: tuple[int, ...]
    output_name: str
    output_shape: tuple[int, ...]
    max_batch_size: int
    submit: Callable[[NDArray[np.float32], str, float], Future[Answer]]
    version: str = "1"
    codecs: Sequence[str] = tuple(CODECS)  # how inputs may travel, of `CODECS`
    properties: Mapping[str, str] = field(default_factory=dict)
    statistics: Statistics = field(default_factory=Statistics)

    @property
    def request_bytes(self) -> int:
        """The largest message to accept: twice the largest valid one, so that most others are told what is wrong."""
        return 2 * 4 * self.max_batch_size * math.prod(map(abs, self.input_shape)) + _MESSAGE_SLACK

    def tensor(self, request: pb.ModelInferRequest) -> codec.WireTensor:
        """The request's input, once its name and shape are checked.

        Raises:
            ValueError: Another input or output than the model's, another shape or datatype, or what goes beyond them.
        """
        inputs = request.inputs
        entries: tuple[Any, ...] = (*inputs, *request.outputs)
        if any(_SHARED_MEMORY in entry.parameters for entry in entries):
            raise ValueError("expected tensors in the messages themselves, got shared memory, which is not served here")
        if len(inputs) != 1 or inputs[0].name != self.input_name:
            raise ValueError(f"expected one input {self.input_name!r}, got {[entry.name for entry in inputs]}")
        if len(request.raw_input_contents) > len(inputs):
            got = len(request.raw_input_contents)
            raise ValueError(f"expected at most one raw buffer for {self.input_name!r}, got {got}")
        for output in request.outputs or ():
            if output.name != self.output_name or output.parameters:
                raise ValueError(
                    f"expected output {self.output_name!r} without parameters, "
                    f"got {output.name!r} with {sorted(output.parameters)}"
                )
        tensor = codec.request_tensor(request)
        shape = tensor.shape
        if not shape or shape[1:] != self.input_shape or not 1 <= shape[0] <= self.max_batch_size:
            sizes = ", ".join(map(str, ("N", *self.input_shape)))
            raise ValueError(
                f"expected shape ({sizes}) with N from 1 to {self.max_batch_size} for {self.input_name!r}, "
                f"got {shape[: codec.MAX_AXES]}"
            )
        self._check_datatype(tensor)
        return tensor

    def _check_datatype(self, tensor: codec.WireTensor) -> None:
        """Refuses a datatype that is not the input's own, nor one that a codec packs it in and says so."""
        packed = {"FP16": "fp16", "UINT8": "uint8"}.get(tensor.datatype)
        if packed is None:
            return  # FP32, or what `codec.decode` refuses
        expected = f"expected datatype FP32 for {self.input_name!r}"
        if packed not in self.codecs:
            raise ValueError(f"{expected}, got {tensor.datatype}")
        if tensor.datatype == "UINT8" and tensor.scale is None and tensor.zero_point is None:
            raise ValueError(f"{expected}, or UINT8 quantised with scale and zero_point, got UINT8 without")
        if tensor.datatype == "FP16" and tensor.encoding is None:
            raise ValueError(f"{expected}, or FP16 with parameter encoding {codec.HALVED!r}, got FP16 without")

    def metadata(self) -> pb.ModelMetadataResponse:
        """The protocol's model metadata; shapes with the batch axis, properties with the facts about the split."""
        limits = {"codecs": json.dumps(list(self.codecs)), "max_batch_size": str(self.max_batch_size)}
        return pb.ModelMetadataResponse(
            name=self.name,
            versions=[self.version],
            platform=self.platform,
            inputs=[{"name": self.input_name, "datatype": "FP32", "shape": (-1, *self.input_shape)}],
            outputs=[{"name": self.output_name, "datatype": "FP32", "shape": (-1, *self.output_shape)}],
            properties={**self.properties, **limits},
        )

    def config(self) -> pb.ModelConfig:
        """Triton's model configuration, without the batch axis, as for a model that batches."""
        return pb.ModelConfig(
            name=self.name,
            platform=self.platform,
            backend="splitleak",
            max_batch_size=self.max_batch_size,
            input=[{"name": self.input_name, "data_type": pb.TYPE_FP32, "dims": self.input_shape}],
            output=[{"name": self.output_name, "data_type": pb.TYPE_FP32, "dims": self.output_shape}],
        )

    def model_statistics(self) -> pb.ModelStatistics:
        """Triton's model statistics, summed over all clients."""
        counts = self.statistics.snapshot()
        parts = {
            "success": (counts.succeeded, counts.success_ns),
            "fail": (counts.failed, counts.fail_ns),
            "queue": (counts.computed, counts.queue_ns),
            "compute_input": (counts.computed, counts.input_ns),
            "compute_infer": (counts.computed, counts.infer_ns),
            "compute_output": (counts.computed, counts.output_ns),
        }
        return pb.ModelStatistics(
            name=self.name,
            version=self.version,
            last_inference=counts.last_ms,
            inference_count=counts.rows,
            execution_count=counts.executions,
            inference_stats={name: {"count": count, "ns": ns} for name, (count, ns) in parts.items()},
        )
