"""Users who send messages through instances that share their buckets, as a meter and a tunnel let them, and what they may."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import chain

from proxy.ledger.rates.leased_bucket import LeasedBucket
from tests.ledger.instances import Instance, address_of, instance
from tests.support.cuttable import cuttable
from tests.support.redis_servers import RedisServer
from tests.support.waiting import until

KEY = b"rule:somebody"
BUCKET = f"test:b:{{{KEY.decode()}}}"  # where the server has it
LATE = 0.25  # seconds: what a lease may add to the bound
SLOW = 1 / 3600  # tokens a second: none in the time of a test
DEADLINE = 0.2  # seconds: the store's, where it is the real one
READY = 30.0  # seconds until an instance has found its place, on a busy machine


class User:
    """One connection of the user, at one instance. `times`: of the messages that passed; `longest`: a message waited, in seconds;
    `most_owed`: tokens that passed in advance and were not paid back yet."""

    def __init__(self, at: Instance, rate: float, burst: float, key: bytes = KEY) -> None:
        self._store = at.store
        bucket = self._store.open_bucket(key, rate, burst, time.monotonic())
        assert isinstance(bucket, LeasedBucket)
        self.bucket = bucket
        self.times: list[float] = []
        self.longest = 0.0
        self.most_owed = 0.0

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
        self.most_owed = max(self.most_owed, self.bucket.owes)
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


@asynccontextmanager
async def instances(count: int, server: RedisServer, deadline: float = DEADLINE) -> AsyncIterator[list[Instance]]:
    """So many that decide with the store, and hear it."""
    async with AsyncExitStack() as stack:
        started = [await stack.enter_async_context(instance(address_of(server), deadline=deadline)) for _ in range(count)]
        for one in started:
            await ready(one)
        yield started


@asynccontextmanager
async def far_instances(count: int, server: RedisServer, seconds: float) -> AsyncIterator[list[Instance]]:
    """So many that know each other, each at the end of a link whose round trip takes so long."""
    async with AsyncExitStack() as stack:
        links = [await stack.enter_async_context(cuttable(server.port)) for _ in range(count)]
        started = [await stack.enter_async_context(instance(address_of(server, link.port), deadline=DEADLINE)) for link in links]
        for one in started:
            await ready(one)
        for one, link in zip(started, links, strict=True):
            await knows(one, count)
            link.delay = seconds / 2
        yield started


async def ready(one: Instance) -> None:
    """It decides with the store, and hears it."""
    await one.up()
    await until(lambda: hears(one), READY)


async def knows(one: Instance, count: int) -> None:
    """So many instances, itself among them."""
    await until(lambda: one.store._sharers() == count, READY)


def hears(one: Instance) -> bool:
    return one.rates.rents.may_own


async def is_owned(server: RedisServer) -> bool:
    """Is there an instance that the server takes for the owner?"""
    return bool(await server.ask("HGET", BUCKET, "o"))


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
