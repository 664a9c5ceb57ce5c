"""Authentication: TLS certificates on both sides, and a bearer token for each client.

A client sends its token in the metadata of each call, ``authorization: Bearer TOKEN``. The server stores only SHA-256
digests. Tokens and keys are read from files, never from the command line or the environment; configurations and error
messages contain only the files' names.
"""

import hashlib
import hmac
import logging
import os
import re
import secrets
import ssl
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import grpc
from pydantic import Field, model_validator

from splitleak.config import Config, read_document
from splitleak.outputs import check_json_name, locked

_LOGGER = logging.getLogger(__name__)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_WORD = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}")  # the alphabet of bearer tokens
_PATHS = frozenset({"certificate", "key", "client_ca", "ca", "tokens_file", "token_file"})
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_OTHER_WRITER_S = 10.0


class TlsServerConfig(Config):
    """A server's certificate; ``client_ca`` turns on mutual TLS. All files are PEM."""

    certificate: Path = Field(description="the server's certificate chain")
    key: Path = Field(description="its private key, unencrypted")
    client_ca: Path | None = Field(default=None, description="CAs of clients; none: no client certificates")

    def credentials(self) -> grpc.ServerCredentials:
        """The credentials for `grpc.Server.add_secure_port`.

        Raises:
            OSError: A file cannot be read.
            ValueError: A file is not PEM, or the key does not belong to the certificate.
        """
        pair = _key_and_certificate(self.key, self.certificate)
        authorities = None if self.client_ca is None else _authorities(self.client_ca)
        return grpc.ssl_server_credentials([pair], authorities, require_client_auth=authorities is not None)


class TlsClientConfig(Config):
    """The authorities that a client trusts, and its own certificate for mutual TLS. All files are PEM."""

    ca: Path | None = Field(default=None, description="trusted CA certificates; none: gRPC's public ones")
    certificate: Path | None = Field(default=None, description="the client's certificate, for mutual TLS")
    key: Path | None = Field(default=None, description="its private key, unencrypted")
    server_name: str | None = Field(
        default=None,
        min_length=1,
        description="the certificate's name; none: the host",
    )

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("expected a certificate and a key together, got one of them")
        return self

    def credentials(self) -> grpc.ChannelCredentials:
        """The credentials for `grpc.secure_channel`; errors as of `TlsServerConfig`."""
        authorities = None if self.ca is None else _authorities(self.ca)
        if self.certificate is None or self.key is None:
            return grpc.ssl_channel_credentials(authorities)
        key, chain = _key_and_certificate(self.key, self.certificate)
        return grpc.ssl_channel_credentials(authorities, key, chain)

    def context(self, protocol: str = "h2") -> ssl.SSLContext:
        """The same for a connection of Python's own, which says more about a refusal than gRPC."""
        context = ssl.create_default_context(cafile=self.ca)
        context.set_alpn_protocols([protocol])
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key, password="")
        return context


