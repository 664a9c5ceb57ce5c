"""Tensor codecs, and tensors in messages of the Open Inference Protocol.

``fp32`` is exact; ``fp16`` takes half the bytes, with a relative error below 2^-11, or of values below 2^-14 an error
of at most 2^-25; ``uint8`` takes a quarter of them, quantised with scale and zero point over the range of each tensor,
with an error of at most half a step (int8 would be the same under another name). ``fp16+deflate`` and ``uint8+deflate``
compress these bytes where that makes them fewer; message lengths then depend on the contents, which TLS does not hide.
Any bytes decode to an array or raise a `WireError`.
"""

import math
import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitleak.errors import WireError
from splitleak.wire.protocol import CODECS
from splitleak.wire.protocol.pb import open_inference_pb2 as pb

FloatArray = NDArray[np.float32]

DATATYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "FP16": np.dtype("<f2"), "UINT8": np.dtype("u1")}
MAX_AXES = 16
MAX_INFLATED_BYTES = 64 * 1024 * 1024  # as for an uncompressed message
DEFLATE = "deflate"
HALVED = "fp16"
_DEFLATE_LEVEL = 1  # on features, level 9 saves 1 % more bytes in twice the time and longer
_TYPED_CONTENTS = {"FP32": "fp32_contents", "UINT8": "uint_contents"}  # the protocol has no such field for FP16


@dataclass(frozen=True)
class WireTensor:
    """An encoded tensor: little-endian bytes in C order, and scale and zero point if it is quantised.

    ``encoding`` is None, "deflate" (RFC 1950) if ``raw`` is compressed, or "fp16" where values of an FP32 tensor travel
    as FP16.
    """

    datatype: str
    shape: tuple[int, ...]
    raw: bytes
    scale: float | None = None
    zero_point: float | None = None
    encoding: str | None = None


@dataclass(frozen=True)
class Layout:
    """A validated description of a plain FP32 tensor: ``entry`` is its input or output message."""

    entry: Any
    shape: tuple[int, ...]
    size: int  # bytes

    @classmethod
    def of(cls, entry: Any, values: FloatArray) -> "Layout | None":  # noqa: ANN401
        """The layout of ``entry``, which `decode` gave ``values`` for; None if it is not plain FP32."""
        if entry.datatype != "FP32" or entry.parameters or entry.HasField("contents"):
            return None
        kept = type(entry)()
        kept.CopyFrom(entry)  # the entry itself would keep its whole message in memory
        return cls(kept, values.shape, values.nbytes)

    def read(self, entry: Any, raw: bytes) -> FloatArray | None:  # noqa: ANN401
        """Decodes ``raw`` if ``entry`` has this layout; None: it needs `decode`."""
        if entry != self.entry or len(raw) != self.size:
            return None
        return np.frombuffer(raw, DATATYPES["FP32"]).reshape(self.shape)


