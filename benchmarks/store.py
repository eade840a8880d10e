"""What an admission through Redis costs beyond one in memory: CPU of the gate's process and of the server, in µs.

    python -m benchmarks.store [--waves 200] [--flavour redis|valkey]

Waves of upgrades that are asked for at once, as under load, each with its release, over the two sets of claims below. One instance; a real
server, started here. The gate's CPU is that of this process, which does nothing else; the memory store's is taken off. The server's is
what it says itself (INFO cpu), with system calls: of all that it does for an admission and its release.
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
from proxy.ledger.addresses import Endpoint, StoreAddress
from proxy.ledger.fallback_store import StoreOptions, open_store
from proxy.ledger.memory_store import MemoryStore
from proxy.ledger.store import Claim, Grant, SeatClaim, Store, StoreState, TokenClaim
from tests.support.redis_servers import HOST, Flavour, RedisServer, redis_server

WAVE: Final = 64  # upgrades at once
ROUNDS: Final = 9  # the cheapest counts: whatever else the machine does only adds
NEVER: Final = 1_000_000  # a limit that nobody reaches

ClaimsOf = Callable[[int], Sequence[Claim]]
"""What the n-th client asks for."""


def one_cap(number: int) -> Sequence[Claim]:
    """`per: user, connections`."""
    return [SeatClaim("user", b"user:%032d" % number, NEVER)]


def four_rules(number: int) -> Sequence[Claim]:
    """The rules of the README: a user's connections, an address's, seats of a room, upgrades of an address."""
    address = b"%032d" % (number % 16)
    return [
        SeatClaim("user", b"user:%032d" % number, NEVER),
        SeatClaim("ip", b"ip:" + address, NEVER),
        SeatClaim("room", b"room:%032d" % (number % 8), NEVER, member=b"%032d" % number),
        TokenClaim("upgrades", b"upgrades:" + address, 1e6, 1e6),
    ]


@dataclass(frozen=True, slots=True)
class Cost:
    """µs of CPU per admission and release."""

    gate: float
    server: float


async def admissions(store: Store, claims_of: ClaimsOf, waves: int) -> float:
    """Seconds of this process's CPU for one admission."""

    async def come(number: int) -> Grant:
        [answer] = await store.admit([claims_of(number)], time.monotonic())
        assert isinstance(answer, Grant)
        return answer

    before = time.process_time()
    for wave in range(waves):
        for grant in await asyncio.gather(*(come(wave * WAVE + number) for number in range(WAVE))):
            store.release(grant)
    return (time.process_time() - before) / (waves * WAVE)


class _Quiet:
    def state_changed(self, state: StoreState, why: str) -> None: ...

    def answered(self, seconds: float) -> None: ...

    def conflict(self, rule: str) -> None: ...

    def evicts(self, policy: str) -> None: ...


async def server_cpu(server: RedisServer) -> float:
    """Seconds."""
    told = await server.info("cpu")
    return float(told["used_cpu_user"]) + float(told["used_cpu_sys"])


async def measure(server: RedisServer, claims_of: ClaimsOf, waves: int) -> Cost:
    """The cheapest of some rounds."""
    shared = open_store(StoreOptions(StoreAddress((Endpoint(HOST, server.port),)), timeout=5.0), _Quiet())
    if (why := await shared.start()) is not None:
        raise RuntimeError(why)
    memory = MemoryStore()
    alone, gate, backend = [], [], []
    for _ in range(ROUNDS):
        alone.append(await admissions(memory, claims_of, waves))
        before = await server_cpu(server)
        gate.append(await admissions(shared, claims_of, waves))
        backend.append((await server_cpu(server) - before) / (waves * WAVE))
    await shared.stop()
    return Cost(1e6 * (min(gate) - min(alone)), 1e6 * min(backend))


async def main(flavour: Flavour, waves: int) -> None:
    gc.set_threshold(GC_THRESHOLD, 10, 10)  # as the gate does
    gc.freeze()
    print(f"{'claims':<12} {'gate µs more':>14} {'server µs':>10}")
    async with redis_server(flavour) as server:
        for claims_of in (one_cap, four_rules):
            cost = await measure(server, claims_of, waves)
            print(f"{claims_of.__name__:<12} {cost.gate:>14.1f} {cost.server:>10.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--waves", type=int, default=200)
    parser.add_argument("--flavour", choices=[one.value for one in Flavour], default=Flavour.REDIS.value)
    options = parser.parse_args(sys.argv[1:])
    uvloop.run(main(Flavour(options.flavour), options.waves))