class Tokens:
    """The known clients of a server, with the SHA-256 of their tokens."""

    def __init__(self, digests: Mapping[str, bytes]) -> None:
        self._digests = dict(digests)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a JSON or TOML file that maps client names to SHA-256 digests in hexadecimal.

        Raises:
            OSError: The file cannot be read.
            ValueError: It holds something else, or no client; its contents are not quoted.
        """
        document = read_document(path)
        if not isinstance(document, dict) or not document:
            raise ValueError(f"{path}: expected at least one client's name with the SHA-256 of its token")
        for place, digest in enumerate(document.values(), start=1):
            if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
                raise ValueError(f"{path}: expected the SHA-256 of a token as 64 hexadecimal digits in entry {place}")
        return cls({name: bytes.fromhex(digest) for name, digest in document.items()})

    def client(self, token: str) -> str | None:
        """The client with this token, None if there is none; constant-time."""
        presented, client = hashlib.sha256(token.encode("utf-8", "replace")).digest(), None
        for name, digest in self._digests.items():
            if hmac.compare_digest(presented, digest):
                client = name
        return client


def read_token(path: Path) -> str:
    """Reads a client's token file, which holds nothing else.

    Raises:
        OSError: The file cannot be read.
        ValueError: It holds something else, which is not quoted.
    """
    word = path.read_bytes().strip().decode("ascii", "replace")
    _warn_of_readers(path)
    if not _WORD.fullmatch(word):
        raise ValueError(f"{path}: expected a token of 16 to 512 letters, digits and ._~+/=-, got something else")
    return word


def make_token(client: str, tokens: Path, out: Path) -> None:
    """Generates a token for a client; it replaces an earlier one once the server is restarted.

    Args:
        client: Its name: at most 64 letters, digits and ``._-``.
        tokens: The server's JSON file, which the SHA-256 is added to; of mode 600, too.
        out: The client's file, created with mode 600.

    Raises:
        BlockingIOError: Another process has been writing ``tokens`` for seconds.
        FileExistsError: ``out`` exists.
        ValueError: ``tokens`` is no JSON file, holds something else or is ``out``, or the name is invalid.
    """
    from splitleak.artifacts import write_json  # it imports torch, which no other use of this module needs

    if not _NAME.fullmatch(client):
        raise ValueError(f"expected a client's name of letters, digits and ._-, got {client!r}")
    check_json_name(tokens, "the server's tokens")
    if tokens.resolve() == out.resolve():
        raise ValueError(f"expected a file for the token of {client} beside the server's, got {out} for both")
    with locked(tokens.resolve(), _OTHER_WRITER_S):  # no client that another adds meanwhile is lost
        known = {}
        if tokens.exists():
            Tokens.read(tokens)
            known = read_document(tokens)
        word = secrets.token_urlsafe(32)
        if os.path.lexists(out):
            raise FileExistsError(f"expected a new file for the token of {client}, got {out}, which exists")
        with os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(word + "\n")
        known[client] = hashlib.sha256(word.encode()).hexdigest()
        write_json(tokens, known, private=True)


def read_beside(path: Path) -> dict[str, Any]:
    """Reads a server's or channel's settings; paths in them are relative to their file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no TOML or JSON table, or contains a token itself.
    """
    document = read_document(path)
    if not isinstance(document, dict):
        raise ValueError(f"{path}: expected a table of settings, got a {type(document).__name__}")
    if "token" in document:
        raise ValueError(f"{path}: expected token_file, the name of a file that holds the token, got the token itself")
    tables = [document, *(table for table in document.values() if isinstance(table, dict))]
    for table in tables:
        for key in _PATHS & table.keys():
            if isinstance(table[key], str):  # else it is none, or no path, which the config says
                table[key] = str(path.parent / table[key])
    return document


def _key_and_certificate(key: Path, certificate: Path) -> tuple[bytes, bytes]:
    """Reads and validates both; gRPC would accept invalid ones and then fail every handshake."""
    pair = key.read_bytes(), certificate.read_bytes()
    _warn_of_readers(key)
    try:
        # An empty password: OpenSSL would prompt for one.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        reason = error.reason or "not PEM"
        raise ValueError(f"expected a PEM certificate in {certificate} with its key in {key}, got {reason}") from None
    _warn_of_expiry(certificate, _decoded(certificate))
    return pair


def _authorities(path: Path) -> bytes:
    certificates = path.read_bytes()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ValueError(f"{path}: expected PEM certificates of authorities, got {error.reason or 'not PEM'}") from None
    for authority in context.get_ca_certs():
        _warn_of_expiry(path, authority)
    return certificates


def _decoded(certificate: Path) -> Mapping[str, Any]:
    """The fields of the first certificate in a PEM file; the standard library has no public function for it."""
    fields: Mapping[str, Any] = ssl._ssl._test_decode_cert(str(certificate))  # type: ignore[attr-defined]
    return fields


def _warn_of_readers(path: Path) -> None:
    if os.name == "posix" and path.stat().st_mode & stat.S_IROTH:
        _LOGGER.warning("%s: a secret that every user of this machine can read; `chmod 600` makes it yours alone", path)


def _warn_of_expiry(path: Path, certificate: Mapping[str, Any]) -> None:
    for key, said, sign in (
        ("notAfter", "has expired: it was valid until", 1),
        ("notBefore", "is not valid before", -1),
    ):
        if sign * (time.time() - ssl.cert_time_to_seconds(certificate[key])) > 0:
            _LOGGER.warning("%s: the certificate %s %s, and will be refused", path, said, certificate[key])
