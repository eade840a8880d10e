"""Values in the store that are not ours, or no more: whoever asks about them is refused and it is told, the store stays up, and nothing of
another program is deleted or changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.ledger.store import Claim, Denial, Grant, SeatClaim, StoreState
from tests.ledger.instances import PATIENCE, Instance, address_of, instance
from tests.ledger.penalty_contract import ANN, penalty
from tests.ledger.store_contract import NOW, ask, denied, granted, member, seat, token
from tests.support.redis_servers import Flavour, RedisServer, redis_server
from tests.support.waiting import eventually, until

TTL = 1.0  # seconds: who is not listed is soon taken for dead
ID = "f" * 16
COUNTS = ["1.5", "-5", "inf", "nan", "0", "0x10", " 7", "7 ", "1e3", "", "many", "9" * 30]
BUCKETS = ["nan 1", "1 nan", "inf 1", "1 inf", "-inf 1", "-1e300 1", "1e999 1", "1 1e999", "0x1 0x1", "1", "1 2 3", "", " ", "1  2"]
PENALTY = b"test:p:{%b}" % ANN


@pytest.fixture(params=[Flavour.REDIS, pytest.param(Flavour.VALKEY, marks=pytest.mark.long)], ids=lambda flavour: flavour.value)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[RedisServer]:
    async with redis_server(request.param) as one:
        yield one


@pytest.fixture
async def one(server: RedisServer) -> AsyncIterator[Instance]:
    async with instance(address_of(server), ttl=TTL) as found:
        yield found


@pytest.fixture
async def patient(server: RedisServer) -> AsyncIterator[Instance]:
    """One whose heartbeat has time for much work of the test's own."""
    async with instance(address_of(server), ttl=5 * TTL) as found:
        yield found


async def stays_a_conflict(one: Instance, server: RedisServer, claim: Claim, *keys: str) -> None:
    """Asked about again and again, for longer than it takes to reap: refused and told each time, and left as it is."""
    before = [await server.ask("HGETALL", key) for key in keys]
    deadline = asyncio.get_running_loop().time() + 2 * TTL
    asked = 0
    while asyncio.get_running_loop().time() < deadline:
        assert await denied(one.store, seat("fine", 99), claim) == Denial(1, None, ())
        asked += 1
        await asyncio.sleep(TTL / 10)
    assert one.heard.conflicts == [claim.rule] * asked
    assert [await server.ask("HGETALL", key) for key in keys] == before
    assert [await server.ask("TTL", key) for key in keys] == [-1] * len(keys)
    assert one.heard.states == [StoreState.UP]
    await granted(one.store, seat("fine", 99))


@pytest.mark.parametrize("count", COUNTS)
async def test_a_count_that_is_none_is_refused_at_once(one: Instance, server: RedisServer, count: str) -> None:
    await server.ask("HSET", "test:n:{seats}", ID, count)
    assert await denied(one.store, seat(limit=3)) == Denial(0, None, ())
    await server.ask("HSET", "test:n:{room}", ID, count)
    assert await denied(one.store, member("ann", limit=3)) == Denial(0, None, ())
    assert one.heard.conflicts == ["rule-seats", "rule-room"]
    assert one.heard.states == [StoreState.UP]


@pytest.mark.parametrize("count", ["many", "0"])
async def test_a_count_that_is_none_stays_under_a_name_that_may_be_a_dead_holders(one: Instance, server: RedisServer, count: str) -> None:
    await server.ask("HSET", "test:n:{seats}", ID, count)
    await stays_a_conflict(one, server, seat(limit=3), "test:n:{seats}")


@pytest.mark.parametrize("claim", [seat(limit=3), member("ann", "seats", limit=3)], ids=["connections", "members"])
@pytest.mark.parametrize("fields", [("visits", "7", "hits", "9"), (ID.upper(), "1"), (ID + "0", "1"), ("", "1")], ids=str)
async def test_numbers_of_another_program_are_neither_counted_nor_reaped(
    one: Instance, server: RedisServer, claim: SeatClaim, fields: tuple[str, ...]
) -> None:
    await server.ask("HSET", "test:n:{seats}", *fields)
    await stays_a_conflict(one, server, claim, "test:n:{seats}")


