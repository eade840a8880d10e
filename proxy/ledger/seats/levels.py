"""What this instance knows of shared buckets of upgrade tokens: what it has of them while the store is away, and what the store is
to believe when it comes back.

Every answer tells how many tokens are left. From then on there are at most those and what the rate has added, whoever else takes some.
While the store is away this instance has one share of so many as there are instances: of what was left at first, of the rate from then
on. What it takes counts for the whole as well. Until the store has answered under our present id (before, it may have been flushed, or
be another server, or not know what was taken here) a question says what there is at most, and the bucket has no more than that.
So neither an outage nor a failover brings a fresh burst to whoever is known here.

Pure, and bounded: of many keys the least recently used are forgotten; the bucket of a key that is not known is taken to be full.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from proxy.ledger.store import Ask, TokenClaim
from proxy.ledger.token_bucket import TokenBucket

MAX_LEVELS: Final = 100_000
AMORTISED: Final = 2  # keys looked at for each that is new

Bounds = Mapping[bytes, float]
"""Key -> tokens that its bucket has at most."""

NOTHING: Final[Bounds] = MappingProxyType({})


class _Level:
    """`most` tokens at `at`. `alone`: this instance's share, since the store was last heard. `holder`: to which of our ids it was told;
    None if something was taken here since."""

    __slots__ = ("alone", "at", "burst", "holder", "most", "rate")

    def __init__(self, claim: TokenClaim, now: float) -> None:
        self.rate = claim.rate
        self.burst = claim.burst
        self.most = claim.burst
        self.at = now
        self.holder: bytes | None = None
        self.alone: TokenBucket | None = None

    def most_at(self, now: float) -> float:
        return min(self.burst, self.most + max(0.0, now - self.at) * self.rate)

    def is_news(self, now: float) -> bool:
        """Is it anything but what would be taken of a key that is not known?"""
        return self.most_at(now) < self.burst or (self.alone is not None and self.alone.full_at() > now)


class Levels:
    """Times are seconds of one clock that does not go backwards, passed in. `limit`: keys that are remembered."""

    def __init__(self, limit: int = MAX_LEVELS) -> None:
        self._levels: OrderedDict[bytes, _Level] = OrderedDict()
        self._limit = limit

    def __len__(self) -> int:
        return len(self._levels)

    def told(self, claim: TokenClaim, level: float, asked_at: float, holder: bytes) -> None:
        """The store has answered, to this id of ours, a question that was sent at `asked_at`."""
        if claim.rate <= 0:
            return
        known = self._levels.get(claim.key) or self._of(claim, asked_at)
        known.most, known.at, known.holder, known.alone = level, asked_at, holder, None
        self._levels.move_to_end(claim.key)

    def doubtful(self, ask: Ask, holder: bytes, now: float) -> Bounds:
        """Buckets of which the store may believe too much, and what they have at most."""
        if not self._levels:
            return NOTHING
        found: dict[bytes, float] = {}
        for claim in ask:
            if isinstance(claim, TokenClaim):
                known = self._levels.get(claim.key)
                if known is not None and known.holder != holder:
                    found[claim.key] = known.most_at(now)
        return found or NOTHING

    def wait_alone(self, claim: TokenClaim, sharers: int, now: float) -> float:
        """Seconds until this instance's share, one of `sharers`, has a token; infinite for never."""
        return self._share(claim, sharers, now).wait(1.0, now)

    def take_alone(self, claim: TokenClaim, sharers: int, now: float) -> None:
        """Take a token from the share, if it has one."""
        if not self._share(claim, sharers, now).take(1.0, now):
            return
        known = self._of(claim, now)
        known.most, known.at, known.holder = known.most_at(now) - 1.0, now, None

    def _share(self, claim: TokenClaim, sharers: int, now: float) -> TokenBucket:
        burst = claim.burst if claim.burst < 1 else max(1.0, claim.burst / sharers)
        if claim.rate <= 0 or claim.burst < 1:
            return TokenBucket(claim.rate, burst, now)
        known = self._of(claim, now)
        if known.alone is None:
            known.alone = TokenBucket(claim.rate / sharers, burst, now)
            known.alone.level = max(0.0, known.most_at(now) / sharers)
        return known.alone

    def _of(self, claim: TokenClaim, now: float) -> _Level:
        known = self._levels.get(claim.key)
        if known is None:
            self._make_room(now)
            known = self._levels[claim.key] = _Level(claim, now)
        else:
            self._levels.move_to_end(claim.key)
        return known

    def _make_room(self, now: float) -> None:
        """Forget what is no news any more, of those that were used the longest ago; and whatever is too much."""
        for _ in range(AMORTISED):
            if not self._levels:
                return
            key = next(iter(self._levels))
            if len(self._levels) < self._limit and self._levels[key].is_news(now):
                return
            del self._levels[key]
