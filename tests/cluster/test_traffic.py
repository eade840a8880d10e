"""What the store is asked for when nothing happens: heartbeats, and a slow sweep."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import pytest

from proxy.app import open_files
from proxy.ledger.seats.keeper import HEARTBEAT, JITTER
from proxy.ledger.seats.slow_sweep import REFRESH
from tests.cluster.gates import gates
from tests.cluster.guests import game, party, statuses
from tests.support.raw import upgrade_head
from tests.support.redis_servers import RedisServer, redis_server
from tests.support.waiting import eventually

SECONDS = 12.0
BATCH = 100  # upgrades at once
INTERVAL = HEARTBEAT * (1 - JITTER)  # seconds between two heartbeats at least
YAML = """
refuse_with: http
store_timeout: 1s
rules: [{name: everybody, per: global, connections: 100000}, {name: seats, per: user, connections: 3}]
"""


IN_SCRIPTS = {"hexists", "hincrby", "expire", "hgetall", "hset"}  # what the heartbeat and the sweep run on the server


async def asked(server: RedisServer) -> Counter[str]:
    """Commands since it started, without those that scripts run: of the gates, and `info` and `hello` of whoever counts."""
    stats = await server.info("commandstats")
    return Counter({name[8:]: int(about["calls"]) for name, about in stats.items() if name[8:] not in IN_SCRIPTS})


async def scripts_run(server: RedisServer) -> int:
    return (await asked(server))["evalsha"]


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
        before, started = await asked(store), time.monotonic()
        await asyncio.sleep(SECONDS)
        now = await asked(store)
        beats = (time.monotonic() - started) / INTERVAL + 1
        swept = 1 + beats * (guests + 1) * HEARTBEAT / REFRESH
        assert SECONDS / (HEARTBEAT * (1 + JITTER)) - 1 <= now["evalsha"] - before["evalsha"] <= beats + min(beats, swept)
        assert now["hkeys"] - before["hkeys"] <= swept
        assert now["ping"] - before["ping"] <= beats
        assert set(now - before) <= {"evalsha", "hkeys", "ping", "info", "hello"}
        assert len(people.inside) == guests