async def test_numbers_of_another_program_beside_ours_are_left_alone_by_the_slow_sweep(one: Instance, server: RedisServer) -> None:
    await granted(one.store, seat(limit=9))
    await server.ask("HSET", "test:n:{seats}", "visits", "7")
    claim = seat(limit=9)
    one.store._shared.keeper.undertaker.look_at(claim)
    await until(lambda: one.heard.conflicts == [claim.rule], PATIENCE)
    await asyncio.sleep(2 * TTL)
    assert await server.ask("HGET", "test:n:{seats}", "visits") == "7"
    assert one.heard.states == [StoreState.UP]


def holders(count: int) -> list[str]:
    return [text for number in range(count) for text in (f"{number:016x}", "1")]


async def test_thousands_of_fields_are_a_conflict_and_no_outage(patient: Instance, server: RedisServer) -> None:
    await server.ask("HSET", "test:n:{seats}", *holders(9_000))
    assert await denied(patient.store, seat(limit=3)) == Denial(0, None, ())
    assert patient.heard.conflicts == ["rule-seats"]
    await server.ask("HSET", "test:n:{visits}", *holders(9_000), "visits", "7")
    patient.store._shared.keeper.undertaker.look_at(seat("visits", limit=3))
    await until(lambda: len(patient.heard.conflicts) == 2, PATIENCE)
    assert patient.heard.states == [StoreState.UP]
    assert await server.ask("HLEN", "test:n:{visits}") == 9_001


async def test_thousands_who_died_one_after_the_other_keep_nobody_out_for_ever(one: Instance, server: RedisServer) -> None:
    """A cap that is not full has seats of all that ever died until somebody looks: instances that crash again and again."""
    await granted(one.store, seat(limit=99_999))
    await server.ask("HSET", "test:n:{seats}", *holders(2_500))
    assert await denied(one.store, seat(limit=99_999)) == Denial(0, None, ())

    async def is_in() -> bool:
        return isinstance(await ask(one.store, seat(limit=99_999)), Grant)

    await eventually(is_in, PATIENCE)
    assert one.holder is not None
    assert await server.ask("HGET", "test:n:{seats}", one.holder) == "2"
    assert one.heard.states == [StoreState.UP]


async def test_so_many_holders_as_there_may_be_are_none(one: Instance, server: RedisServer) -> None:
    await server.ask("HSET", "test:n:{seats}", *holders(1_000))
    await denied(one.store, seat(limit=3))
    assert one.heard.conflicts == []


@pytest.mark.parametrize("value", ["7", "7;", "x", "", ID, ID + "; ", ID + ";7;", "name=ann" + ID + ";;"])
async def test_a_member_that_is_not_ours(one: Instance, server: RedisServer, value: str) -> None:
    await granted(one.store, member("bob", limit=9))
    await server.ask("HSET", "test:m:{room}", "ann", value)
    assert await denied(one.store, member("ann", limit=9)) == Denial(0, None, ())
    assert one.heard.conflicts == ["rule-room"]
    assert await server.ask("HGET", "test:m:{room}", "ann") == value


async def test_members_whom_nobody_holds_are_not_ours(one: Instance, server: RedisServer) -> None:
    await server.ask("HSET", "test:m:{room}", "visits", "7", "hits", "9")
    await stays_a_conflict(one, server, member("ann", limit=3), "test:m:{room}")


async def test_numbers_of_another_program_beside_our_members_are_found_when_somebody_is_refused(one: Instance, server: RedisServer) -> None:
    await granted(one.store, member("ann", limit=1))
    await server.ask("HSET", "test:n:{room}", "visits", "7")
    await granted(one.store, member("ann", limit=1))
    assert await denied(one.store, member("bob", limit=1)) == Denial(0, None, ())
    assert one.heard.conflicts == ["rule-room"]
    assert await server.ask("HGET", "test:n:{room}", "visits") == "7"


@pytest.mark.parametrize("count", ["many", "0", "1.5", "9" * 30])
async def test_an_own_count_of_members_that_is_none(one: Instance, server: RedisServer, count: str) -> None:
    await granted(one.store, member("ann", limit=9))
    assert one.holder is not None
    await server.ask("HSET", "test:n:{room}", one.holder.decode(), count)
    assert await denied(one.store, member("bob", limit=9)) == Denial(0, None, ())
    assert one.heard.conflicts == ["rule-room"]


