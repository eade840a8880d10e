"""The buckets that one instance shares with others, by key: those that are used, and those that nobody uses any more.

A bucket that is used is never forgotten. One that nobody uses is kept for whoever returns only where its tokens are here and nowhere
else, or it owes some: until it is full, or one of more than MAX_IDLE, of which the oldest is forgotten. So what is remembered is
bounded by what is used and MAX_IDLE. Whoever else has something to do with a bucket is told when it is forgotten (`forgotten`).

Pure: times are seconds of the monotonic clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from proxy.ledger.rates.leased_bucket import LeasedBucket, Mode

MAX_IDLE: Final = 100_000  # buckets that nobody uses, and that the store does not know to be given back
LOOKED_AT: Final = 500  # of those, in one sweep


class BucketTable:
    """`forgotten` is set by whoever is to hear of it."""

    def __init__(self) -> None:
        self._buckets: dict[bytes, LeasedBucket] = {}
        self._idle: OrderedDict[bytes, LeasedBucket] = OrderedDict()
        self.forgotten: Callable[[LeasedBucket], None] = lambda _: None

    def __len__(self) -> int:
        """Keys that are remembered."""
        return len(self._buckets)

    def get(self, key: bytes) -> LeasedBucket | None:
        return self._buckets.get(key)

    def owned(self) -> list[LeasedBucket]:
        """Those that are this instance's own."""
        return [bucket for bucket in self._buckets.values() if bucket.mode is Mode.OWNED]

    def use(self, bucket: LeasedBucket) -> None:
        """One more uses it, be it new or not."""
        self._buckets[bucket.key] = bucket
        self._idle.pop(bucket.key, None)
        bucket.users += 1

    def keep(self, bucket: LeasedBucket) -> None:
        """Nobody uses it, but somebody may return. May forget another one for it."""
        self._buckets[bucket.key] = self._idle[bucket.key] = bucket
        if len(self._idle) > MAX_IDLE:
            self.forget(self._idle.popitem(last=False)[1])

    def forget(self, bucket: LeasedBucket) -> None:
        self._buckets.pop(bucket.key, None)
        self._idle.pop(bucket.key, None)
        self.forgotten(bucket)

    def done(self, now: float) -> list[LeasedBucket]:
        """Some that nobody uses, and that are full or the store's: they may be forgotten. Bounded work; ask again a little later."""
        found = []
        for _ in range(min(len(self._idle), LOOKED_AT)):
            key, bucket = self._idle.popitem(last=False)
            self._idle[key] = bucket
            if bucket.is_done(now):
                found.append(bucket)
        return found
