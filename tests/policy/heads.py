"""Heads and users for tests about who asks."""

from __future__ import annotations

from ipaddress import ip_network

from proxy.policy.identity import Identifier, IdentityRules

ID = b"connection id"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.q2-Hs7b_XkSxOvI3m0dYw9JcTzUuEo8rPnLgMvQa1_w"
TRUSTING = (ip_network("10.0.0.0/8"), ip_network("2001:db8:ffff::/48"))

Fields = dict[bytes, list[bytes]]


def identifier(**rules: object) -> Identifier:
    return Identifier(IdentityRules(**rules))  # type: ignore[arg-type]  # each test names the fields that it is about


def user(query: str | bytes = b"", fields: Fields | None = None, connection: bytes = ID, **rules: object) -> bytes:
    """The digest of a user who must not be anonymous."""
    digest, anonymous = identifier(**rules).user(query.encode() if isinstance(query, str) else query, fields or {}, connection)
    assert not anonymous
    return digest


def is_anonymous(query: bytes = b"", fields: Fields | None = None, **rules: object) -> bool:
    return identifier(**rules).user(query, fields or {}, ID)[1]


def bearer(value: str) -> Fields:
    return {b"authorization": [value.encode()]}


def cookie(*lines: str) -> Fields:
    return {b"cookie": [line.encode() for line in lines]}


def client(peer: str, forwarded: str | list[str] | None = None, *, header: bytes = b"x-forwarded-for") -> str:
    who = identifier(trusted_proxies=TRUSTING)
    lines = [forwarded] if isinstance(forwarded, str) else forwarded or []
    return str(who.client_address(who.peer(peer), {header: [line.encode() for line in lines]} if lines else {}))