async def test_reaping_a_room_leaves_what_does_not_name_the_dead(one: Instance, server: RedisServer) -> None:
    await granted(one.store, member("ann", limit=3))
    await server.ask("HSET", "test:n:{room}", ID, "1")
    await server.ask("HSET", "test:m:{room}", "zoe", ID + ";", "visits", "7")

    async def is_in() -> bool:
        return isinstance(await ask(one.store, member("bob", limit=3)), Grant)

    await eventually(is_in, PATIENCE)
    assert await server.ask("HMGET", "test:m:{room}", "zoe", "visits") == [None, "7"]


@pytest.mark.parametrize("value", BUCKETS)
async def test_a_bucket_that_is_none(one: Instance, server: RedisServer, value: str) -> None:
    await server.ask("SET", "test:u:{tokens}", value)
    assert await denied(one.store, token(burst=9)) == Denial(0, None, ())
    assert one.heard.conflicts == ["rule-tokens"]
    assert await server.ask("GET", "test:u:{tokens}") == value
    assert one.heard.states == [StoreState.UP]


async def test_a_text_that_lives_for_some_time_is_no_penalty(one: Instance, server: RedisServer) -> None:
    await server.ask("SET", PENALTY, "something else", "PX", 60_000)
    assert await denied(one.store, penalty()) == Denial(0, None, ())
    assert one.heard.conflicts == ["rule"]
    one.store.penalize(ANN, 600.0, NOW)
    await until(lambda: one.heard.conflicts == ["rule", "rule"], PATIENCE)
    assert await server.ask("GET", PENALTY) == "something else"
    assert await server.ask("PTTL", PENALTY) <= 60_000


@pytest.mark.parametrize("command", [("SET", "test:n:{seats}", "x"), ("LPUSH", "test:n:{seats}", "x")], ids=["text", "list"])
async def test_the_look_at_a_key_of_another_type_is_a_conflict_and_no_outage(
    one: Instance, server: RedisServer, command: tuple[str, ...]
) -> None:
    await granted(one.store, seat())
    await server.ask("DEL", "test:n:{seats}")
    await server.ask(*command)
    one.store._shared.keeper.undertaker.look_at(seat())
    await until(lambda: one.heard.conflicts == ["rule-seats"], PATIENCE)
    heartbeat = one.store._shared.keeper.holders.heard_at
    await until(lambda: one.store._shared.keeper.holders.heard_at > heartbeat, PATIENCE)
    assert one.heard.states == [StoreState.UP]


@pytest.mark.parametrize("fields", [("visits", "7"), (ID, "many"), (ID, "-1")], ids=str)
async def test_a_listing_of_another_program_gets_nothing_added_and_nobody_is_buried(server: RedisServer, fields: tuple[str, ...]) -> None:
    await server.ask("HSET", "test:h", *fields)
    async with instance(address_of(server), ttl=TTL) as one:
        await asyncio.sleep(2 * TTL)
        assert await server.ask("HGETALL", "test:h") == dict([fields])
        assert await server.ask("TTL", "test:h") == -1
        assert set(one.heard.conflicts) == {""}
        assert one.store.state is StoreState.DOWN
        await server.ask("DEL", "test:h")
        await one.up()


async def test_a_listing_that_another_program_writes_to_leaves_the_instance_alone_and_nobody_is_buried(
    one: Instance, server: RedisServer
) -> None:
    await server.ask("HSET", "test:h", "visits", "7")
    await until(lambda: one.store.state is StoreState.DOWN, PATIENCE)
    await asyncio.sleep(2 * TTL)
    assert await server.ask("HGET", "test:h", "visits") == "7"
    assert set(one.heard.conflicts) == {""}
    await server.ask("HDEL", "test:h", "visits")
    await one.up()


@pytest.mark.parametrize("claim", [seat(limit=9), member("ann", "seats", limit=9)], ids=["connections", "members"])
async def test_what_was_taken_alone_is_not_written_to_what_is_not_ours(server: RedisServer, claim: SeatClaim) -> None:
    async with instance(address_of(server), ttl=TTL) as one:
        server.freeze()
        await until(lambda: one.store.state is StoreState.DOWN, PATIENCE)
        grant = await granted(one.store, claim)
        server.thaw()
        await server.ask("HSET", "test:n:{seats}", "visits", "7")
        await one.up()
        await until(lambda: one.heard.conflicts, PATIENCE)
        assert await server.ask("HGETALL", "test:n:{seats}") == {"visits": "7"}
        assert await server.ask("TTL", "test:n:{seats}") == -1
        one.store.release(grant)
        await granted(one.store, seat("fine"))
        assert await server.ask("HGETALL", "test:n:{seats}") == {"visits": "7"}
