"""Instances of the shared store on real servers, and what the server has of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from proxy.ledger.fallback_store import FallbackStore, OnStoreDown, StoreOptions, open_store
from proxy.ledger.links.addresses import Endpoint, StoreAddress
from proxy.ledger.rates.redis_rates import RedisRates
from proxy.ledger.store import StoreState
from tests.support.redis_servers import HOST, RedisServer
from tests.support.waiting import PATIENCE, until

TTL = 3.0  # seconds; a heartbeat is 0.6
HEALED = 5.0  # seconds until all is well again


@dataclass
class Heard:
    """What a store has told of itself."""

    states: list[StoreState] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    policies: list[str] = field(default_factory=list)
    deafness: list[str] = field(default_factory=list)

    def state_changed(self, state: StoreState, why: str) -> None:
        self.states.append(state)
        self.reasons.append(why)

    def answered(self, seconds: float) -> None:
        self.seconds.append(seconds)

    def conflict(self, rule: str) -> None:
        self.conflicts.append(rule)

    def memory_policy(self, server: str, policy: str) -> None:
        self.policies.append(policy)

    def deaf(self, why: str) -> None:
        self.deafness.append(why)


@dataclass
class Instance:
    """One store, as one gate has it."""

    store: FallbackStore
    heard: Heard
    reason: str | None = None  # why it did not decide after its start

    @property
    def holder(self) -> bytes | None:
        return self.store._shared.keeper.holders.own

    @property
    def rates(self) -> RedisRates:
        return self.store._shared_rates

    @property
    def name(self) -> bytes:
        """Under which it owns buckets."""
        return self.rates.rents._commands._instance

    async def up(self, seconds: float = PATIENCE) -> None:
        await until(lambda: self.store.state is StoreState.UP, seconds)

    async def crash(self) -> None:
        """As a kill: nothing is given back, nobody is told."""
        await self.store._shared.keeper.halt()
        await self.store._shared._link.stop()


def address_of(server: RedisServer, port: int | None = None, **changes: object) -> StoreAddress:
    return StoreAddress((Endpoint(HOST, port or server.port),), password=server.password, **changes)  # type: ignore[arg-type]


@asynccontextmanager
async def instance(
    address: StoreAddress,
    *,
    ttl: float = TTL,
    deadline: float = 2.0,
    on_store_down: OnStoreDown = OnStoreDown.LOCAL,
) -> AsyncIterator[Instance]:
    """A started one. `deadline` of a question is generous, unless timeouts are what is tested."""
    heard = Heard()
    store = open_store(StoreOptions(address, "test:", deadline, ttl, on_store_down), heard)
    reason = await store.start()
    try:
        yield Instance(store, heard, reason)
    finally:
        await store.stop()


async def seats_in(server: RedisServer, dead: Collection[bytes] = ()) -> dict[str, int]:
    """What the server has: key -> seats; for members, distinct ones. Whoever has them, listed or not, but for those that are known to
    be `dead`: what they had is freed when it is in the way. Both hashes of a room must say the same."""
    found: dict[str, int] = {}
    async with server.client(decode_responses=False) as client:
        names = {name[8:-1]: name async for name in client.scan_iter("test:[nm]:*")}
        for key in names:
            counts, members = await client.hgetall(b"test:n:{%b}" % key), await client.hvals(b"test:m:{%b}" % key)
            having = [set(value.rstrip(b";").split(b";")) for value in members]
            if having:
                assert {holder: int(count) for holder, count in counts.items() if holder not in dead} == {
                    holder: sum(holder in one for one in having) for holder in set().union(*having) - set(dead)
                }, key
                found[key.decode()] = sum(1 for one in having if one - set(dead))
            else:
                found[key.decode()] = sum(int(count) for holder, count in counts.items() if holder not in dead)
    return {key: count for key, count in found.items() if count}


async def the_server_has(server: RedisServer, wanted: dict[str, int], seconds: float = PATIENCE, dead: Collection[bytes] = ()) -> None:
    """Raises AssertionError with what it has instead. `dead`: holders of which something may be left."""
    deadline = time.monotonic() + seconds
    while (found := await _or_why_not(seats_in(server, dead))) != wanted:
        assert time.monotonic() < deadline, f"{found} instead of {wanted}"
        await asyncio.sleep(0.02)


async def the_server_has_now(server: RedisServer, wanted: dict[str, int]) -> bool:
    """So much, and nothing that is left of anybody who is dead."""
    return await _or_why_not(seats_in(server)) == wanted


async def _or_why_not(asking: Awaitable[dict[str, int]]) -> object:
    """What it has; while it changes, the two hashes of a room may be read at different times."""
    try:
        return await asking
    except AssertionError as error:
        return error
