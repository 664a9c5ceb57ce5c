"""Why a server cannot be reached: gRPC itself says no more than that a channel is not ready."""

import os
import socket
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from splitleak.wire.address import Address, is_loopback, socket_address
from splitleak.wire.security import TlsClientConfig

_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")  # which gRPC reads, in this order
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # and empty settings
_SETTINGS, _ALERT = 4, b"\x15\x03"


_WANTS_TLS = "a server that wants TLS"


@dataclass(frozen=True)
class Obstacle:
    """Why there is no connection; ``lasting``: waiting for the server does not help."""

    reason: str
    lasting: bool


_HUNG_UP = Obstacle("a connection that was closed unanswered", False)


def obstacle(address: str, tls: TlsClientConfig | None, timeout_s: float) -> Obstacle | None:
    """What a connection of our own runs into; None: nothing that it would tell, or it is not gRPC's way.

    Args:
        address: The target.
        tls: As of the channel.
        timeout_s: Seconds for each step.
    """
    place = socket_address(address)
    if place is None or proxy_of(address) is not None:
        return None
    try:
        with socket.create_connection(place, timeout_s) as connection:
            found = _spoken(connection, tls, place.host)
        return Obstacle(_WANTS_TLS, True) if found is _HUNG_UP and _speaks_tls(place, timeout_s) else found
    except socket.gaierror as error:
        return Obstacle(f"no host of the name {place.host!r} ({error.strerror})", True)
    except ConnectionRefusedError:
        return Obstacle("a refusal: nothing listens on this port", False)
    except TimeoutError:
        return None
    except OSError as error:
        return Obstacle(f"no connection: {error.strerror or error}", False)


def proxy_of(address: str) -> str | None:
    """The proxy that gRPC takes to an address, with the variable that names it, without its password; or None."""
    if is_loopback(address):
        return None  # `open_channel` goes there directly
    for name in _PROXIES:
        if value := os.environ.get(name):
            found = urlsplit(value if "//" in value else f"//{value}")
            return f"{found.hostname}:{found.port} ({name})"
    return None


def _spoken(connection: socket.socket, tls: TlsClientConfig | None, host: str) -> Obstacle | None:
    """What is wrong with whoever answers."""
    if tls is None:
        answer = _first_bytes(connection)
        if answer.startswith((b"HTTP/1", b"<")):  # to the preface some answer by a page without a header
            return Obstacle("an HTTP/1 server, which speaks no gRPC", True)
        if answer.startswith(_ALERT):
            return Obstacle(_WANTS_TLS, True)
        if len(answer) > 3 and answer[3] == _SETTINGS:
            return None
        if not answer:
            return _HUNG_UP
        return Obstacle(f"a server of another protocol, which says {answer!r}", True)
    try:
        with tls.context().wrap_socket(connection, server_hostname=tls.server_name or host) as wrapped:
            if _first_bytes(wrapped):
                return None
            shown = "this" if tls.certificate else "no"
            return Obstacle(f"a server that hangs up on a client with {shown} certificate", True)
    except ssl.SSLCertVerificationError as error:
        return Obstacle(f"a certificate that is refused: {error.verify_message}", True)
    except ssl.SSLError as error:
        if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
            return Obstacle("a server without TLS", True)
        lasting = not isinstance(error, ssl.SSLEOFError)
        return Obstacle(f"a refusal of TLS: {(error.reason or str(error)).replace('_', ' ').lower()}", lasting)
    except ConnectionError:
        return Obstacle("a connection that was closed: the server may have no TLS, or want a certificate", False)


def _speaks_tls(place: Address, timeout_s: float) -> bool:
    """Whether a server takes part in a handshake, with whatever certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection(place, timeout_s) as connection, context.wrap_socket(connection):
            return True
    except OSError:
        return False


def _first_bytes(connection: socket.socket) -> bytes:
    """What a server says to the preface of HTTP/2; empty if it hangs up."""
    try:
        connection.sendall(_PREFACE)
        return connection.recv(16)
    except (ConnectionError, BrokenPipeError):
        return b""
