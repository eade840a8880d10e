"""What is told of own seats, when, and what becomes of what was not heard."""

from __future__ import annotations

import asyncio
import time

import pytest

import proxy.ledger.seats.keeper
from proxy.ledger.scripts import SEATS_AT_ONCE
from proxy.ledger.store import StoreDown
from tests.ledger.instances import PATIENCE, address_of, instance, seats_in, the_server_has
from tests.ledger.store_contract import granted, member, seat
from tests.support.cuttable import cuttable
from tests.support.redis_servers import redis_server
from tests.support.waiting import until


async def test_what_changes_in_one_turn_of_the_loop_is_told_in_one_script() -> None:
    async with redis_server() as server, instance(address_of(server), ttl=60.0) as one:
        grants = [await granted(one.store, seat(f"k{i}"), member(f"user {i}", "room", 99)) for i in range(SEATS_AT_ONCE // 2)]
        before = one.store._shared._link.commands
        for grant in grants:
            one.store.release(grant)
        await the_server_has(server, {})
        assert one.store._shared._link.commands - before == 1


async def test_whoever_is_not_listed_any_more_tells_everything_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy.ledger.seats.keeper, "HEARTBEAT", 100.0)
    async with redis_server() as server, instance(address_of(server), ttl=500.0) as one:
        grants = [await granted(one.store, seat(f"k{i}")) for i in range(3)]
        old = one.holder
        await server.ask("FLUSHALL")
        one.store.release(grants[0])  # a release notices it as well, long before the next heartbeat
        await until(lambda: one.holder not in (old, None), PATIENCE)
        await until(lambda: one.store._own.untold == 0, PATIENCE)
        assert await seats_in(server) == {"k1": 1, "k2": 1}


async def test_what_was_not_heard_is_told_again() -> None:
    async with redis_server() as server, instance(address_of(server), deadline=0.2) as one:
        grant = await granted(one.store, seat())
        server.freeze()
        one.store.release(grant)
        assert one.store._own.untold == 1
        await until(lambda: one.store._own.untold == 0, PATIENCE)  # sent
        await until(lambda: one.store._own.untold == 1, PATIENCE)  # in vain
        server.thaw()
        await until(lambda: len(one.store._own) == 0, PATIENCE)
        assert await server.ask("EXISTS", "test:n:{seats}") == 0


async def test_nothing_is_left_under_an_id_of_before_if_only_the_first_of_two_words_was_heard() -> None:
    async with redis_server() as server, cuttable(server.port) as link, instance(address_of(server, link.port), ttl=60.0) as one:
        grants = [await granted(one.store, seat(limit=2)) for _ in range(2)]
        link.delay = 0.3  # each way: the second word goes out before the first one is answered
        one.store.release(grants[0])
        await the_server_has(server, {"seats": 1})
        one.store.release(grants[1])
        await server.ask("DEL", "test:h")
        link.delay = 0.0
        await the_server_has(server, {})
        await until(lambda: len(one.store._own) == 0, PATIENCE)


async def test_everything_is_told_only_when_what_was_on_its_way_is_heard() -> None:
    async with redis_server() as server, instance(address_of(server), ttl=60.0, deadline=0.2) as one:
        grant, holder = await granted(one.store, seat()), one.holder
        server.freeze()
        one.store.release(grant)
        await until(lambda: one.store._own.untold == 0, PATIENCE)  # sent
        assert holder is not None
        with pytest.raises(StoreDown):
            await one.store._shared.keeper.teller.everything(holder)
        server.thaw()
        await the_server_has(server, {})


async def test_an_id_of_before_has_nothing_any_more_when_all_is_told() -> None:
    async with redis_server() as server, instance(address_of(server)) as one:
        await granted(one.store, seat(), member("ann"))
        old = one.holder
        one.store._shared.keeper.doubt()
        await one.up()
        await the_server_has(server, {"seats": 1, "room": 1})
        new = (one.holder or b"").decode()
        assert await server.ask("HGETALL", "test:n:{seats}") == {new: "1"}
        assert await server.ask("HGETALL", "test:n:{room}") == {new: "1"}
        assert await server.ask("HGETALL", "test:m:{room}") == {"ann": f"{new};"}
        assert list(await server.ask("HGETALL", "test:h")) == [new]
        assert old is not None
        assert one.store._shared.keeper.teller.former == []


async def test_many_seats_are_told_beside_the_work_of_the_loop() -> None:
    async with redis_server() as server, instance(address_of(server)) as one:
        for i in range(4000):
            one.store._own.take_alone(seat(f"k{i}"))
        server.kill()
        await server.start()
        longest, last = 0.0, time.process_time()  # of our own work: what other processes take of a core is not ours

        async def watch() -> None:
            nonlocal longest, last
            while True:
                await asyncio.sleep(0.001)
                now = time.process_time()
                longest, last = max(longest, now - last), now

        watching = asyncio.create_task(watch())
        await until(lambda: one.store._own.untold == 0, PATIENCE)
        watching.cancel()
        assert longest < 0.015  # some 2 ms; all at once would be 20 and more
        assert await server.ask("DBSIZE") == 4002  # and who holds them, and that the data was lost
