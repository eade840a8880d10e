"""What an admission through Redis costs beyond one in memory: CPU of the gate's process and of the server, in µs.

    python -m benchmarks.store [--waves 50] [--flavour redis|valkey] [--others 0]

Waves of upgrades that are asked for at once, as under load, then the same that end, over the two sets of claims below. One instance; a real
server, started here. The gate's CPU is that of this process, which does nothing else; the memory store's is taken off. The server's is
what it says itself (INFO cpu), with its system calls. `--others`: so many more instances have seats of the addresses and in the rooms.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import uvloop

from proxy.app import GC_THRESHOLD
from proxy.ledger.fallback_store import StoreOptions, open_store
from proxy.ledger.links.addresses import Endpoint, StoreAddress
from proxy.ledger.memory_store import MemoryStore
from proxy.ledger.store import Claim, Grant, SeatClaim, Store, StoreState, TokenClaim
from tests.support.redis_servers import HOST, Flavour, RedisServer, redis_server

WAVE: Final = 64  # upgrades at once
ROUNDS: Final = 9  # the cheapest counts: whatever else the machine does only adds
SETTLE: Final = 0.2  # seconds until all was told
ADDRESSES, ROOMS = 16, 8
NEVER: Final = 1_000_000  # a limit that nobody reaches

ClaimsOf = Callable[[int], Sequence[Claim]]
"""What the n-th client asks for."""


def one_cap(number: int) -> Sequence[Claim]:
    """`per: user, connections`."""
    return [SeatClaim("user", b"user:%032d" % number, NEVER)]


def four_rules(number: int) -> Sequence[Claim]:
    """The rules of the README: a user's connections, an address's, seats of a room, upgrades of an address."""
    address = b"%032d" % (number % ADDRESSES)
    return [
        SeatClaim("user", b"user:%032d" % number, NEVER),
        SeatClaim("ip", b"ip:" + address, NEVER),
        SeatClaim("room", b"room:%032d" % (number % ROOMS), NEVER, member=b"%032d" % number),
        TokenClaim("upgrades", b"upgrades:" + address, 1e6, 1e6),
    ]


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of CPU."""

    gate: float
    server: float

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.gate - other.gate, self.server - other.server)


async def spent(server: RedisServer) -> Cost:
    """So far, of this process and of the server."""
    told = await server.info("cpu")
    return Cost(time.process_time(), float(told["used_cpu_user"]) + float(told["used_cpu_sys"]))


async def coming_and_going(store: Store, server: RedisServer, claims_of: ClaimsOf, waves: int) -> tuple[Cost, Cost]:
    """What it takes to let all come, and to let all go again."""

    async def come(number: int) -> Grant:
        [answer] = await store.admit([claims_of(number)], time.monotonic())
        assert isinstance(answer, Grant)
        return answer

    begun = await spent(server)
    inside = [await asyncio.gather(*(come(wave * WAVE + number) for number in range(WAVE))) for wave in range(waves)]
    full = await spent(server)
    for wave in inside:
        for grant in wave:
            store.release(grant)
        await asyncio.sleep(0)
    await asyncio.sleep(SETTLE)
    return full - begun, await spent(server) - full


class _Quiet:
    def state_changed(self, state: StoreState, why: str) -> None: ...

    def answered(self, seconds: float) -> None: ...

    def conflict(self, rule: str) -> None: ...

    def memory_policy(self, server: str, policy: str) -> None: ...

    def deaf(self, why: str) -> None: ...


async def measure(server: RedisServer, claims_of: ClaimsOf, waves: int) -> list[Cost]:
    """What the shared store costs beyond the one in memory, per connection: to come, and to go. The cheapest of some rounds."""
    shared = open_store(StoreOptions(StoreAddress((Endpoint(HOST, server.port),)), timeout=5.0), _Quiet())
    if (why := await shared.start()) is not None:
        raise RuntimeError(why)
    rounds: dict[Store, list[tuple[Cost, Cost]]] = {MemoryStore(): [], shared: []}
    for _ in range(ROUNDS):
        for store, costs in rounds.items():
            costs.append(await coming_and_going(store, server, claims_of, waves))
    await shared.stop()
    alone, together = (
        [Cost(min(one[phase].gate for one in costs), min(one[phase].server for one in costs)) for phase in range(2)]
        for costs in rounds.values()
    )
    return [there - here for there, here in zip(together, alone, strict=True)]


async def fill(server: RedisServer, others: int) -> None:
    """So many holders have seats of each key that several clients share."""
    holders = [f"{number:016x}" for number in range(1, others + 1)]
    rooms = [f"{{room:{number:032d}}}" for number in range(ROOMS)]
    async with server.client() as client:
        for key in [*rooms, *(f"{{ip:{number:032d}}}" for number in range(ADDRESSES))] if holders else ():
            await client.hset(f"wsgate:n:{key}", mapping=dict.fromkeys(holders, 100))
        for key in rooms if holders else ():
            await client.hset(f"wsgate:m:{key}", mapping={f"{one}-{number}": f"{one};" for one in holders for number in range(100)})


async def main(flavour: Flavour, waves: int, others: int = 0) -> None:
    gc.set_threshold(GC_THRESHOLD, 20, 50)  # as the gate does
    gc.freeze()
    print("| claims of an upgrade | gate, to come | gate, to go | server, to come | server, to go |")
    print("| --- | ---: | ---: | ---: | ---: |")
    async with redis_server(flavour) as server:
        await fill(server, others)
        for claims_of in (one_cap, four_rules):
            come, go = await measure(server, claims_of, waves)
            figures = (1e6 * seconds / (waves * WAVE) for seconds in (come.gate, go.gate, come.server, go.server))
            print(f"| {claims_of.__name__.replace('_', ' ')} | {' | '.join(f'{one:.1f}' for one in figures)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--waves", type=int, default=50)
    parser.add_argument("--flavour", choices=[one.value for one in Flavour], default=Flavour.REDIS.value)
    parser.add_argument("--others", type=int, default=0)
    options = parser.parse_args(sys.argv[1:])
    uvloop.run(main(Flavour(options.flavour), options.waves, options.others))
