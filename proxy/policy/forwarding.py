"""Who a client's address is said to be: what proxies in front wrote into the head, and what the gate writes for the upstream.

X-Forwarded-* and Forwarded (RFC 7239) are words of whoever sent them. What is read here is only what they say; whose word counts is
decided by `Peer.trusted` and identity.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from proxy.wire.handshake import Fields, list_tokens

Address = IPv4Address | IPv6Address

_FORWARDED_PAIR: Final = re.compile(  # RFC 7239 §4, and unquoted ports, which are common; `end` says whether more follows
    rb"[ \t]*(?:(?P<name>[-!#$%&'*+.^_`|~0-9A-Za-z]+)=(?P<value>\"(?:[^\"\\]|\\.)*\"|[^\",;\\ \t]*))?[ \t]*(?P<end>[;,]|$)"
)
_SCHEME: Final = re.compile(rb"[A-Za-z][-+.0-9A-Za-z]*")  # RFC 3986 §3.1
_BRACKETED: Final = re.compile(rb"\[([^]]*)\](?::.*)?")


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of the client's transport. `text` and `node`: its address in X-Forwarded-For and in Forwarded."""

    address: Address | None  # None: a Unix socket
    trusted: bool
    name: str | None = None  # what `per: ip` counts, as text, where it stands for itself; None for a trusted peer, which speaks for many
    text: bytes = field(init=False, compare=False, repr=False)
    node: bytes = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", b"" if self.address is None else str(self.address).encode())
        object.__setattr__(self, "node", format_node(self.address))


def forwarded_for(fields: Fields) -> list[bytes]:
    """The chain of addresses that proxies wrote, oldest first: of X-Forwarded-For, else of Forwarded (RFC 7239 §5.2)."""
    chain = list_tokens(fields.get(b"x-forwarded-for", ()))
    return chain or [node for line in fields.get(b"forwarded", ()) for node in _forwarded_nodes(line) or (b"",)]


def _forwarded_nodes(line: bytes) -> list[bytes] | None:
    """The `for` of each element, empty where it has none or several. None if the line cannot be read: quotes that one writer left
    open and another closed would hide an element or make one up, so nothing in such a line is worth anything."""
    nodes = []
    fors: list[bytes] = []
    pairs = position = 0
    while True:
        match = _FORWARDED_PAIR.match(line, position)
        if match is None:
            return None
        if match["name"]:
            pairs += 1
            if match["name"].lower() == b"for":
                fors.append(match["value"].strip(b'"'))
        if match["end"] != b";":
            if pairs:
                nodes.append(fors[0] if len(fors) == 1 else b"")
            if not match["end"]:
                return nodes
            fors = []
            pairs = 0
        position = match.end()


def parse_address(text: bytes) -> Address | None:
    """An address with or without port and brackets; None for anything else (`unknown`, `_hidden`). Mapped IPv4 becomes IPv4."""
    text = text.strip()
    if bracketed := _BRACKETED.fullmatch(text):
        text = bracketed[1]
    elif text.count(b":") == 1:
        text = text.partition(b":")[0]
    try:
        address = ip_address(text.decode("ascii"))
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or IPv6Address(int(address))  # without a zone
    return address


def format_node(address: Address | None) -> bytes:
    """An address as it stands in Forwarded (RFC 7239 §6)."""
    if address is None:
        return b"unknown"
    return f'"[{address}]"'.encode() if isinstance(address, IPv6Address) else str(address).encode()


def forwarding_headers(peer: Peer, fields: Fields, *, host: bytes, proto: bytes) -> list[tuple[bytes, bytes]]:
    """X-Forwarded-* and Forwarded for the upstream: of a trusted peer carried on and added to, else made anew from what we saw.

    Both tell the chain that we counted: one that only the client wrote and the proxy in front let through must not contradict it.
    """
    if not peer.trusted:  # which a peer without an address always is
        return [
            (b"X-Forwarded-For", peer.text),
            (b"X-Forwarded-Host", host),
            (b"X-Forwarded-Proto", proto),
            (b"Forwarded", _element(peer, host, proto)),
        ]
    chain = forwarded_for(fields)
    proto = next((one for one in reversed(list_tokens(fields.get(b"x-forwarded-proto", ()))) if _SCHEME.fullmatch(one)), proto)
    host = (list_tokens(fields.get(b"x-forwarded-host", ())) or [host])[-1]
    ours = _element(peer, host, proto)
    if list_tokens(fields.get(b"x-forwarded-for", ())):
        elements = [b"for=" + format_node(parse_address(node)) for node in chain]
    else:
        elements = [b"for=unknown" if _forwarded_nodes(line) is None else line for line in fields.get(b"forwarded", ()) if line]
        chain = [node or b"unknown" for node in chain]
    if peer.address is not None:
        chain.append(peer.text)
    headers = [
        (b"X-Forwarded-Host", host),
        (b"X-Forwarded-Proto", proto),
        (b"Forwarded", b", ".join([*elements, ours])),
    ]
    if chain:
        headers.insert(0, (b"X-Forwarded-For", b", ".join(chain)))
    return headers


def _element(peer: Peer, host: bytes, proto: bytes) -> bytes:
    """What we add to Forwarded (RFC 7239 §4)."""
    if b'"' in host or b"\\" in host:
        host = host.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return b'for=%b;host="%b";proto=%b' % (peer.node, host, proto)
