"""Who asks: the user's digest, and the address that the trusted proxies vouch for; and the keys under which both are counted.

A token (tokens.py) is never kept: only its keyed digest. What a proxy wrote (forwarding.py) counts as far as the chain of trusted
proxies reaches, and no further.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv4Network, IPv6Address, IPv6Network
from typing import Final

from proxy.policy.forwarding import Address, Peer, forwarded_for, parse_address
from proxy.policy.rules import Per, Rule
from proxy.policy.tokens import DEFAULT_SOURCES, TokenSource, find_token
from proxy.wire.handshake import Fields

DIGEST_SIZE: Final = 16  # bytes: 128 bits, so that nobody finds two principals with one key
PEERS: Final = 4096  # addresses whose reading is remembered
KEYS: Final = 16384  # digests that are remembered, of what is counted: users (as digests themselves), addresses, rooms
MAX_SECRET: Final = 64  # bytes, the longest key of BLAKE2b
DOCUMENTED_SECRET: Final = b"wsgate: no secret is configured"

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class IdentityRules:
    """The `identity` section."""

    sources: tuple[TokenSource, ...] = DEFAULT_SOURCES
    trusted_proxies: tuple[Network, ...] = ()
    ipv6_prefix: int = 64
    secret: bytes = field(default=DOCUMENTED_SECRET, repr=False)


@dataclass(slots=True)  # not frozen: it is made for each upgrade, and that took half a microsecond more
class Principal:
    """Who asks, in the only form that is kept; nobody changes it. `user` is a digest; for an anonymous client it is
    of this connection alone."""

    user: bytes
    anonymous: bool
    address: Address | None  # None: a peer on a Unix socket that names no client
    ip: bytes  # what `per: ip` counts: the address, of IPv6 its prefix
    route: str
    room: str | None
    connection: bytes  # the id of this connection, random


class Identifier:
    """Turns heads into principals' parts, under one set of identity rules."""

    def __init__(self, rules: IdentityRules) -> None:
        self._rules = rules
        self._secret = rules.secret if len(rules.secret) <= MAX_SECRET else blake2b(rules.secret).digest()
        self._hashes = {domain: self._keyed(domain) for domain in (b"token", b"anonymous", b"key")}
        self._key_digest = lru_cache(KEYS)(self._digest_of_parts)
        self.peer = lru_cache(PEERS)(self._peer)

    def user(self, query: bytes, fields: Fields, connection: bytes) -> tuple[bytes, bool]:
        """(digest of the user, anonymous). Without a token each connection is its own user.

        Raises IdentityError when a token is there twice and not the same.
        """
        for source in self._rules.sources:
            token = find_token(source, query, fields)
            if token:
                return self._digest(b"token", token), False
        return self._digest(b"anonymous", connection), True

    def _peer(self, address: str) -> Peer:
        """The peer of a transport; an empty address is a Unix socket, whose peer is always trusted."""
        if not address:
            return Peer(None, trusted=True)
        parsed = parse_address(address.encode())
        if parsed is not None and self.is_trusted(parsed):
            return Peer(parsed, trusted=True)
        return Peer(parsed, trusted=False, name="unknown" if parsed is None else self.ip(parsed).hex())

    def is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._rules.trusted_proxies)

    def client_address(self, peer: Peer, fields: Fields) -> Address | None:
        """The address of who asks: of a trusted peer, the last one in its forwarding header that is not trusted itself.

        X-Forwarded-For counts before Forwarded. An entry that is no address ends the search: whoever named it is the client.
        """
        client = peer.address
        if not peer.trusted:
            return client
        for entry in reversed(forwarded_for(fields)):
            address = parse_address(entry)
            if address is None:
                break
            client = address
            if not self.is_trusted(address):
                break
        return client

    def vouched_name(self, peer: Peer, fields: Fields) -> str | None:
        """As Peer.name, of the client that a trusted peer speaks for; None where it names none but proxies."""
        address = self.client_address(peer, fields)
        return None if address is None or self.is_trusted(address) else self.ip(address).hex()

    def ip(self, address: Address | None) -> bytes:
        """What `per: ip` counts."""
        if address is None:
            return b"unix socket"  # 11 bytes: no address is as long
        if isinstance(address, IPv6Address):
            host_bits = address.max_prefixlen - self._rules.ipv6_prefix
            return (int(address) >> host_bits << host_bits).to_bytes(16, "big")
        return address.packed

    def key(self, rule: Rule, principal: Principal, per: Iterable[Per]) -> bytes:
        """The key of a rule for a principal: the rule's name and a digest that cannot be made to collide (length-prefixed)."""
        return rule.name.encode() + b":" + self._key_digest(*[part_of(principal, one) for one in per])

    def _digest_of_parts(self, *parts: bytes) -> bytes:
        return self._digest(b"key", b"".join([len(part).to_bytes(4, "big") + part for part in parts]))

    def _digest(self, domain: bytes, value: bytes) -> bytes:
        copy = self._hashes[domain].copy()
        copy.update(value)
        return copy.digest()

    def _keyed(self, domain: bytes) -> blake2b:
        """A digest of nothing yet, to be copied: keying one takes longer than all that is digested here."""
        return blake2b(digest_size=DIGEST_SIZE, key=self._secret, person=domain)


def part_of(principal: Principal, per: Per) -> bytes:
    """What of a principal is counted."""
    if per is Per.USER:
        return principal.user
    if per is Per.IP:
        return principal.ip
    if per is Per.ROOM:
        return (principal.room or "").encode()
    if per is Per.ROUTE:
        return principal.route.encode()
    return principal.connection if per is Per.CONNECTION else b""
