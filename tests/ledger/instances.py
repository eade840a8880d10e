"""Instances of the shared store on real servers, and what the server has of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from proxy.ledger.addresses import Endpoint, StoreAddress
from proxy.ledger.fallback_store import FallbackStore, OnStoreDown, StoreOptions, open_store
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

    def state_changed(self, state: StoreState, why: str) -> None:
        self.states.append(state)
        self.reasons.append(why)

    def answered(self, seconds: float) -> None:
        self.seconds.append(seconds)

    def conflict(self, rule: str) -> None:
        self.conflicts.append(rule)

    def evicts(self, policy: str) -> None:
        self.policies.append(policy)


@dataclass
class Instance:
    """One store, as one gate has it."""

    store: FallbackStore
    heard: Heard
    reason: str | None = None  # why it did not decide after its start

    @property
    def holder(self) -> bytes | None:
        return self.store._shared.keeper.holders.own

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


async def seats_in(server: RedisServer) -> dict[str, int]:
    """What the server has: key -> seats; for members, distinct ones. Holders that are not listed have nothing."""
    async with server.client(decode_responses=False) as client:
        listed = set(await client.hkeys("test:h"))
    return await seats_of(server, listed)


async def seats_of(server: RedisServer, listed: Collection[bytes]) -> dict[str, int]:
    """What these holders have there."""
    found: dict[str, int] = {}
    async with server.client(decode_responses=False) as client:
        async for name in client.scan_iter("test:n:*"):
            key = name.removeprefix(b"test:n:{").removesuffix(b"}")
            members = b"test:m:{" + key + b"}"
            if await client.exists(members):
                holders = [value.strip(b";").split(b";") for value in await client.hvals(members)]
                found[key.decode()] = sum(1 for one in holders if not set(listed).isdisjoint(one))
            else:
                found[key.decode()] = sum(int(count) for holder, count in (await client.hgetall(name)).items() if holder in listed)
    return {key: count for key, count in found.items() if count}


async def the_server_has(server: RedisServer, wanted: dict[str, int], seconds: float = PATIENCE) -> None:
    """Raises AssertionError with what it has instead."""
    deadline = time.monotonic() + seconds
    while (found := await seats_in(server)) != wanted:
        assert time.monotonic() < deadline, f"{found} instead of {wanted}"
        await asyncio.sleep(0.02)
