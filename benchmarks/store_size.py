"""How big a server a shared store takes: its memory for each thing that gates keep there, and its CPU and traffic for each that they do.

    python -m benchmarks.store_size [--number 20000] [--flavour redis|valkey]

So many of each kind, through one or two instances, on a real server that is started here and asked what it uses (INFO): memory with all
that a key costs, CPU with its system calls. Names are as long as a gate's: a rule of 16 letters, and a digest of 16 bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import uvloop

from benchmarks.store import ClaimsOf, four_rules, one_cap
from proxy.ledger.fallback_store import FallbackStore, StoreOptions, open_store
from proxy.ledger.links.addresses import Endpoint, StoreAddress
from proxy.ledger.store import Claim, Grant, SeatClaim, StoreState, TokenClaim
from proxy.ledger.token_bucket import TokenBucket
from tests.support.redis_servers import HOST, Flavour, RedisServer, redis_server

AT_ONCE: Final = 500  # what is asked for in one turn of the loop
SETTLE: Final = 0.5  # seconds until all was told, and the server has its tables in order
FAREWELLS: Final = 20_000  # a second that are told, at least
NEVER: Final = 1_000_000  # a limit that nobody reaches
LONG: Final = 100_000.0  # seconds until something is over

Do = Callable[[FallbackStore, int], Awaitable[object]]
"""One thing, the n-th of its kind, at one instance."""


def name(number: int) -> bytes:
    return b"rule-of-16-chars:" + digest(number)


def digest(number: int) -> bytes:
    return b"%016x" % number


async def admitted(store: FallbackStore, *claims: Claim) -> Grant:
    [answer] = await store.admit([claims], time.monotonic())
    assert isinstance(answer, Grant)
    return answer


async def connection(store: FallbackStore, number: int) -> Grant:
    """The first one of its user, or at another instance his second."""
    return await admitted(store, SeatClaim("rule", name(number), NEVER))


def member_of(size: int) -> Do:
    """Of a room with so many members, which are all there."""

    async def member(store: FallbackStore, number: int) -> Grant:
        return await admitted(store, SeatClaim("rule", name(number // size), NEVER, member=digest(number)))

    return member


async def upgrades(store: FallbackStore, number: int) -> Grant:
    return await admitted(store, TokenClaim("rule", name(number), 1 / LONG, 20.0))


async def penalty(store: FallbackStore, number: int) -> None:
    store.penalize(name(number), LONG, time.monotonic())


async def messages(store: FallbackStore, number: int) -> TokenBucket:
    """A user who comes and says something: his bucket, which is left open."""
    bucket = store.open_bucket(name(number), 1 / LONG, 20.0, time.monotonic())
    while not bucket.take(1.0, now := time.monotonic()) and bucket.known_at(1.0, now) > now:
        answered = asyncio.Event()
        bucket.call_when_known(answered.set)
        with suppress(TimeoutError):
            async with asyncio.timeout(bucket.known_at(1.0, now) - now):
                await answered.wait()
    return bucket


async def visit(store: FallbackStore, number: int) -> None:
    """The same, and he goes."""
    store.close_bucket(name(number), await messages(store, number))


@dataclass(frozen=True, slots=True)
class Use:
    """What a server has used so far. Memory and traffic in bytes, CPU in seconds."""

    memory: int
    cpu: float
    heard: int
    said: int


async def used(server: RedisServer) -> Use:
    memory, cpu, stats = [await server.info(section) for section in ("memory", "cpu", "stats")]
    spent = float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])
    return Use(memory["used_memory"], spent, stats["total_net_input_bytes"], stats["total_net_output_bytes"])


async def all_of(do: Do, store: FallbackStore, number: int) -> list[object]:
    done: list[object] = []
    for first in range(0, number, AT_ONCE):
        done += await asyncio.gather(*(do(store, one) for one in range(first, min(first + AT_ONCE, number))))
    await asyncio.sleep(SETTLE)
    return done


@asynccontextmanager
async def fresh(flavour: Flavour) -> AsyncIterator[tuple[RedisServer, Sequence[FallbackStore]]]:
    """A server with nothing on it, and two instances."""
    async with redis_server(flavour) as server:
        options = StoreOptions(StoreAddress((Endpoint(HOST, server.port),)), timeout=5.0)
        stores = [open_store(options, _Quiet()) for _ in range(2)]
        for store in stores:
            if (why := await store.start()) is not None:
                raise RuntimeError(why)
        await asyncio.sleep(SETTLE)
        try:
            yield server, stores
        finally:
            for store in stores:
                await store.stop()


class _Quiet:
    def state_changed(self, state: StoreState, why: str) -> None: ...

    def answered(self, seconds: float) -> None: ...

    def conflict(self, rule: str) -> None: ...

    def memory_policy(self, server: str, policy: str) -> None: ...

    def deaf(self, why: str) -> None: ...


def row(what: str, before: Use, after: Use, number: int) -> None:
    cpu = 1e6 * (after.cpu - before.cpu) / number
    figures = ((after.memory - before.memory) / number, cpu, (after.heard - before.heard) / number, (after.said - before.said) / number)
    print(f"| {what} | {' | '.join(f'{one:.0f}' for one in figures)} |", flush=True)


KINDS: Final[Sequence[tuple[str, str, Do]]] = (
    ("a key of `connections` with its first seat", "the same at another instance too", connection),
    ("a member of a room of 200", "the same at another instance too", member_of(200)),
    ("a member of a room of 2,000", "the same at another instance too", member_of(2_000)),
    ("a bucket of `upgrades`", "the same, asked again", upgrades),
    ("a penalty", "the same, told again", penalty),
    ("a bucket of frames that one instance has", "the same, when another one shares it", messages),
    ("a bucket of frames, asked for and given back", "the same at another instance, later", visit),
)


async def kind(server: RedisServer, stores: Sequence[FallbackStore], number: int, rows: tuple[str, str, Do]) -> None:
    """So many of it at one instance, then at the other."""
    first, second, do = rows
    for what, store in ((first, stores[0]), (second, stores[1])):
        before = await used(server)
        await all_of(do, store, number)
        row(what, before, await used(server), number)


async def coming_and_going(server: RedisServer, store: FallbackStore, number: int, claims_of: ClaimsOf) -> None:
    async def come(store: FallbackStore, one: int) -> Grant:
        return await admitted(store, *claims_of(one))

    before = await used(server)
    grants = await all_of(come, store, number)
    full = await used(server)
    row(f"an upgrade, {claims_of.__name__.replace('_', ' ')}", before, full, number)
    for grant in grants:
        assert isinstance(grant, Grant)
        store.release(grant)
    await asyncio.sleep(SETTLE + number / FAREWELLS)
    row("and its end", full, await used(server), number)


async def main(flavour: Flavour, number: int) -> None:
    print("| what | memory, bytes | CPU, µs | heard, bytes | said, bytes |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for rows in KINDS:
        async with fresh(flavour) as (server, stores):
            await kind(server, stores, number, rows)
    for claims_of in (one_cap, four_rules):
        async with fresh(flavour) as (server, stores):
            await coming_and_going(server, stores[0], number, claims_of)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--number", type=int, default=20_000)
    parser.add_argument("--flavour", choices=[one.value for one in Flavour], default=Flavour.REDIS.value)
    options = parser.parse_args(sys.argv[1:])
    uvloop.run(main(Flavour(options.flavour), options.number))
