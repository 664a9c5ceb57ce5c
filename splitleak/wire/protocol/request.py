"""Serialises inference requests; the part that successive requests share is serialised once."""

from dataclasses import fields, replace
from operator import attrgetter
from typing import Any

from splitleak.wire.protocol import codec
from splitleak.wire.protocol.codec import WireTensor
from splitleak.wire.protocol.pb import open_inference_pb2 as pb

_ID, _PARAMETERS, _RAW = b"\x1a", b"\x22", b"\x3a"  # fields 3, 4 and 7 of a ModelInferRequest, each with its length
_TIMEOUT = b"\x0a\x07timeout\x12"  # an entry of the parameters: the key, and the tag of its InferParameter
_DESCRIPTION = attrgetter(*(field.name for field in fields(WireTensor) if field.name != "raw"))
_INT64 = b"\x10"  # field 2 of an InferParameter


class RequestHead:
    """The serialised part of a ModelInferRequest that many requests share: model, input, datatype, shape, parameters.

    Protobuf merges concatenated messages and takes fields in any order, so id, timeout and tensor are appended to it.
    That copies the tensor once, where protobuf's own serialisation copies it three times.
    """

    def __init__(self, constant: pb.ModelInferRequest) -> None:
        """``constant`` is a request, whose id and raw contents are left out."""
        shared = pb.ModelInferRequest()
        shared.CopyFrom(constant)
        shared.ClearField("id")
        shared.ClearField("raw_input_contents")
        self._head = shared.SerializeToString()

    def message(self, raw: bytes, *, request_id: str, timeout_us: int | None = None) -> bytes:
        """Serialises a request with one raw input.

        Args:
            raw: The tensor's bytes.
            request_id: The request's id.
            timeout_us: Its parameter ``timeout`` in microseconds; None: without.
        """
        name = request_id.encode()
        limit: tuple[bytes, ...] = ()
        if timeout_us is not None:
            value = _INT64 + varint(timeout_us)
            entry = _TIMEOUT + varint(len(value)) + value
            limit = (_PARAMETERS, varint(len(entry)), entry)
        return b"".join((self._head, _ID, varint(len(name)), name, *limit, _RAW, varint(len(raw)), raw))


class RequestEncoder:
    """Serialises the requests of one client to one model; reuses the head while only the tensor's bytes change."""

    def __init__(self, model: str, input_name: str) -> None:
        self._model, self._input_name = model, input_name
        self._kept: tuple[Any, RequestHead] | None = None

    def message(self, tensor: WireTensor, *, request_id: str, timeout_us: int | None = None) -> bytes:
        """Serialises a request with ``tensor``; see `RequestHead.message`."""
        key = _DESCRIPTION(tensor)
        if self._kept is None or self._kept[0] != key:
            bare = replace(tensor, raw=b"")
            request = codec.request(self._model, bare, request_id="", input_name=self._input_name)
            self._kept = key, RequestHead(request)
        return self._kept[1].message(tensor.raw, request_id=request_id, timeout_us=timeout_us)


def varint(value: int) -> bytes:
    """Protobuf's variable-length encoding of ``value``, from 0 to 2^63 - 1."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