def encode(values: FloatArray, codec: str) -> WireTensor:
    """Encodes ``values``, of any shape with at least one element, by one of `CODECS`.

    Raises:
        ValueError: An unknown codec, no values, a value that is not finite, or one beyond FP16's range (65504).
    """
    encoder = CODECS.choose(codec)
    if values.size == 0:
        raise ValueError(f"expected at least one value, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"expected finite values, got {np.count_nonzero(~np.isfinite(values))} that are not")
    return encoder(values)


def encode_fp32(values: FloatArray) -> WireTensor:
    """32-bit floating point: exact, four bytes a value."""
    return WireTensor("FP32", values.shape, values.astype(DATATYPES["FP32"], copy=False).tobytes())


def encode_fp16(values: FloatArray) -> WireTensor:
    """16-bit floating point: two bytes a value up to 65504, with a relative error below 2^-11.

    Of values below 2^-14 the error is at most 2^-25: what is as slight as 1e-8 arrives as zero.
    """
    with np.errstate(over="ignore"):
        packed = values.astype(DATATYPES["FP16"])
    if not np.isfinite(packed).all():
        raise ValueError(f"expected values within ±65504 for fp16, got {np.abs(values).max()}")
    return WireTensor("FP16", values.shape, packed.tobytes(), encoding=HALVED)


def encode_uint8(values: FloatArray) -> WireTensor:
    """8-bit integers over the tensor's own range: one byte a value, with an error of at most half a step.

    code = round(value / scale + zero_point), with scale = range / 255. Where 0 is in the range the zero point is
    whole, so that 0, which a dropout leaves, arrives as 0.
    """
    low, high = float(values.min()), float(values.max())
    scale = (high - low) / 255 or 1.0  # a constant tensor has no range; any step restores its value
    zero_point = exact = -low / scale
    if low < 0 <= high:
        zero_point = float(round(exact))
    codes = np.rint((values.astype(np.float64) - low) / scale + (zero_point - exact)).clip(0, 255).astype(np.uint8)
    return WireTensor("UINT8", values.shape, codes.tobytes(), scale, zero_point)


def encode_fp16_deflate(values: FloatArray) -> WireTensor:
    """As fp16, then compressed without loss (deflate) where that makes the message smaller."""
    return _deflate(encode_fp16(values))


def encode_uint8_deflate(values: FloatArray) -> WireTensor:
    """As uint8, then compressed without loss (deflate) where that makes the message smaller."""
    return _deflate(encode_uint8(values))


def _deflate(tensor: WireTensor) -> WireTensor:
    packed = zlib.compress(tensor.raw, _DEFLATE_LEVEL)
    return replace(tensor, raw=packed, encoding=DEFLATE) if len(packed) < len(tensor.raw) else tensor


def decode(tensor: WireTensor) -> FloatArray:
    """Decodes a tensor to float32 in its shape; FP32 is a read-only view of the bytes, not a copy.

    It inflates no more bytes than the shape needs, and at most `MAX_INFLATED_BYTES`.

    Raises:
        WireError: Datatype, shape, number of bytes, encoding and quantisation are inconsistent.
    """
    dtype = DATATYPES.get(tensor.datatype)
    if dtype is None:
        raise WireError(f"expected datatype {', '.join(DATATYPES)}, got {tensor.datatype!r}")
    if len(tensor.shape) > MAX_AXES:
        raise WireError(f"expected at most {MAX_AXES} axes, got {len(tensor.shape)}")
    if min(tensor.shape, default=0) < 0:
        raise WireError(f"expected no negative size, got shape {list(tensor.shape)}")
    expected = math.prod(tensor.shape) * dtype.itemsize
    plain = tensor.encoding is None or (tensor.encoding == HALVED and tensor.datatype == "FP16")
    raw = tensor.raw if plain else _inflate(tensor, expected)
    if len(raw) != expected:
        raise WireError(
            f"expected {expected} bytes for {tensor.datatype} of shape {list(tensor.shape)}, got {len(raw)}"
        )
    try:
        stored = np.frombuffer(raw, dtype).reshape(tensor.shape)
    except ValueError:  # no elements, but sizes beyond numpy's
        raise WireError(f"expected the shape of an array, got {list(tensor.shape)}") from None
    if tensor.datatype == "UINT8":
        return _dequantise(stored, tensor.scale, tensor.zero_point)
    if tensor.datatype == "FP16":
        with np.errstate(invalid="ignore"):  # NaN stays NaN
            return stored.astype(np.float32)
    stored.setflags(write=False)
    return stored


def _inflate(tensor: WireTensor, expected: int) -> bytes:
    """Inflates ``tensor.raw``, to at most one byte over ``expected``."""
    if tensor.encoding != DEFLATE:
        raise WireError(f"expected no encoding or {DEFLATE!r}, got {tensor.encoding!r}")
    if expected > MAX_INFLATED_BYTES:
        raise WireError(f"expected at most {MAX_INFLATED_BYTES} bytes to inflate, got shape {list(tensor.shape)}")
    inflater = zlib.decompressobj()
    try:
        raw = inflater.decompress(tensor.raw, expected + 1)
    except zlib.error as error:
        raise WireError(f"expected bytes packed by {DEFLATE}, but {error}") from None
    if len(raw) == expected and not (inflater.eof and not inflater.unused_data):
        raise WireError(f"expected {DEFLATE} to end with its {expected} bytes, got {len(tensor.raw)} that do not")
    return raw


def _dequantise(codes: NDArray[np.uint8], scale: float | None, zero_point: float | None) -> FloatArray:
    if scale is None and zero_point is None:
        return codes.astype(np.float32)
    if scale is None or zero_point is None:
        raise WireError(f"expected scale and zero_point together, got scale={scale} and zero_point={zero_point}")
    if not (math.isfinite(scale) and scale > 0 and math.isfinite(zero_point)):
        raise WireError(f"expected scale > 0 and zero_point, both finite, got {scale} and {zero_point}")
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        levels = ((np.arange(256) - zero_point) * scale).astype(np.float32)
    if not np.isfinite(levels).all():
        raise WireError(f"expected a scale and zero_point within float32's range, got {scale} and {zero_point}")
    return np.take(levels, codes)


def request(
    model: str, tensor: WireTensor, *, request_id: str, input_name: str = "features", version: str = ""
) -> pb.ModelInferRequest:
    """Builds a ModelInferRequest with one raw input.

    Args:
        model: The model's name.
        tensor: The encoded input.
        request_id: The request's id.
        input_name: The input's name.
        version: The model's version; empty: the server's choice.
    """
    entry = pb.ModelInferRequest.InferInputTensor(name=input_name, datatype=tensor.datatype, shape=tensor.shape)
    for name, value in (("scale", tensor.scale), ("zero_point", tensor.zero_point)):
        if value is not None:
            entry.parameters[name].double_param = value
    if tensor.encoding is not None:
        entry.parameters["encoding"].string_param = tensor.encoding
    return pb.ModelInferRequest(
        model_name=model, model_version=version, id=request_id, inputs=[entry], raw_input_contents=[tensor.raw]
    )


def request_tensor(request: pb.ModelInferRequest) -> WireTensor:
    """The first input of a request, raw or typed; `decode` validates it.

    Raises:
        WireError: No input, raw and typed contents together, or contents that do not fit the datatype.
    """
    inputs = request.inputs
    if not inputs:
        raise WireError("expected at least one input, got none")
    return _tensor(inputs[0], request.raw_input_contents[:1])


def response_array(response: pb.ModelInferResponse, name: str) -> FloatArray:
    """The output called ``name``, decoded.

    Raises:
        WireError: No such output, or contents that do not fit it.
    """
    for index, entry in enumerate(response.outputs):
        if entry.name == name:
            return decode(_tensor(entry, response.raw_output_contents[index : index + 1]))
    raise WireError(f"expected output {name!r}, got {[entry.name for entry in response.outputs]}")


def _tensor(entry: Any, raw: Any) -> WireTensor:  # noqa: ANN401  # an input or output message, at most one buffer
    """The tensor of an input or output message; typed contents are packed into bytes."""
    if raw and not entry.parameters and not entry.HasField("contents"):  # the common case
        return WireTensor(entry.datatype, tuple(entry.shape), raw[0])
    typed: dict[str, Any] = {}
    if entry.HasField("contents"):
        typed = {field.name: values for field, values in entry.contents.ListFields()}
    if raw and typed:
        raise WireError(f"expected raw or typed contents for {entry.name!r}, got both")
    packed = raw[0] if raw else _pack(entry, typed)
    scale, zero_point = (_parameter(entry, name, "double_param") for name in ("scale", "zero_point"))
    encoding = _parameter(entry, "encoding", "string_param")
    return WireTensor(entry.datatype, tuple(entry.shape), packed, scale, zero_point, encoding)


def _pack(entry: Any, typed: dict[str, Any]) -> bytes:  # noqa: ANN401
    field = _TYPED_CONTENTS.get(entry.datatype)
    if set(typed) - {field}:
        raise WireError(
            f"expected {entry.datatype!r} of {entry.name!r} in {field or 'raw contents'}, got {sorted(typed)}"
        )
    values = typed.get(field or "", ())
    if entry.datatype == "UINT8" and values and max(values) > 255:
        raise WireError(f"expected values from 0 to 255 for UINT8, got {max(values)}")
    return np.asarray(values, DATATYPES.get(entry.datatype, np.float32)).tobytes()


def _parameter(entry: Any, name: str, kind: str) -> Any:  # noqa: ANN401  # as ``kind`` says, or None
    if name not in entry.parameters:
        return None
    choice = entry.parameters[name].WhichOneof("parameter_choice")
    if choice != kind:
        raise WireError(f"expected parameter {name!r} of {entry.name!r} as {kind}, got {choice}")
    return getattr(entry.parameters[name], kind)
