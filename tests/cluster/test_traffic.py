"""What the store is asked for when nothing happens: heartbeats, and a slow sweep."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.app import open_files
from tests.cluster.gates import gates
from tests.cluster.guests import game, party, statuses
from tests.support.raw import upgrade_head
from tests.support.redis_servers import RedisServer, redis_server
from tests.support.waiting import eventually

SECONDS = 12.0
BATCH = 100  # upgrades at once
PER_HEARTBEAT = 4  # commands: the heartbeat, and the share of the sweep with a look at it
INTERVAL = 1.8  # seconds between two heartbeats at least
YAML = """
refuse_with: http
store_timeout: 1s
rules: [{name: everybody, per: global, connections: 100000}, {name: seats, per: user, connections: 3}]
"""


async def scripts_run(server: RedisServer) -> int:
    """Calls of the gates since it started; nobody else uses scripts or reads hashes."""
    stats = await server.info("commandstats")
    return sum(int(stats[f"cmdstat_{name}"]["calls"]) for name in ("evalsha", "hkeys") if f"cmdstat_{name}" in stats)


@pytest.mark.parametrize("guests", [500, pytest.param(9000, marks=[pytest.mark.long, pytest.mark.timeout(180)])])
async def test_an_idle_gate_sends_its_heartbeat_and_the_slow_sweep(guests: int, tmp_path: Path) -> None:
    if open_files() < 2 * guests + 200:
        pytest.skip("too few open files for so many connections")
    async with redis_server() as store, game() as url, gates(tmp_path, YAML, url, [store.url]) as (gate,), party() as people:
        for first in range(0, guests, BATCH):
            heads = (upgrade_head(f"/?token=user-{number}") for number in range(first, first + BATCH))
            assert statuses(await people.knock(*((gate.port, head) for head in heads))) == {101: BATCH}

        async def is_quiet() -> bool:
            before = await scripts_run(store)
            await asyncio.sleep(0.3)
            return await scripts_run(store) == before

        await eventually(is_quiet)
        before = await scripts_run(store)
        await asyncio.sleep(SECONDS)
        assert 0 < await scripts_run(store) - before <= PER_HEARTBEAT * (SECONDS / INTERVAL + 1)
        assert len(people.inside) == guests
