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
DEFAULT_PORT: Final = 80  # RFC 6455 §3, for ws as for http

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
class Upstream:
    """A backend. It may be down; that shows when an upgrade is dialed."""

    name: str
    address: Address


def parse_listen(text: str) -> Address:
    """`host:port`, `[::]:8080` or `unix:/path`. Raises ValueError with what is expected."""
    if text.startswith("unix:"):
        return _parse_unix(text)
    return parse_tcp(text)


def parse_tcp(text: str) -> TcpAddress:
    """`host:port` with port 0 to 65535. Raises ValueError with what is expected."""
    if not text or text.startswith(":"):
        raise ValueError("host:port with a host (0.0.0.0 or [::] for every address)")
    host, port = _parse_host_and_port(text)
    if port is None:
        raise ValueError("host:port with a port, such as 0.0.0.0:8080 or [::]:8080")
    return TcpAddress(host, port)


def parse_upstream_url(text: str) -> Address:
    """`ws://host[:port]`, `http://host[:port]` or `unix:/path`. Raises ValueError with what is expected."""
    if text.startswith("unix:"):
        return _parse_unix(text)
    match = _SCHEME.fullmatch(text)
    scheme = match[1].lower() if match else ""
    if scheme in {"wss", "https"}:
        raise ValueError(f"a ws://, http:// or unix:/path URL ({scheme}:// is not supported yet)")
    if not match or scheme not in {"ws", "http"}:
        raise ValueError("a URL such as ws://host:port, http://host:port or unix:/path")
    authority = match[2]
    if "@" in authority:
        raise ValueError("a URL without user and password")
    if re.search(r"[/?#]", authority):
        raise ValueError("a URL that ends with the host or port: the request's own path goes upstream")
    host, port = _parse_host_and_port(authority)
    if port == 0:
        raise ValueError("a port from 1 to 65535")
    return TcpAddress(host, DEFAULT_PORT if port is None else port)


def _parse_unix(text: str) -> UnixAddress:
    path = text.removeprefix("unix:")
    if not path.startswith("/") or path.startswith("//") or path.endswith("/"):
        raise ValueError("unix: and the absolute path of a socket, such as unix:/run/wsgate.sock")
    if not path.isprintable():
        raise ValueError("a path of printable characters")
    if len(path.encode()) > MAX_UNIX_PATH:
        raise ValueError(f"a path of at most {MAX_UNIX_PATH} bytes (the system's limit for sockets)")
    return UnixAddress(path)


def _parse_host_and_port(text: str) -> tuple[str, int | None]:
    """(host without brackets, port or None)."""
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
