"""Penalties that are told to a store: what is told when, over a link that is there or not."""

from __future__ import annotations

import asyncio

from proxy.ledger.links.addresses import Endpoint, StoreAddress
from proxy.ledger.links.redis_link import RedisLink
from proxy.ledger.scripts import Keys
from proxy.ledger.seats.shared_penalties import TOLD_AT_ONCE, SharedPenalties
from tests.ledger.instances import PATIENCE, Heard
from tests.ledger.recording_link import RecordingLink
from tests.ledger.store_contract import NOW
from tests.support.redis_servers import HOST, redis_server
from tests.support.waiting import eventually, until

KEYS = Keys("test:", listed=True)


async def test_what_was_imposed_before_there_was_a_link_is_told_some_at_a_time_and_only_while_it_lasts() -> None:
    async with redis_server() as server:
        endpoint = Endpoint(HOST, server.port)

        async def locate() -> Endpoint:
            return endpoint

        link = RedisLink(StoreAddress((endpoint,)), locate, 2.0, Heard())
        penalties = SharedPenalties(link, KEYS, Heard())
        for i in range(TOLD_AT_ONCE + 10):
            penalties.impose(f"rule:{i}".encode(), 100.0, NOW)
        penalties.impose(b"rule:short", 1.0, NOW)
        penalties.sweep(NOW)
        assert link.commands == 0
        link.start()
        await until(lambda: link.is_usable, PATIENCE)
        penalties.sweep(NOW + 2)
        await eventually(lambda: has(server.ask("DBSIZE"), TOLD_AT_ONCE))
        penalties.sweep(NOW + 2)
        await eventually(lambda: has(server.ask("DBSIZE"), TOLD_AT_ONCE + 10))
        assert 97_000 < await server.ask("PTTL", "test:p:{rule:0}") <= 98_000
        await server.ask("FLUSHALL")
        penalties.sweep(NOW + 3)
        assert await server.ask("DBSIZE") == 0
        penalties.doubt()
        penalties.sweep(NOW + 3)
        await eventually(lambda: has(server.ask("DBSIZE"), TOLD_AT_ONCE))
        await link.stop()
        penalties.sweep(NOW + 200)
        assert len(penalties) == 0


async def test_what_nobody_is_told_of_is_bounded_by_what_still_lasts() -> None:
    link = RecordingLink()
    link.is_usable = False
    penalties = SharedPenalties(link, KEYS, Heard())
    penalties.impose(b"rule:long", 10_000.0, NOW)
    for second in range(100):
        for i in range(50):
            penalties.impose(b"rule:%d %d" % (second, i), 0.5, NOW + second)
        penalties.sweep(NOW + second)
        assert len(penalties._untold) <= TOLD_AT_ONCE + 2 * 51
    link.is_usable = True
    penalties.sweep(NOW + 200.0)
    assert [command for command, _ in link.sent] == [KEYS.penalize(b"rule:long", 9_800.0)]


async def has(answer: asyncio.Future[int], wanted: int) -> bool:
    return await answer == wanted
