"""The Open Inference Protocol over HTTP: the stub of gRPC's methods, for servers that speak JSON.

``GET /v2``, ``GET /v2/models/NAME`` and ``POST /v2/models/NAME/infer``; where the server announces
``binary_tensor_data``, tensors travel as bytes behind the JSON, in requests and answers. An HTTP status becomes gRPC's,
so that a caller handles both alike.
"""

import contextlib
import http.client
import json
import logging
import math
import selectors
import socket
import ssl
import time
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import grpc
import numpy as np

from splitleak.errors import WireError
from splitleak.wire.address import HttpAddress, is_loopback, parse_http
from splitleak.wire.client.channel import ChannelConfig
from splitleak.wire.protocol.pb import open_inference_pb2 as pb
from splitleak.wire.protocol.status import RETRY_PUSHBACK, error_of
from splitleak.wire.security import TlsClientConfig, read_token

_LOGGER = logging.getLogger(__name__)
_DTYPES = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
_LENGTH = "Inference-Header-Content-Length"
_BINARY = "binary_tensor_data"
_CHUNK = 2**16
_SAID = 300  # characters of a refusal that are quoted
_REFUSAL_BYTES = 2**16
_CODES: dict[int, grpc.StatusCode] = {
    HTTPStatus.UNAUTHORIZED: grpc.StatusCode.UNAUTHENTICATED,
    HTTPStatus.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    HTTPStatus.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    HTTPStatus.REQUEST_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    HTTPStatus.TOO_MANY_REQUESTS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.BAD_GATEWAY: grpc.StatusCode.UNAVAILABLE,
    HTTPStatus.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
}
Document = dict[str, Any]


class HttpError(grpc.RpcError):
    """A call that failed, with gRPC's status for it.

    Args:
        code: The status.
        details: Why.
        lasting: To try again does not help.
        wait_s: Seconds after which the server asks to be asked again; None: it does not say.
    """

    def __init__(self, code: grpc.StatusCode, details: str, *, lasting: bool = True, wait_s: int | None = None) -> None:
        super().__init__(details)
        self._code, self._details, self.lasting, self._wait_s = code, details, lasting, wait_s

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:  # noqa: ANN401  # pairs of strings, of which grpc's own type is private
        return () if self._wait_s is None else ((RETRY_PUSHBACK, str(1000 * self._wait_s)),)


@contextlib.contextmanager
def connect_http(address: str, config: ChannelConfig) -> Iterator["HttpStub"]:
    """A stub for the server at ``address``, which has answered when the block starts.

    A server that does not listen yet is waited for, which is logged.

    Args:
        address: ``http://HOST:PORT`` or ``https://HOST``, with a path before ``/v2`` where there is one.
        config: Timeouts, attempts, size of messages, TLS and token.

    Raises:
        ConnectionError: No server answered in time, or whoever answers is none for us.
        OSError: A file of the config cannot be read.
        ValueError: The address is invalid, or does not fit the config's TLS, or a token would be sent without.
        WireError: It answers with something else than the protocol.
    """
    stub = HttpStub(address, config)
    try:
        stub.wait()
        yield stub
    finally:
        stub.close()


