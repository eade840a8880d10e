"""How much may be undecided at once: bounds on what costs us before anybody was counted.

A connection is *pending* while its head is read, and again while its upgrade is decided and dialed. One address may hold a part of
these places only, so that half-open connections of one attacker leave room for all others. A trusted proxy speaks for many, so it is
not bounded in this way.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from proxy.policy.upstreams import Upstream


@dataclass(frozen=True, slots=True)
class Bounds:
    """`connections`: of clients at once. `pending`: of them undecided, in all and for one address."""

    connections: int
    pending: int = 1024
    pending_per_ip: int = 128


class Capacity:
    """Counts what is pending. Memory is bounded by what is open."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.pending = 0
        self._by_address: dict[str, int] = {}

    def has_room(self, address: str | None) -> bool:
        """Would `enter` give a place?"""
        bounds = self.bounds
        return self.pending < bounds.pending and (address is None or self._by_address.get(address, 0) < bounds.pending_per_ip)

    def enter(self, address: str | None) -> Place | None:
        """Take a place; None if there is none left, in all or for this address (IPv6: network). Without one only the total counts."""
        if not self.has_room(address):
            return None
        if address is not None:
            self._by_address[address] = self._by_address.get(address, 0) + 1
        self.pending += 1
        return Place(self, address)

    def leave(self, address: str | None) -> None:
        """Give a place back; called by Place."""
        self.pending -= 1
        if address is None:
            return
        left = self._by_address[address] - 1
        if left:
            self._by_address[address] = left
        else:
            del self._by_address[address]

    def __len__(self) -> int:
        return self.pending + len(self._by_address)


class Place:
    """One place among the pending ones. `leave` gives it back, once."""

    __slots__ = ("_address", "_capacity")

    def __init__(self, capacity: Capacity, address: str | None) -> None:
        self._capacity: Capacity | None = capacity
        self._address = address

    def leave(self) -> None:
        if self._capacity is not None:
            self._capacity.leave(self._address)
            self._capacity = None


class Dials:
    """Counts the connections that are being opened to each upstream, be it for a WebSocket or for ordinary HTTP."""

    def __init__(self) -> None:
        self.pending: Counter[str] = Counter()  # by the upstream's name, which are few

    def begin(self, upstream: Upstream) -> bool:
        """Count one more; False, and nothing is counted, when `max_pending` of them are under way."""
        if self.pending[upstream.name] >= upstream.max_pending:
            return False
        self.pending[upstream.name] += 1
        return True

    def end(self, upstream: Upstream) -> None:
        """One that was counted has come to its end."""
        self.pending[upstream.name] -= 1
