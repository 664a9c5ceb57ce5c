"""A model's metadata, and which of the tensors that it announces a client uses."""

import logging
import time
from collections.abc import Iterable

import grpc

from splitleak.wire.client.pushback import answered
from splitleak.wire.client.rest import HttpStub
from splitleak.wire.protocol.pb import open_inference_pb2 as pb
from splitleak.wire.protocol.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from splitleak.wire.protocol.status import error_of

Tensor = pb.ModelMetadataResponse.TensorMetadata


_RETRY_S = 0.2

_LOGGER = logging.getLogger(__name__)


def read_metadata(
    server: grpc.Channel | HttpStub, model: str, *, where: str, timeout_s: float, patience_s: float = 0.0
) -> pb.ModelMetadataResponse:
    """Asks the server for the metadata of ``model``.

    What stands between may be up before the server is, and then answers that it is unavailable.

    Args:
        server: A channel to it, or its stub over HTTP.
        model: Its name.
        where: Model and address in words, for error messages.
        timeout_s: Seconds until the request counts as unanswered.
        patience_s: Seconds for which an unavailable server is asked again.

    Raises:
        LookupError: There is no such model.
        ConnectionError, TimeoutError: The server cannot be asked.
    """
    request = pb.ModelMetadataRequest(name=model)
    stub = server if isinstance(server, HttpStub) else GRPCInferenceServiceStub(server)
    end, told = time.monotonic() + patience_s, False
    while True:
        try:
            metadata: pb.ModelMetadataResponse = answered(
                lambda: stub.ModelMetadata(request, timeout=timeout_s), timeout_s
            )
        except grpc.RpcError as error:
            refused = error_of(error, f"metadata of {where}")
            if error.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() >= end:
                raise refused from None
            if not told:
                _LOGGER.warning("%s; asked again for %g s", refused, patience_s)
            told = True
            time.sleep(_RETRY_S)
        else:
            return metadata


def select(announced: Iterable[Tensor], name: str | None, expected: str) -> Tensor:
    """The announced tensor called ``name``, or the only one; ``name`` is taken on trust where none is announced.

    Args:
        announced: The inputs or the outputs of a ModelMetadataResponse; shapes include the batch axis.
        name: None for a model with one such tensor.
        expected: Begins the error message.

    Raises:
        LookupError: There is none of that name, or there are several and none was named.
    """
    tensors = {tensor.name: tensor for tensor in announced}
    if not tensors:
        return Tensor(name=name or "")
    if name is None and len(tensors) == 1:
        return next(iter(tensors.values()))
    if name not in tensors:
        raise LookupError(f"{expected}{'' if name is None else f' {name!r}'}, got {list(tensors)}")
    return tensors[name]
