"""Who is at the other end: TLS on both sides, and a token a client.

A token is a secret word that a client shows in the metadata of each call, ``authorization: Bearer WORD``. The server
keeps only the SHA-256 of each. Both are read from files, never from a command line or an environment, and neither a
configuration nor an error message holds more than the files' names.
"""

import hashlib
import hmac
import os
import re
import secrets
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import grpc
from pydantic import Field, model_validator

from splitleak.config import Config, read_document

_DIGEST = re.compile(r"[0-9a-f]{64}")
_WORD = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}")  # what a bearer token may hold
_PATHS = frozenset({"certificate", "key", "client_ca", "ca", "tokens_file", "token_file"})
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class TlsServerConfig(Config):
    """A server's certificate; with ``client_ca`` also what its clients must show (mutual TLS). All files are PEM."""

    certificate: Path = Field(description="the server's certificate, and those between it and its authority")
    key: Path = Field(description="its private key, without a password")
    client_ca: Path | None = Field(default=None, description="authorities of the clients; none: any client may come")

    def credentials(self) -> grpc.ServerCredentials:
        """What `grpc.Server.add_secure_port` takes.

        Raises:
            OSError: A file cannot be read.
            ValueError: A file holds something else, or the key is another certificate's.
        """
        pair = _key_and_certificate(self.key, self.certificate)
        authorities = None if self.client_ca is None else _authorities(self.client_ca)
        return grpc.ssl_server_credentials([pair], authorities, require_client_auth=authorities is not None)


class TlsClientConfig(Config):
    """Whom a client trusts, and what it shows of itself to a server that asks. All files are PEM."""

    ca: Path | None = Field(default=None, description="authorities that are trusted; none: gRPC's public ones")
    certificate: Path | None = Field(default=None, description="the client's certificate, for mutual TLS")
    key: Path | None = Field(default=None, description="its private key, without a password")
    server_name: str | None = Field(
        default=None, min_length=1, description="the name that the server's certificate must have; none: the address'"
    )

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("expected a certificate and a key together, got one of them")
        return self

    def credentials(self) -> grpc.ChannelCredentials:
        """What `grpc.secure_channel` takes.

        Raises:
            OSError: A file cannot be read.
            ValueError: A file holds something else, or the key is another certificate's.
        """
        authorities = None if self.ca is None else _authorities(self.ca)
        if self.certificate is None or self.key is None:
            return grpc.ssl_channel_credentials(authorities)
        key, chain = _key_and_certificate(self.key, self.certificate)
        return grpc.ssl_channel_credentials(authorities, key, chain)


class Tokens:
    """The clients of a server, by the SHA-256 of their tokens."""

    def __init__(self, digests: Mapping[str, bytes]) -> None:
        self._digests = dict(digests)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a JSON or TOML file of client names, each with 64 hexadecimal digits.

        Raises:
            OSError: The file cannot be read.
            ValueError: It holds something else, or nobody; what it holds is not repeated.
        """
        document = read_document(path)
        if not isinstance(document, dict) or not document:
            raise ValueError(f"{path}: expected at least one client's name with the SHA-256 of its token")
        for place, digest in enumerate(document.values(), start=1):
            if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
                raise ValueError(f"{path}: expected the SHA-256 of a token as 64 hexadecimal digits in entry {place}")
        return cls({name: bytes.fromhex(digest) for name, digest in document.items()})

    def client(self, token: str) -> str | None:
        """Whose token it is, None if nobody's; takes as long for a wrong one as for a right one."""
        shown, found = hashlib.sha256(token.encode("utf-8", "replace")).digest(), None
        for name, digest in self._digests.items():
            if hmac.compare_digest(shown, digest):
                found = name
        return found


def read_token(path: Path) -> str:
    """The token in a client's file, which holds nothing else.

    Raises:
        OSError: The file cannot be read.
        ValueError: It holds something else, which is not repeated.
    """
    word = path.read_bytes().strip().decode("ascii", "replace")
    if not _WORD.fullmatch(word):
        raise ValueError(f"{path}: expected a token of 16 to 512 letters, digits and ._~+/=-, got something else")
    return word


def make_token(client: str, tokens: Path, out: Path) -> None:
    """Draws a token for ``client``: the word goes to ``out``, for its eyes alone, its SHA-256 to ``tokens``.

    A client that had one has no other any more, once the server is started again.

    Raises:
        FileExistsError: ``out`` is there already.
        ValueError: ``tokens`` is no JSON file, or holds something else; or the name is none.
    """
    from splitleak.artifacts import write_json  # it imports torch, which no other use of this module needs

    if not _NAME.fullmatch(client):
        raise ValueError(f"expected a client's name of letters, digits and ._-, got {client!r}")
    if tokens.suffix != ".json":
        raise ValueError(f"expected a .json file for the server's tokens, got {tokens}")
    known = {}
    if tokens.exists():
        Tokens.read(tokens)
        known = read_document(tokens)
    word = secrets.token_urlsafe(32)
    with os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(word + "\n")
    known[client] = hashlib.sha256(word.encode()).hexdigest()
    write_json(tokens, known)


def read_beside(path: Path) -> dict[str, Any]:
    """The document of a server's or a channel's settings; the files it names are looked for beside it.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no TOML or JSON table, or holds a token itself.
    """
    document = read_document(path)
    if not isinstance(document, dict):
        raise ValueError(f"{path}: expected a table of settings, got a {type(document).__name__}")
    if "token" in document:
        raise ValueError(f"{path}: expected token_file, the name of a file that holds the token, got the token itself")
    tables = [document, *(table for table in document.values() if isinstance(table, dict))]
    for table in tables:
        for key in _PATHS & table.keys():
            table[key] = str(path.parent / str(table[key]))
    return document


def _key_and_certificate(key: Path, certificate: Path) -> tuple[bytes, bytes]:
    """The bytes of both; gRPC itself would take bad ones and then serve nobody."""
    pair = key.read_bytes(), certificate.read_bytes()
    try:
        # A password is never asked for on a terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        reason = error.reason or "not PEM"
        raise ValueError(f"expected a PEM certificate in {certificate} with its key in {key}, got {reason}") from None
    return pair


def _authorities(path: Path) -> bytes:
    found = path.read_bytes()
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError as error:
        raise ValueError(f"{path}: expected PEM certificates of authorities, got {error.reason or 'not PEM'}") from None
    return found
