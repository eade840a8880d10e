"""Tokens of a shared bucket that were leased: each lease ends some time after it was asked for, and what is left of it then is lost.

Pure: times are seconds of the monotonic clock.
"""

from __future__ import annotations

from bisect import insort
from operator import attrgetter


class _Lease:
    __slots__ = ("expires", "tokens")

    def __init__(self, tokens: float, expires: float) -> None:
        self.tokens = tokens
        self.expires = expires


class Leases:
    """Those of one bucket, seldom more than two: the one that ends first is the first, and is taken from first."""

    __slots__ = ("_leases",)

    def __init__(self) -> None:
        self._leases: list[_Lease] = []

    def available(self, now: float) -> float:
        """Tokens. Forgets leases that have ended."""
        leases = self._leases
        while leases and leases[0].expires <= now:
            del leases[0]
        return sum(lease.tokens for lease in leases)

    def add(self, tokens: float, expires: float) -> None:
        insort(self._leases, _Lease(tokens, expires), key=attrgetter("expires"))

    def take(self, tokens: float) -> float:
        """Take what `available` has just found, or as much as there is. Returns what is left."""
        leases = self._leases
        while tokens > 0 and leases:
            lease = leases[0]
            taken = min(tokens, lease.tokens)
            lease.tokens -= taken
            tokens -= taken
            if lease.tokens <= 0:
                del leases[0]
        return sum(lease.tokens for lease in leases)

    def clear(self) -> None:
        self._leases.clear()
