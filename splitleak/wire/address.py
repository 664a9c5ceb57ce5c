"""Network addresses: ``HOST:PORT`` with an IPv6 host in brackets, the targets that gRPC knows beside it, and URLs."""

import contextlib
import ipaddress
import re
from functools import partial
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator

_HOST_PORT = re.compile(r"(?:\[(?P<ipv6>[^\[\]]+)\]|(?P<name>[^\[\]:/\s]+)):(?P<port>[0-9]{1,5})")
_URL = re.compile(r"(?P<scheme>https?)://(?P<host>\[[^\[\]@]+\]|[^\[\]@:/?#\s]+)(?P<port>:[0-9]+)?(?P<path>/[^?#\s]*)?")
_SOCKET_FILE = ("unix:", "unix-abstract:")
_SCHEME = re.compile(r"\A(?:dns:(?://[^/]*/)?|ipv[46]:)")


class Address(NamedTuple):
    """A host, an IPv6 one without its brackets, and a port: what the functions of `socket` take."""

    host: str
    port: int


def parse_address(text: str, *, listening: bool = False) -> Address:
    """Splits ``HOST:PORT``.

    Args:
        text: A name, an IPv4 address or an IPv6 address in brackets; then a colon and the port.
        listening: Port 0, which has the system choose one, is allowed too.

    Raises:
        ValueError: ``text`` is something else.

    >>> parse_address("[::1]:8001")
    Address(host='::1', port=8001)
    """
    match, lowest = _HOST_PORT.fullmatch(text), 0 if listening else 1
    if match and lowest <= int(match["port"]) <= 65535:
        with contextlib.suppress(ValueError):  # brackets around something else
            return Address(match["name"] or str(ipaddress.IPv6Address(match["ipv6"])), int(match["port"]))
    raise ValueError(f"expected HOST:PORT with a port of {lowest} to 65535, got {text!r}")


def check_target(text: str, *, listening: bool = False) -> str:
    """Returns ``text`` if it names a host and a port to gRPC, which takes 443 for a missing port and 34463 for 99999.

    Args:
        text: ``HOST:PORT``, also behind ``dns:``, ``ipv4:`` or ``ipv6:``; or ``unix:PATH``, ``unix-abstract:NAME``.
        listening: As in `parse_address`, and so are the errors.
    """
    if not text.startswith(_SOCKET_FILE):
        parse_address(_SCHEME.sub("", text), listening=listening)
    return text


def socket_address(text: str) -> Address | None:
    """The host and the port of a target; None of one that is a file, or no target."""
    with contextlib.suppress(ValueError):
        return parse_address(_SCHEME.sub("", text))
    return None


def is_loopback(text: str) -> bool:
    """Whether a target can be reached from this machine alone."""
    with contextlib.suppress(ValueError):  # no HOST:PORT, or the name of a host
        host = parse_address(text, listening=True).host
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    return text.startswith(_SOCKET_FILE)


def bound_address(listen: str, port: int) -> str:
    """Where a service that listens on ``listen`` is reached, now that ``port`` is bound."""
    return listen if listen.startswith(_SOCKET_FILE) else f"{listen.rpartition(':')[0]}:{port}"


class HttpAddress(NamedTuple):
    """An HTTP server; ``path`` is what its URLs begin with, without a slash at the end."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    path: str

    @property
    def target(self) -> str:
        """``HOST:PORT``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_http(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def parse_http(text: str) -> HttpAddress:
    """Splits ``http://HOST:PORT/PATH`` or ``https://...``; the port may be missing, and so may the path.

    Raises:
        ValueError: ``text`` is something else, or has a user, a query or a fragment.

    >>> parse_http("https://[::1]/serving/")
    HttpAddress(scheme='https', host='::1', port=443, path='/serving')
    """
    match = _URL.fullmatch(text)
    if match is None:
        raise ValueError(f"expected http://HOST:PORT or https://HOST:PORT, got {text!r}")
    secured = match["scheme"] == "https"
    host, port = parse_address(f"{match['host']}{match['port'] or (':443' if secured else ':80')}")
    return HttpAddress("https" if secured else "http", host, port, (match["path"] or "").rstrip("/"))


def check_service(text: str) -> str:
    """Returns ``text`` if it is a target of gRPC, see `check_target`, or of HTTP, see `parse_http`."""
    if is_http(text):
        parse_http(text)
        return text
    return check_target(text)


# Types of a configuration's fields.
Target = Annotated[str, AfterValidator(check_target)]
ServiceTarget = Annotated[str, AfterValidator(check_service)]
ListenTarget = Annotated[str, AfterValidator(partial(check_target, listening=True))]