class HttpStub:
    """ServerMetadata, ModelMetadata and ModelInfer over one HTTP connection. Not thread-safe."""

    def __init__(self, address: str, config: ChannelConfig) -> None:
        self._address, self._config, self._at = address, config, parse_http(address)
        if self._at.scheme == "http" and config.tls is not None:
            raise ValueError(f"expected https:// for a channel with TLS, got {address}")
        if config.token_file is not None and self._at.scheme == "http" and not is_loopback(self._at.target):
            raise ValueError(f"expected https:// for {address}, since a token would travel in clear")
        token = {} if config.token_file is None else {"Authorization": f"Bearer {read_token(config.token_file)}"}
        self._headers = {"Accept": "application/json, application/octet-stream", **token}
        self._connection, self._prefix, proxied = _connection(self._at, config)
        self._headers |= proxied
        self._extensions: tuple[str, ...] = ()
        self.sent_bytes = self.packing_ns = 0  # of the body of the last ModelInfer, and how long it took to make it

    def close(self) -> None:
        self._connection.close()

    def wait(self) -> None:
        """Asks for the server's metadata until it answers, as long as the config's ``connect_timeout_s``."""
        limit, told = self._config.connect_timeout_s, False
        deadline = time.monotonic() + limit
        while True:
            try:
                self._extensions = tuple(self.ServerMetadata(pb.ServerMetadataRequest(), limit).extensions)
                return
            except HttpError as error:
                if error.code() == grpc.StatusCode.NOT_FOUND:
                    return  # it has models, and says nothing of itself
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise error_of(error, f"metadata of the server at {self._address}") from None
                if error.lasting:
                    raise ConnectionError(f"expected a server at {self._address}, got {error.details()}") from None
                if time.monotonic() >= deadline:
                    got = f"no answer, but {error.details()}"
                    raise ConnectionError(
                        f"expected a server at {self._address} within {limit:g} s, got {got}"
                    ) from None
                if not told:
                    _LOGGER.warning("%s: %s; waiting for up to %g s", self._address, error.details(), limit)
                    told = True
                time.sleep(min(self._config.reconnect_max_ms / 1000, max(deadline - time.monotonic(), 0)))

    def ServerMetadata(self, request: pb.ServerMetadataRequest, timeout: float) -> pb.ServerMetadataResponse:
        """Name, version and extensions of the server."""
        document, _ = self._ask("GET", "/v2", timeout)
        return pb.ServerMetadataResponse(
            name=str(document.get("name", "")),
            version=str(document.get("version", "")),
            extensions=[str(each) for each in _list(document, "extensions", self._address)],
        )

    def ModelMetadata(self, request: pb.ModelMetadataRequest, timeout: float) -> pb.ModelMetadataResponse:
        """Inputs, outputs and properties of a model."""
        document, _ = self._ask("GET", f"/v2/models/{quote(request.name, safe='')}", timeout)
        metadata = pb.ModelMetadataResponse(name=request.name)
        for key, tensors in (("inputs", metadata.inputs), ("outputs", metadata.outputs)):
            for entry in _list(document, key, self._address):
                name, datatype, shape = _described(entry, self._address, least=-1)
                tensors.add(name=name, datatype=datatype, shape=shape)
        properties = document.get("properties") or document.get("parameters") or {}
        if isinstance(properties, dict):
            metadata.properties.update({str(key): str(value) for key, value in properties.items()})
        return metadata

    def ModelInfer(self, request: pb.ModelInferRequest, timeout: float) -> pb.ModelInferResponse:
        """The model's outputs as raw contents; of those that are not floating-point, name and shape alone."""
        path = f"/v2/models/{quote(request.model_name, safe='')}/infer"
        started = time.monotonic_ns()
        body, headers = self._request(request)
        self.sent_bytes, self.packing_ns = len(body), time.monotonic_ns() - started
        document, tail = self._ask("POST", path, timeout, body, headers)
        return self._response(document, tail)

    def _request(self, request: pb.ModelInferRequest) -> tuple[bytes, dict[str, str]]:
        """The body of a request with raw inputs, and its headers."""
        binary = _BINARY in self._extensions
        inputs: list[Document] = []
        for entry, raw in zip(request.inputs, request.raw_input_contents, strict=True):
            told: Document = {"name": entry.name, "datatype": entry.datatype, "shape": list(entry.shape)}
            if binary:
                told["parameters"] = {"binary_data_size": len(raw)}
            elif entry.datatype == "FP16":
                raise ValueError(f"{self._address}: expected {_BINARY} of a server with inputs in FP16, got JSON alone")
            else:
                told["data"] = np.frombuffer(raw, _DTYPES[entry.datatype]).tolist()
            inputs.append(told)
        document: Document = {"id": request.id, "inputs": inputs}
        if not binary:
            return json.dumps(document).encode(), {"Content-Type": "application/json"}
        head = json.dumps({**document, "parameters": {"binary_data_output": True}}).encode()
        body = b"".join([head, *request.raw_input_contents])
        return body, {"Content-Type": "application/octet-stream", _LENGTH: str(len(head))}

    def _response(self, document: Document, tail: bytes) -> pb.ModelInferResponse:
        where = self._address
        response = pb.ModelInferResponse(model_name=str(document.get("model_name", "")), id=str(document.get("id", "")))
        place = 0
        for entry in _list(document, "outputs", where):
            name, datatype, shape = _described(entry, where, least=0)
            expected = f"{where}: expected output {name!r} of {datatype} {shape}"
            parameters = entry.get("parameters")
            size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
            raw = b""
            if size is not None:
                if not isinstance(size, int) or not 0 <= size <= len(tail) - place:
                    raise WireError(f"{expected} in {size!r:.40} bytes, got {len(tail) - place} behind the JSON")
                raw, place = tail[place : place + size], place + size
            elif datatype in _DTYPES:
                raw = _packed(entry.get("data"), datatype, shape, expected)
            response.outputs.add(name=name, datatype=datatype, shape=shape)
            response.raw_output_contents.append(raw)
        told = document.get("parameters")
        for key, value in (told if isinstance(told, dict) else {}).items():
            if isinstance(value, int) and abs(value) < 2**63:
                response.parameters[key].int64_param = value
        return response

    def _ask(
        self,
        method: str,
        path: str,
        timeout: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[Document, bytes]:
        """The JSON of an answer and the bytes behind it; tries again while the server is unavailable."""
        if body is not None and len(body) > self._config.max_message_bytes:
            raise ValueError(f"expected a message of at most {self._config.max_message_bytes} bytes, got {len(body)}")
        repeatable = body is None or len(body) <= self._config.retry_buffer_bytes
        attempts = self._config.attempts if repeatable else 1
        for attempt in range(attempts):
            try:
                return self._once(method, path, timeout, body, headers or {})
            except HttpError as error:
                last = error.lasting or error.code() != grpc.StatusCode.UNAVAILABLE or attempt == attempts - 1
                if last:
                    raise
            time.sleep(min(self._config.reconnect_min_ms * 2**attempt, self._config.reconnect_max_ms) / 1000)
        raise AssertionError("unreachable")

    def _once(
        self, method: str, path: str, timeout: float, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[Document, bytes]:
        deadline = time.monotonic() + timeout
        try:
            self._connection.timeout = min(timeout, self._config.handshake_s)
            if _is_over(self._connection.sock):
                self._connection.close()
            if self._connection.sock is None:
                self._connection.connect()
            self._connection.sock.settimeout(timeout)
            url = f"{self._prefix}{self._at.path}{path}"
            self._connection.request(method, url, body, {**self._headers, **headers})
            response = self._connection.getresponse()
            refused = response.status != HTTPStatus.OK
            received = _read(response, _REFUSAL_BYTES if refused else self._config.max_message_bytes, deadline, refused)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise _unreachable(error, self._at) from None
        except BaseException:
            self._connection.close()
            raise
        if refused:
            self._connection.close()  # there may be more than was read
            raise _refusal(response, received)
        return _parsed(response, received, f"{self._address}{path}")


def _is_over(connection: socket.socket | None) -> bool:
    """Whether a server has closed a connection that was idle, or says what was not asked for."""
    if connection is None:
        return False
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        return bool(selector.select(0))


class _Direct(http.client.HTTPConnection):
    """A connection that is wrapped in TLS, if asked for, behind a proxy's tunnel if there is one."""

    def __init__(self, place: tuple[str, int], tls: ssl.SSLContext | None, name: str) -> None:
        super().__init__(*place)
        self._tls, self._name = tls, name

    def connect(self) -> None:
        super().connect()
        if self._tls is not None:
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._name)


def _connection(at: HttpAddress, config: ChannelConfig) -> tuple[_Direct, str, dict[str, str]]:
    """The connection, what precedes a path in a request, and headers for a proxy."""
    tls = None
    name = at.host
    if at.scheme == "https":
        secured = config.tls or TlsClientConfig()
        tls, name = secured.context("http/1.1"), secured.server_name or at.host
    proxy = None if is_loopback(at.target) else urllib.request.getproxies().get(at.scheme)
    if proxy is None or urllib.request.proxy_bypass(at.host):
        return _Direct((at.host, at.port), tls, name), "", {}
    found = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    login = f"{unquote(found.username or '')}:{unquote(found.password or '')}"
    proved = {"Proxy-Authorization": f"Basic {b64encode(login.encode()).decode()}"} if found.username else {}
    connection = _Direct((found.hostname or "", found.port or 80), tls, name)
    if tls is None:
        return connection, f"http://{at.target}", proved
    connection.set_tunnel(at.host, at.port, proved)
    return connection, "", {}


def _read(response: http.client.HTTPResponse, limit: int, deadline: float, refused: bool) -> bytes:
    """The body, of at most ``limit`` bytes; of a refusal its beginning."""
    pieces, size = [], 0
    while piece := response.read1(_CHUNK):
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            if refused:
                return b"".join(pieces)
            raise WireError(f"expected an answer of at most {limit} bytes, got more")
        if time.monotonic() > deadline:
            raise TimeoutError
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    response.close()
    return b"".join(pieces)


def _unreachable(error: Exception, at: HttpAddress) -> HttpError:
    unavailable = grpc.StatusCode.UNAVAILABLE
    if isinstance(error, TimeoutError):
        return HttpError(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer in time", lasting=False)
    if isinstance(error, ssl.SSLCertVerificationError):
        return HttpError(unavailable, f"a certificate that is refused: {error.verify_message}")
    if isinstance(error, ssl.SSLError):
        without = error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
        return HttpError(unavailable, "a server without TLS" if without else f"a refusal of TLS: {error.reason}")
    if isinstance(error, socket.gaierror):
        return HttpError(unavailable, f"no host of the name {at.host!r} ({error.strerror})")
    if isinstance(error, ConnectionRefusedError):
        return HttpError(unavailable, "a refusal: nothing listens on this port", lasting=False)
    if isinstance(error, http.client.IncompleteRead | ConnectionError):
        return HttpError(unavailable, "a connection that was closed before the answer's end", lasting=False)
    if isinstance(error, http.client.HTTPException):
        said = " ".join(str(error).split())[:80]
        return HttpError(unavailable, f"no HTTP server (for gRPC, say HOST:PORT alone): {said!r}")
    reason = error.strerror if isinstance(error, OSError) else None
    return HttpError(unavailable, f"no connection: {reason or error}", lasting=False)


def _refusal(response: http.client.HTTPResponse, body: bytes) -> HttpError:
    """A status that is not 200, with what the server says of it."""
    said = body.decode("utf-8", "replace")
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(said)
        if isinstance(document, dict):
            said = str(document.get("error") or document.get("detail") or said)
    if 300 <= response.status < 400:
        said = f"to {response.headers.get('Location')}, which is not followed"
    invalid, internal = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL
    code = _CODES.get(response.status, invalid if 400 <= response.status < 500 else internal)
    details = f"{response.status} {response.reason}: {' '.join(said.split())[:_SAID]}"
    told = response.headers.get("Retry-After", "")
    wait_s = int(told[:9]) if told.isascii() and told.isdigit() else None
    return HttpError(code, details, lasting=code != grpc.StatusCode.UNAVAILABLE, wait_s=wait_s)


def _parsed(response: http.client.HTTPResponse, body: bytes, where: str) -> tuple[Document, bytes]:
    """The JSON of an answer, and what follows it where a header says how long it is."""
    told, kind = response.headers.get(_LENGTH), response.headers.get_content_type()
    if kind != "application/json" and (told is None or kind != "application/octet-stream"):
        raise WireError(f"{where}: expected JSON of the Open Inference Protocol, got {kind}: {body[:40]!r}")
    length = len(body)
    if told is not None:
        if not (told.isascii() and told.isdigit()) or int(told) > len(body):
            raise WireError(f"{where}: expected {_LENGTH} of at most {len(body)}, got {told[:40]!r}")
        length = int(told)
    try:
        document = json.loads(body[:length])
    except (ValueError, RecursionError) as error:
        raise WireError(f"{where}: expected JSON, but {error}") from None
    if not isinstance(document, dict):
        raise WireError(f"{where}: expected a JSON object, got a {type(document).__name__}")
    return document, body[length:]


def _list(document: Document, key: str, where: str) -> list[Any]:
    entries = document.get(key)
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise WireError(f"{where}: expected a list as {key}, got {entries!r:.80}")
    return entries


def _described(entry: Any, where: str, *, least: int) -> tuple[str, str, list[int]]:  # noqa: ANN401  # any JSON
    """Name, datatype and shape of a tensor, each size of at least ``least``."""
    if isinstance(entry, dict):
        name, datatype, shape = (entry.get(key) for key in ("name", "datatype", "shape"))
        sizes = isinstance(shape, list) and all(type(size) is int and least <= size < 2**63 for size in shape)
        if isinstance(name, str) and isinstance(datatype, str) and isinstance(shape, list) and sizes:
            return name, datatype, shape
    raise WireError(f"{where}: expected a tensor with name, datatype and shape, got {entry!r:.80}")


def _packed(data: object, datatype: str, shape: list[int], expected: str) -> bytes:
    """The bytes of a tensor whose values are a JSON list, flat or nested."""
    try:
        values = np.asarray(data)
    except ValueError:  # rows of different lengths
        raise WireError(f"{expected}, got rows of different lengths") from None
    if values.dtype.kind not in "iuf" or values.size != math.prod(shape):
        raise WireError(f"{expected} as numbers, got {values.size} values, such as {data!r:.40}")
    with np.errstate(over="ignore"):
        return values.astype(_DTYPES[datatype]).tobytes()
