"""Users who send messages through instances, as a meter and a tunnel let them, and what they may."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from itertools import chain

from proxy.ledger.leased_bucket import LeasedBucket
from tests.ledger.instances import Instance

KEY = b"rule:somebody"
LATE = 0.25  # seconds: what a lease may add to the bound


class User:
    """One connection of the user, at one instance. `times`: of the messages that passed; `longest`: a message waited, in seconds."""

    def __init__(self, at: Instance, rate: float, burst: float, key: bytes = KEY) -> None:
        self._store = at.store
        bucket = self._store.open_bucket(key, rate, burst, time.monotonic())
        assert isinstance(bucket, LeasedBucket)
        self.bucket = bucket
        self.times: list[float] = []
        self.longest = 0.0

    async def say(self, cost: float = 1.0) -> bool:
        """One message: as a meter and a tunnel do it. False if it was dropped."""
        began = time.monotonic()
        while True:
            now = time.monotonic()
            if self.bucket.take(cost, now):
                break
            known_at = self.bucket.known_at(cost, now)
            if known_at <= now:
                return False
            answered = asyncio.Event()
            self.bucket.call_when_known(answered.set)
            try:
                async with asyncio.timeout(known_at - now):
                    await answered.wait()
            except TimeoutError:
                pass
        self.times.append(now)
        self.longest = max(self.longest, now - began)
        return True

    async def say_all(self, most: int) -> int:
        """Messages until one is dropped."""
        for said in range(most):
            if not await self.say():
                return said
        return most

    async def flood(self, seconds: float, pause: float = 0.002) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await self.say()
            await asyncio.sleep(random.uniform(0, 2 * pause))

    def leave(self) -> None:
        self._store.close_bucket(self.bucket.key, self.bucket)


def hears(one: Instance) -> bool:
    return one.store._shared_rates._hears


def asked(cluster: Sequence[Instance]) -> int:
    """Commands that were sent so far."""
    return sum(one.store._shared._link.commands for one in cluster)


def excess(said: Sequence[Sequence[float]], rate: float) -> float:
    """`said`: when messages passed. Returns the most that passed in any window beyond what came in its time: at most burst + rate * LATE."""
    times = sorted(chain.from_iterable(said))
    worst = lowest = 0.0
    for count, moment in enumerate(times):
        balance = count - rate * moment
        lowest = min(lowest, balance) if count else balance
        worst = max(worst, balance + 1 - lowest)
    return worst
