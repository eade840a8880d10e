"""Principals and rules for tests: Ann is the one who is about to go over a limit, `beside(per)` shares all with her but that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address
from itertools import combinations
from typing import Any

from proxy.policy.identity import Identifier, IdentityRules, Principal
from proxy.policy.rules import (
    LEGAL_ON_EXCESS,
    LEGAL_PER,
    LISTS_ALLOWED,
    RATE_QUANTITIES,
    Mode,
    OnExcess,
    Per,
    Quantity,
    Rule,
    When,
    default_burst,
    default_close_code,
)

IDENTIFIER = Identifier(IdentityRules())
NOW = 1000.0

ANN = Principal(
    user=b"ann's digest    ",
    anonymous=False,
    address=IPv4Address("203.0.113.7"),
    ip=b"\xcb\x00\x71\x07",
    route="tournament",
    room="lobby",
    connection=b"ann 1",
)

_OTHER: dict[Per, dict[str, object]] = {
    Per.CONNECTION: {"connection": b"ann 2"},
    Per.USER: {"user": b"bob's digest    "},
    Per.IP: {"address": IPv4Address("203.0.113.8"), "ip": b"\xcb\x00\x71\x08"},
    Per.ROOM: {"room": "arena"},
    Per.ROUTE: {"route": "chat"},
    Per.GLOBAL: {},
}


def beside(*pers: Per, who: Principal = ANN) -> Principal:
    """Somebody who is like `who` in everything but this."""
    for per in pers:
        who = replace(who, **_OTHER[per])  # type: ignore[arg-type]  # the table above has the right types
    return who


def unlike(pers: Iterable[Per]) -> Principal:
    """Somebody who shares only this with Ann."""
    return beside(*(per for per in Per if per not in set(pers)))


def rule(
    quantity: Quantity,
    *per: Per,
    limit: float = 1,
    burst: float | None = None,
    name: str = "rule",
    on_excess: OnExcess | None = None,
    shadow: bool = False,
    when: When | None = None,
    **more: Any,
) -> Rule:
    """A rule with the defaults that a configuration would give it. `more`: further fields of a Rule."""
    if burst is None:
        burst = default_burst(limit) if quantity in RATE_QUANTITIES else 0
    return Rule(
        name=name,
        per=per,
        quantity=quantity,
        limit=limit,
        burst=burst,
        on_excess=on_excess or LEGAL_ON_EXCESS[quantity][0],
        close_code=default_close_code(quantity, per),
        mode=Mode.SHADOW if shadow else Mode.ENFORCE,
        when=when or When(),
        **more,
    )


def legal_pers(quantity: Quantity) -> list[tuple[Per, ...]]:
    """Every single `per` and, where lists are allowed, every pair and the list of all."""
    legal = [per for per in Per if per in LEGAL_PER[quantity]]
    singles = [(per,) for per in legal]
    return [*singles, *combinations(legal, 2), tuple(legal)] if quantity in LISTS_ALLOWED else [*singles]
