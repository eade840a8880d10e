"""Rules that count on each gate alone, beside shared ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.cluster.gates import GateProcess, gates
from tests.cluster.guests import Party, game, party, statuses
from tests.support.raw import upgrade_head
from tests.support.redis_servers import redis_server
from tests.support.waiting import eventually

CAP = 2  # of a gate
ALL = 3  # of all together


@asynccontextmanager
async def two_gates(folder: Path, rules: str) -> AsyncIterator[tuple[list[GateProcess], Party]]:
    yaml = f"refuse_with: http\nroutes: [{{name: room, path: '/{{room}}', upstream: game}}]\nrules:\n{rules}"
    async with game() as url, redis_server() as store, gates(folder, yaml, url, [store.url] * 2) as cluster, party() as people:
        for gate in cluster:
            await eventually(lambda gate=gate: is_shared(gate))
        yield cluster, people
        for gate in cluster:
            assert not gate.told("unhandled")
            assert "Traceback" not in gate.text()


async def is_shared(gate: GateProcess) -> bool:
    return not (await gate.scrape())["wsgate_store_degraded"]


async def knock(people: Party, gate: GateProcess, count: int, room: str = "hall", user: str = "user") -> dict[int, int]:
    """So many upgrades at once, of as many users."""
    return statuses(await people.knock(*((gate.port, upgrade_head(f"/{room}?token={user}-{number}")) for number in range(count))))


async def test_a_cap_of_each_instance_and_one_of_all_hold_together(tmp_path: Path) -> None:
    rules = f"""
  - {{name: each, per: room, connections: {CAP}, scope: instance}}
  - {{name: all, per: room, connections: {ALL}}}
"""
    async with two_gates(tmp_path, rules) as (cluster, people):
        assert await knock(people, cluster[0], 5) == {101: CAP, 429: 5 - CAP}
        assert await knock(people, cluster[1], 5) == {101: ALL - CAP, 429: 5 - ALL + CAP}
        await people.leave()
        for gate in cluster:
            await eventually(lambda gate=gate: nobody_is_in(gate))
        assert await knock(people, cluster[1], 5, room="other") == {101: CAP, 429: 5 - CAP}


async def nobody_is_in(gate: GateProcess) -> bool:
    samples = await gate.scrape()
    return not any(value for name, value in samples.items() if name.startswith("wsgate_seats{"))


async def test_upgrades_are_counted_by_each_instance(tmp_path: Path) -> None:
    async with two_gates(tmp_path, f"  - {{name: tries, per: ip, upgrades: {CAP}/h, burst: {CAP}, scope: instance}}\n") as (
        cluster,
        people,
    ):
        for gate in cluster:
            assert await knock(people, gate, 5) == {101: CAP, 429: 5 - CAP}


async def test_who_is_kept_out_by_one_instance_may_enter_by_another(tmp_path: Path) -> None:
    rules = "  - {name: chat, per: user, messages: 1/h, burst: 1, on_excess: close, penalty: 1h, scope: instance}\n"
    async with two_gates(tmp_path, rules) as (cluster, people):
        (guest,) = await people.knock((cluster[0].port, upgrade_head("/hall?token=user-0")))
        assert guest.status.result() == 101
        await guest.tick()
        with pytest.raises(asyncio.CancelledError):
            await guest.tick()
        await guest.gone.wait()
        assert await knock(people, cluster[0], 2) == {101: 1, 429: 1}
        assert await knock(people, cluster[1], 1) == {101: 1}
