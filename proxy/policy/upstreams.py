"""Addresses: where we listen, and the backends that upgrades go to.

Only read here, never looked up or connected to. What two readers could take for two different places is refused: `::1:80`, a port
with a sign, a host that is nearly an IPv4 address. Every ValueError says what is expected, in words for a person, and never repeats
the text, which may hold a password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

MAX_PORT: Final = 65535
MAX_HOST: Final = 253  # bytes, RFC 1035 §2.3.4 without the root
MAX_UNIX_PATH: Final = 107  # bytes; sun_path holds 108 with the final NUL, unix(7)
DEFAULT_PORTS: Final = {"ws": 80, "http": 80, "wss": 443, "https": 443}  # by scheme, RFC 6455 §3
DEFAULT_CONNECT_TIMEOUT: Final = 5.0  # seconds
DEFAULT_HANDSHAKE_TIMEOUT: Final = 10.0  # seconds
DEFAULT_MAX_PENDING: Final = 512  # dials
SECURE_SCHEMES: Final = frozenset(("wss", "https"))
URL_WORDS: Final = "a URL such as ws://host:port (or wss, http, https), or unix:/path"
SERVER_NAME_WORDS: Final = "the name in the upstream's certificate: a host name or an address, without port, brackets and final dot"

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_HOST_AND_PORT: Final = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?")
_LABEL: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_ADDRESS: Final = re.compile(r"[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]{1,15})?")  # with a zone, RFC 4007 §11


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """`host`: a name or an address without brackets. `port`: 0 asks for a free one, where we listen."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix socket, by its absolute path of at most 107 bytes."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress


@dataclass(frozen=True, slots=True)
class UpstreamUrl:
    """What the URL of a backend says. `secure`: TLS is spoken to it."""

    address: Address
    secure: bool = False


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """How the certificate of a backend is judged.

    `ca`: the path of a PEM file of those who may have signed it; None: whom the system trusts. `server_name`: the name that is asked
    for and must be in it; None: the host of the address. `verify`: False believes anybody.
    """

    ca: str | None = None
    server_name: str | None = None
    verify: bool = True


@dataclass(frozen=True, slots=True)
class Upstream:
    """A backend. It may be down; that shows when an upgrade is dialed.

    `connect_timeout`: seconds until the connection stands, `handshake_timeout`: seconds from then to the end of the answer's head.
    `tls`: None where the connection is plain. `max_pending`: dials under way at once.
    """

    name: str
    address: Address
    connect_timeout: float = DEFAULT_CONNECT_TIMEOUT
    handshake_timeout: float = DEFAULT_HANDSHAKE_TIMEOUT
    tls: UpstreamTls | None = None
    max_pending: int = DEFAULT_MAX_PENDING


def parse_listen(text: str) -> Address:
    """`host:port`, `[::]:8080` or `unix:/path`. Raises ValueError with what is expected."""
    if text.startswith("unix:"):
        return _parse_unix(text)
    return parse_tcp(text)


def parse_tcp(text: str) -> TcpAddress:
    """`host:port` with port 0 to 65535. Raises ValueError with what is expected."""
    if not text or text.startswith(":"):
        raise ValueError("host:port with a host (0.0.0.0 or [::] for every address)")
    host, port = parse_host_and_port(text)
    if port is None:
        raise ValueError("host:port with a port, such as 0.0.0.0:8080 or [::]:8080")
    return TcpAddress(host, port)


def parse_upstream_url(text: str) -> UpstreamUrl:
    """`ws://host[:port]`, likewise wss, http and https, or `unix:/path`. Raises ValueError with what is expected."""
    if text.startswith("unix:"):
        return UpstreamUrl(_parse_unix(text))
    match = _SCHEME.fullmatch(text)
    scheme = match[1].lower() if match else ""
    if not match or scheme not in DEFAULT_PORTS:
        raise ValueError(URL_WORDS)
    authority = match[2]
    if "@" in authority:
        raise ValueError("a URL without user and password")
    if re.search(r"[/?#]", authority):
        raise ValueError("a URL that ends with the host or port: the request's own path goes upstream")
    host, port = parse_host_and_port(authority)
    if port == 0:
        raise ValueError("a port from 1 to 65535")
    return UpstreamUrl(TcpAddress(host, DEFAULT_PORTS[scheme] if port is None else port), scheme in SECURE_SCHEMES)


def parse_server_name(text: str) -> str:
    """A host name, an IPv4 or an IPv6 address, as certificates have them. Raises ValueError with what is expected."""
    if text.endswith(".") or "%" in text or text.startswith("["):
        raise ValueError(SERVER_NAME_WORDS)
    try:
        return _parse_ipv6(text) if ":" in text else _parse_host(text)
    except ValueError:
        raise ValueError(SERVER_NAME_WORDS) from None


def _parse_unix(text: str) -> UnixAddress:
    path = text.removeprefix("unix:")
    if not path.startswith("/") or path.startswith("//") or path.endswith("/"):
        raise ValueError("unix: and the absolute path of a socket, such as unix:/run/wsgate.sock")
    if not path.isprintable():
        raise ValueError("a path of printable characters")
    if len(path.encode()) > MAX_UNIX_PATH:
        raise ValueError(f"a path of at most {MAX_UNIX_PATH} bytes (the system's limit for sockets)")
    return UnixAddress(path)


def parse_host_and_port(text: str) -> tuple[str, int | None]:
    """(host without brackets, port or None) of `host`, `host:port`, `[::1]:80`. Raises ValueError with what is expected."""
    match = _HOST_AND_PORT.fullmatch(text)
    if not match:
        raise ValueError("a host and a port such as example.org:8080, 127.0.0.1:8080 or [::1]:8080")
    port = None if match[2] is None else int(match[2])
    if port is not None and port > MAX_PORT:
        raise ValueError(f"a port of at most {MAX_PORT}")
    return _parse_host(match[1]), port


def _parse_host(text: str) -> str:
    if text.startswith("["):
        return _parse_ipv6(text[1:-1])
    *_, last = labels = text.removesuffix(".").split(".")
    if last.isascii() and last.isdigit():  # such a name is always meant to be an address, WHATWG URL "ends in a number"
        try:
            return str(IPv4Address(text))
        except ValueError:
            raise ValueError("an IPv4 address of four numbers, such as 127.0.0.1") from None
    if len(text) > MAX_HOST or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("a host name (letters, digits, - and dots), an IPv4 address or an IPv6 address in brackets")
    return text


def _parse_ipv6(text: str) -> str:
    if _ADDRESS.fullmatch(text):
        try:
            return str(IPv6Address(text))
        except ValueError:
            pass
    raise ValueError("an IPv6 address in the brackets, such as [::1]")
