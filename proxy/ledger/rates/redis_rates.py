"""Buckets of frames, shared by all instances through the store: the traffic. What is decided is decided in LeasedBucket and lua/rent.lua.

A bucket is asked for (RedisLandlord) when the first frame is charged to it, never before: who says nothing costs nothing. From then on it
is here (BucketTable), until another instance wants it; that one's question makes the store tell us (`hear`), and we give it back at once
(OwnBuckets). Where we own, no message is a question. Whenever the store may have forgotten what we own, all of it is told again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf

from proxy.ledger.rates.bucket_table import BucketTable
from proxy.ledger.rates.leased_bucket import LeasedBucket
from proxy.ledger.rates.own_buckets import OwnBuckets
from proxy.ledger.rates.redis_landlord import RedisLandlord
from proxy.ledger.rates.rent import YIELD
from proxy.ledger.rates.rent_link import RentLink


class RedisRates:
    """`timeout`: seconds for an answer. `instances`: how many there are, us included, as far as is known."""

    def __init__(self, rents: RentLink, timeout: float, instances: Callable[[], int]) -> None:
        self.rents = rents
        self.buckets = BucketTable()
        self._own = OwnBuckets(self.buckets, rents)
        self.landlord = RedisLandlord(rents, self._own, timeout, instances)
        self.buckets.forgotten = self.landlord.forget

    def __len__(self) -> int:
        """Keys that are remembered."""
        return len(self.buckets)

    # --- what meters want

    def open_bucket(self, key: bytes, rate: float, burst: float) -> LeasedBucket:
        """`rate` is more than 0: a bucket of nothing has nothing to share."""
        bucket = self.buckets.get(key)
        if bucket is None:
            bucket = LeasedBucket(key, rate, burst, self.landlord)
            bucket.heard = self.rents.number
        self.buckets.use(bucket)
        return bucket

    def close_bucket(self, bucket: LeasedBucket) -> None:
        bucket.users -= 1
        self._own.rest(bucket)

    # --- what the store tells

    def hear(self, message: bytes) -> None:
        """Somebody wants a bucket that we have, or one that we want was given back."""
        found = self.rents.read_message(message)
        if found is None:
            return
        kind, key = found
        bucket = self.buckets.get(key)
        if bucket is None:
            if kind == YIELD:
                self.rents.disown(key, time.monotonic())
        elif kind == YIELD:
            self.landlord.wanted(bucket)
        else:
            self.landlord.freed(bucket)

    # --- doubts

    def listening(self, hears: bool) -> None:  # noqa: FBT001 -- a callback of one argument
        """Does the store reach us? Where it does not, we own nothing more, and where it does again, all that we own is told."""
        self.rents.may_own = hears
        self._own.deaf_since = inf if hears else min(self._own.deaf_since, time.monotonic())
        if hears:
            self._own.tell_again()

    def lost(self) -> None:
        """The store is away."""
        self.landlord.lost(time.monotonic())

    def doubted(self) -> None:
        """What the store has may be anything: nothing is asked until it is `healed`."""
        self.landlord.doubted()

    def healed(self, lost_data: bool) -> None:  # noqa: FBT001 -- a callback of one argument
        """The store is there: for the first time, or after it was away, or has forgotten everything."""
        now = time.monotonic()
        self.rents.healed(now, self.landlord.away_since, lost_data=lost_data)
        self.landlord.healed(now)
        self._own.tell_again()

    # --- its life

    def sweep(self, now: float) -> None:
        """Called about once a second; bounded work."""
        self.landlord.sweep(now)
        self._own.refresh(now)

    async def stop(self) -> None:
        """Give back what is ours."""
        self.landlord.stop()
        await self._own.stop()
