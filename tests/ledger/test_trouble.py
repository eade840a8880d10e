"""Bad days of a store and of its instances, each as it happened once: dead holders, no memory, wrong clocks, lost scripts, lost data."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

import proxy.ledger.links.redis_link
from proxy.ledger import fallback_store
from proxy.ledger.seats.holders import SETTLED
from proxy.ledger.store import Claim, Denial, StoreState
from tests.ledger.instances import HEALED, PATIENCE, Instance, address_of, instance, seats_in, the_server_has
from tests.ledger.store_contract import ask, denied, granted, member, seat, token, took
from tests.support.cuttable import cuttable
from tests.support.redis_servers import Flavour, RedisServer, redis_server
from tests.support.waiting import eventually, until


@pytest.fixture(params=[Flavour.REDIS, pytest.param(Flavour.VALKEY, marks=pytest.mark.long)], ids=lambda flavour: flavour.value)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[RedisServer]:
    async with redis_server(request.param) as one:
        yield one


# --- the dead in the way of several claims --------------------------------------------------------------------------------------


async def have_died(other: Instance, *dead: bytes | None) -> None:
    """Wait until another instance knows."""
    ids = [one for one in dead if one is not None]
    await until(lambda: set(other.store._shared.keeper.holders.dead_among(ids, 0.0)) == set(ids), PATIENCE)


async def test_a_dead_instance_that_filled_several_claims_is_in_nobodys_way(server: RedisServer) -> None:
    async with (
        cuttable(server.port) as link,
        instance(address_of(server, link.port), deadline=1.2) as other,
        instance(address_of(server)) as one,
    ):
        for _ in range(3):
            await granted(one.store, seat("user", 3), seat("ip", 3), member("ann", limit=1))
        await one.crash()
        await have_died(other, one.holder)
        link.delay = 0.1  # each way: there is time to ask, to free what is in the way, and to ask again; but not for each claim anew
        await granted(other.store, seat("user", 3), seat("ip", 3), member("bob", limit=1))
        link.delay = 0.0
        assert await seats_in(server) == {"user": 1, "ip": 1, "room": 1}


async def test_a_member_with_tabs_on_a_dead_and_on_a_living_instance_keeps_his_seat(server: RedisServer) -> None:
    address = address_of(server)
    async with instance(address) as other, instance(address) as one:
        for each in (one, other):
            await granted(each.store, member("ann"))
        await one.crash()
        await have_died(other, one.holder)
        await denied(other.store, member("bob"))
        assert other.holder is not None
        assert await server.ask("HGETALL", "test:n:{room}") == {other.holder.decode(): "1"}
        assert await server.ask("HGETALL", "test:m:{room}") == {"ann": other.holder.decode() + ";"}


async def test_several_dead_instances_each_in_the_way_of_another_claim_are_in_nobodys_way(server: RedisServer) -> None:
    address = address_of(server)
    async with instance(address) as other, instance(address) as one, instance(address) as two:
        await granted(one.store, seat("user"))
        await granted(two.store, seat("ip"))
        await one.crash()
        await two.crash()
        await have_died(other, one.holder, two.holder)
        await granted(other.store, seat("user"), seat("ip"))


async def test_seats_that_take_longer_to_free_than_anybody_waits_are_free_at_the_second_knock(server: RedisServer) -> None:
    async with cuttable(server.port) as link, AsyncExitStack() as stack:
        other = await stack.enter_async_context(instance(address_of(server, link.port), deadline=1.0))
        one = await stack.enter_async_context(instance(address_of(server)))
        await granted(one.store, seat("user"), seat("ip"))
        await one.crash()
        await have_died(other, one.holder)
        link.delay = 0.2  # each way: there is time for two questions, but not for three
        began = time.monotonic()
        first = await ask(other.store, seat("user"), seat("ip"))
        assert time.monotonic() - began < 1.2  # three would take so long
        assert isinstance(first, Denial)
        link.delay = 0.0
        await until(lambda: not other.store._shared.keeper.undertaker._looks, PATIENCE)
        await granted(other.store, seat("user"), seat("ip"))
        assert StoreState.DOWN not in other.heard.states


# --- out of memory ------------------------------------------------------------------------------------------------------------------


async def test_without_memory_what_is_given_back_reaches_the_store_all_the_same(server: RedisServer) -> None:
    async with instance(address_of(server)) as one:
        grants = [await granted(one.store, seat(limit=9), member(f"user {i}", limit=9)) for i in range(4)]
        alone = await granted(one.store, seat("other"))
        before = one.holder
        await server.ask("CONFIG", "SET", "maxmemory", "1")
        one.store.release(grants.pop())  # while nobody has noticed
        await the_server_has(server, {"seats": 3, "room": 3, "other": 1}, HEALED)
        await granted(one.store, seat("new"))
        await until(lambda: one.store.state is StoreState.DOWN, PATIENCE)
        told = len(one.heard.states)
        for grant in (grants.pop(), alone):
            one.store.release(grant)
        await the_server_has(server, {"seats": 2, "room": 2, "new": 1}, HEALED)
        await asyncio.sleep(3.0)  # a ttl
        assert one.holder == before  # it goes on being listed
        one.store.release(grants.pop())
        await the_server_has(server, {"seats": 1, "room": 1, "new": 1}, HEALED)
        assert one.store.state is StoreState.DOWN
        assert len(one.heard.states) <= told + 2  # and each change is told once
        await server.ask("CONFIG", "SET", "maxmemory", "0")
        await one.up(HEALED)


async def test_an_instance_that_comes_while_there_is_no_memory_decides_alone_until_there_is(server: RedisServer) -> None:
    await server.ask("CONFIG", "SET", "maxmemory", "1")
    async with instance(address_of(server)) as one:
        assert one.store.state is StoreState.DOWN
        grant = await granted(one.store, seat())
        await denied(one.store, seat())
        one.store.release(grant)
        await granted(one.store, seat("kept"))
        await server.ask("CONFIG", "SET", "maxmemory", "0")
        await one.up(HEALED)
        await the_server_has(server, {"kept": 1}, HEALED)


# --- clocks -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [(), (seat("free"),)], ids=["alone", "beside a seat"])
async def test_a_clock_that_went_back_keeps_an_empty_bucket_empty_for_no_longer_than_a_refill(
    server: RedisServer, others: tuple[Claim, ...]
) -> None:
    async with instance(address_of(server)) as one:
        await server.ask("SET", "test:u:{tokens}", f"0.25 {time.time() + 3600:.6f}", "EX", 7200)
        claim = token(rate=2.0, burst=5.0)
        wait = (await denied(one.store, *others, claim)).retry_after
        assert wait is not None
        assert wait == pytest.approx(0.375)
        await asyncio.sleep(wait + 0.02)
        await granted(one.store, claim)
        level, stamp = (await server.ask("GET", "test:u:{tokens}")).split()
        assert float(level) < 1
        assert abs(float(stamp) - time.time()) < 60


async def test_a_shadow_rate_in_the_future_fills_up_too(server: RedisServer) -> None:
    async with instance(address_of(server)) as one:
        await server.ask("SET", "test:u:{tokens}", f"0 {time.time() + 3600:.6f}")
        assert (await granted(one.store, token(rate=5.0, shadow=True))).over == (0,)
        await asyncio.sleep(0.25)
        assert (await granted(one.store, token(rate=5.0, shadow=True))).over == ()


async def test_a_clock_that_went_back_gives_nothing(server: RedisServer) -> None:
    async with instance(address_of(server)) as one:
        await server.ask("SET", "test:u:{tokens}", f"0 {time.time() + 3600:.6f}")
        for _ in range(20):
            await denied(one.store, token(rate=0.01, burst=5.0))


# --- scripts and deadlines ------------------------------------------------------------------------------------------------------------


async def test_a_missing_script_costs_no_more_than_the_deadline(server: RedisServer) -> None:
    async with cuttable(server.port) as link, instance(address_of(server, link.port), deadline=1.0) as one:
        await granted(one.store, seat("first"))
        link.delay = 0.35  # each way: there is time for one question, but not for two
        await granted(one.store, seat("second"))
        await server.ask("SCRIPT", "FLUSH")
        began = time.monotonic()
        await granted(one.store, seat("third"))
        assert time.monotonic() - began < 1.3
        link.delay = 0.0
        await the_server_has(server, {"first": 1, "second": 1, "third": 1}, HEALED)


async def test_what_was_waited_for_in_vain_is_measured_too(server: RedisServer) -> None:
    async with cuttable(server.port) as link, instance(address_of(server, link.port), deadline=0.1) as one:
        link.hold()
        await granted(one.store, seat())
        assert len(one.heard.seconds) == 1
        assert 0.09 < one.heard.seconds[0] < 1.0


# --- lost data ------------------------------------------------------------------------------------------------------------------------


async def test_who_starts_just_after_a_flush_waits_for_the_others_to_tell_what_they_hold(server: RedisServer) -> None:
    address = address_of(server)
    async with instance(address) as one, instance(address) as other:
        for i in range(10):
            await granted((one, other)[i % 2].store, seat("all", 10), member(f"user {i}", limit=10))
        await listened_to(server, 2)
        await server.ask("FLUSHALL")
        async with AsyncExitStack() as stack:
            newcomers = [instance(address) for _ in range(2)]
            for late in await asyncio.gather(*map(stack.enter_async_context, newcomers)):
                assert late.reason is None
                assert late.heard.states == [StoreState.HEALING, StoreState.UP]
                await denied(late.store, seat("all", 10))
                await denied(late.store, member("late", limit=10))
        await the_server_has(server, {"all": 10, "room": 10}, HEALED)


async def test_of_many_who_start_after_a_flush_that_one_has_not_noticed_nobody_opens_before_it_knows(server: RedisServer) -> None:
    """Each of them is listed, and does not listen yet."""
    address = address_of(server)
    async with instance(address) as one, AsyncExitStack() as stack:
        await granted(one.store, seat())
        await listened_to(server, 1)
        await server.ask("FLUSHALL")
        for late in await asyncio.gather(*(stack.enter_async_context(instance(address)) for _ in range(4))):
            assert late.heard.states == [StoreState.HEALING, StoreState.UP]
            await denied(late.store, seat())


async def test_who_starts_just_after_a_flush_does_not_open_before_it_knows(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallback_store, "START_PATIENCE", 0.5)
    address = address_of(server)
    async with instance(address, ttl=5.0) as one:
        await granted(one.store, seat())
        await listened_to(server, 1)
        await server.ask("FLUSHALL")
        async with instance(address, ttl=5.0) as late:
            assert late.reason is None
            await denied(late.store, seat())


async def listened_to(server: RedisServer, count: int) -> None:
    async def are_there() -> bool:
        return len(await server.ask("PUBSUB", "CHANNELS", "test:i:*")) == count

    await eventually(are_there, PATIENCE)


async def test_after_a_flush_whoever_was_there_waits_for_the_others(server: RedisServer) -> None:
    """Alone as well: he may not have heard of them yet."""
    async with instance(address_of(server)) as one:
        before = one.holder
        await server.ask("FLUSHALL")
        await until(lambda: one.holder not in (None, before), PATIENCE)
        began = time.monotonic()
        await one.up()
        assert time.monotonic() - began > 0.6  # a heartbeat


async def test_who_starts_on_a_store_that_was_never_used_decides_at_once(server: RedisServer) -> None:
    address = address_of(server)
    async with AsyncExitStack() as stack:
        newcomers = [instance(address) for _ in range(4)]
        for one in await asyncio.gather(*map(stack.enter_async_context, newcomers)):
            assert one.heard.states == [StoreState.UP]
            assert one.reason is None


async def test_who_comes_to_others_and_after_them_decides_at_once(server: RedisServer) -> None:
    address = address_of(server)
    async with instance(address), instance(address) as one:
        await listened_to(server, 2)
        async with instance(address) as third:
            assert third.heard.states == [StoreState.UP]
        await one.crash()
        await one.store._subscription.stop()
        async with instance(address) as fourth:
            assert fourth.heard.states == [StoreState.UP]


@asynccontextmanager
async def the_channel_of_one_that_lost_its_power(server: RedisServer, listeners: int = 1) -> AsyncIterator[None]:
    """The server lists it until TCP has found out. `listeners`: with those who live."""
    async with server.client() as client, client.pubsub() as gone:
        await gone.subscribe("test:i:" + "d" * 16)
        await listened_to(server, listeners)
        yield


async def test_a_channel_that_outlives_its_instance_is_no_loss_of_data(server: RedisServer) -> None:
    async with the_channel_of_one_that_lost_its_power(server), instance(address_of(server)) as one:
        assert one.heard.states == [StoreState.HEALING, StoreState.UP]  # there may be one that was forgotten
        assert await server.ask("EXISTS", "test:l") == 0  # which would have said so by now
        bucket = one.store.open_bucket(b"rule:k", 1.0, 30.0, time.monotonic())
        assert await took(bucket, 30)


async def test_beside_one_who_was_there_for_long_nobody_is_missed(server: RedisServer) -> None:
    async with instance(address_of(server)) as one:

        async def has_been_there_for_long() -> bool:
            return int(await server.ask("HGET", "test:h", one.holder or b"")) >= SETTLED

        await eventually(has_been_there_for_long)
        async with the_channel_of_one_that_lost_its_power(server, 2), instance(address_of(server)) as late:
            assert late.heard.states == [StoreState.UP]


async def test_who_starts_when_all_are_listed_again_waits_until_they_have_told_what_they_hold(server: RedisServer) -> None:
    async with cuttable(server.port) as link, instance(address_of(server, link.port), ttl=10.0) as one:
        await granted(one.store, seat())
        await listened_to(server, 1)
        link.delay = 0.2  # each way: it is listed two of these before it tells anything
        await server.ask("FLUSHALL")
        noticing = asyncio.ensure_future(ask(one.store, seat("other")))
        await eventually(lambda: server.ask("EXISTS", "test:h"))
        assert await server.ask("EXISTS", "test:l") == 1  # from that moment on
        async with instance(address_of(server), ttl=10.0) as late:
            assert late.reason is None
            assert late.heard.states == [StoreState.HEALING, StoreState.UP]
            await denied(late.store, seat())
        await noticing


async def test_a_while_after_a_flush_nobody_waits_any_more(server: RedisServer) -> None:
    async with instance(address_of(server)) as one:
        before = one.holder
        await server.ask("FLUSHALL")
        await until(lambda: one.holder not in (None, before), HEALED)
        await one.up()  # the others have had their time
        async with the_channel_of_one_that_lost_its_power(server, 2), instance(address_of(server)) as late:
            assert late.heard.states == [StoreState.UP]


async def test_a_new_connection_is_no_loss_of_data(server: RedisServer) -> None:
    async with cuttable(server.port) as link, instance(address_of(server, link.port)) as one:
        before = one.holder
        link.refuse()
        await until(lambda: one.store.state is StoreState.DOWN, PATIENCE)
        await link.forward()
        await one.up()
        assert one.holder != before
        assert await server.ask("EXISTS", "test:l") == 0


# --- data of the past ---------------------------------------------------------------------------------------------------------------


async def have_beaten(*instances: Instance) -> None:
    """Each has heard of a heartbeat that was sent from now on."""
    now = time.monotonic()
    await until(lambda: all(one.store._shared.keeper.holders.heard_at > now for one in instances), PATIENCE)


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between attempts to connect: the others are back within the time that they are given."""
    monkeypatch.setattr(proxy.ledger.links.redis_link, "PAUSES", (0.02, 0.05))


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("is_new", [False, True], ids=["before", "after"])
async def test_on_data_of_the_past_nobody_decides_before_the_others_have_told_what_they_hold(server: RedisServer, is_new: bool) -> None:
    """What was saved has the seats of one only. He comes back first. The other one came before that was saved, or after it."""
    async with cuttable(server.port) as link, AsyncExitStack() as stack:
        one = await stack.enter_async_context(instance(address_of(server)))
        if not is_new:
            other = await stack.enter_async_context(instance(address_of(server, link.port)))
        for number in range(10):
            await granted(one.store, seat(limit=20), member(f"early {number}", limit=20))
        await server.ask("SAVE")
        if is_new:
            other = await stack.enter_async_context(instance(address_of(server, link.port)))
        for number in range(10):
            await granted(other.store, seat(limit=20), member(f"late {number}", limit=20))
        await have_beaten(one, other)
        link.refuse()
        server.kill()
        await server.start()
        await until(lambda: one.store._shared.keeper.teller.is_open, PATIENCE)
        assert one.store.state is StoreState.HEALING
        assert (await seats_in(server))["seats"] == 10
        await link.forward()
        await other.up()
        await the_server_has(server, {"seats": 20, "room": 20})
        await one.up()
        await denied(one.store, seat(limit=20))
        await denied(one.store, member("new", limit=20))
        assert await server.ask("EXISTS", "test:l") == is_new  # who finds nobody whom he knew, and only he, claims a loss


@pytest.mark.usefixtures("short_pauses")
async def test_an_id_from_long_ago_that_comes_back_with_old_data_is_nobodys_at_once(server: RedisServer) -> None:
    async with cuttable(server.port) as link, instance(address_of(server, link.port)) as one, instance(address_of(server)) as other:
        await granted(one.store, seat())
        long_ago = one.holder
        await server.ask("SAVE")
        link.refuse()
        await until(lambda: one.store.state is StoreState.DOWN, PATIENCE)
        await link.forward()
        await one.up()
        assert one.holder != long_ago
        await have_beaten(one, other)
        server.kill()
        await server.start()
        await one.up()
        await other.up()
        assert not await server.ask("HEXISTS", "test:h", long_ago or b"")
        await the_server_has(server, {"seats": 1})


@pytest.mark.usefixtures("short_pauses")
async def test_who_finds_his_id_from_long_ago_waits_for_those_whom_he_may_not_know(server: RedisServer) -> None:
    async with instance(address_of(server)) as one:
        long_ago = one.holder

        async def has_settled() -> bool:
            return int(await server.ask("HGET", "test:h", long_ago or b"")) >= SETTLED

        await eventually(has_settled)
        await server.ask("SAVE")
        await server.ask("CLIENT", "KILL", "TYPE", "normal")
        await until(lambda: one.holder not in (long_ago, None), PATIENCE)
        await one.up()
        before = one.holder
        server.kill()
        await server.start()
        await until(lambda: one.holder not in (before, None) and one.store._shared.keeper.teller.is_open, PATIENCE)
        assert one.store.state is StoreState.HEALING
        await one.up()


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("with_data", [False, True], ids=["reconnect", "restart"])
async def test_after_an_outage_that_lost_nothing_nobody_waits_for_others(server: RedisServer, with_data: bool) -> None:
    async with instance(address_of(server)) as one, instance(address_of(server)) as other:
        both = (one, other)
        await have_beaten(*both)
        before = [each.holder for each in both]
        if with_data:
            await server.restart(keep_data=True)
        else:
            await server.ask("CLIENT", "KILL", "TYPE", "normal")
        await until(lambda: not {each.holder for each in both} & {*before, None}, PATIENCE)
        await asyncio.gather(*(each.up() for each in both))
        assert [each.store._shared.keeper._patience for each in both] == [0.0, 0.0]
        assert not [why for each in both for why in each.heard.reasons if "others" in why]


async def test_one_who_was_taken_for_dead_waits_for_none_of_those_who_live(server: RedisServer) -> None:
    async with cuttable(server.port) as link, instance(address_of(server, link.port)) as one, instance(address_of(server)) as other:
        before = one.holder
        await have_beaten(one)
        assert one.store._shared.keeper.holders.listed() == {other.holder}
        link.hold()
        await until(lambda: before not in other.store._shared.keeper.holders.listed(), PATIENCE)
        await link.forward()
        await one.up()
        assert one.holder != before
        assert not [why for why in one.heard.reasons if "others" in why]


async def test_who_may_not_ask_for_the_mark_starts_all_the_same(server: RedisServer) -> None:
    await server.ask("ACL", "SETUSER", "gate", "on", ">secret", "~test:*", "&test:*", "+@all", "-pttl")
    address = replace(address_of(server), username="gate", password="secret")
    async with instance(address) as one:
        assert one.heard.states == [StoreState.UP]
        before = one.holder
        await granted(one.store, seat())
        await server.ask("FLUSHALL")
        await until(lambda: one.holder not in (None, before), HEALED)
        await one.up()
        await the_server_has(server, {"seats": 1})


async def test_one_who_knew_nobody_and_was_taken_for_dead_waits_for_nobody(server: RedisServer) -> None:
    async with cuttable(server.port) as link, instance(address_of(server, link.port), deadline=0.2) as one:
        before = one.holder
        link.hold()
        async with instance(address_of(server)):

            async def is_buried() -> bool:
                return not await server.ask("HEXISTS", "test:h", before or b"")

            await eventually(is_buried)
            await link.forward()
            await one.up()
            assert one.holder != before
            assert not [why for why in one.heard.reasons if "forgotten" in why]


async def test_one_who_knew_others_waits_for_them_though_strangers_were_there_for_long(server: RedisServer) -> None:
    """They may have been cut off with him."""
    async with (
        cuttable(server.port) as link,
        instance(address_of(server, link.port), deadline=0.2) as one,
        instance(address_of(server)) as other,
    ):
        await until(lambda: other.holder in one.store._shared.keeper.holders.listed(), PATIENCE)
        link.refuse()
        await until(lambda: one.store.state is StoreState.DOWN, PATIENCE)
        await server.ask("FLUSHALL")
        await server.ask("HSET", "test:h", "d" * 16, SETTLED)
        await link.forward()
        await one.up()
        assert [why for why in one.heard.reasons if "has forgotten" in why]


async def listeners(server: RedisServer) -> object:
    return await server.ask("PUBSUB", "CHANNELS", "test:*")


async def test_who_listens_in_another_database_was_not_forgotten_in_this() -> None:
    """Channels are of the whole server."""
    async with redis_server() as server, instance(replace(address_of(server), database=1)):
        await eventually(lambda: listeners(server))
        before = time.monotonic()
        async with instance(address_of(server)) as first:
            assert first.store.state is StoreState.UP
            assert StoreState.HEALING not in first.heard.states
            assert time.monotonic() - before < 1.0
            bucket = first.store.open_bucket(b"k", 1.0, 30.0, time.monotonic())
            assert await took(bucket, 30)


# --- rights and settings ------------------------------------------------------------------------------------------------------------------


async def test_who_may_not_listen_is_told_so_and_shares_all_the_same(server: RedisServer) -> None:
    await server.ask("ACL", "SETUSER", "gate", "on", ">secret", "~test:*", "+@all", "resetchannels")
    address = replace(address_of(server), username="gate", password="secret")
    async with instance(address) as one, instance(address) as other:
        await until(lambda: one.heard.deafness and other.heard.deafness, PATIENCE)
        assert "channel" in one.heard.deafness[0].lower()
        assert "secret" not in one.heard.deafness[0]
        passed = 0
        buckets = [each.store.open_bucket(b"rule:k", 1.0, 10.0, 0.0) for each in (one, other)]
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            passed += sum(bucket.take(1.0, time.monotonic()) for bucket in buckets)
            await asyncio.sleep(0.01)
        assert 8 <= passed <= 10 + 2.25
        await granted(one.store, seat())
        await denied(other.store, seat())
        assert one.heard.states == [StoreState.UP]


async def test_a_policy_that_was_put_right_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy.ledger.links.redis_link, "LOOK_AGAIN", 0.05)
    async with redis_server(maxmemory="100mb", maxmemory_policy="allkeys-lru") as server, instance(address_of(server)) as one:
        await until(lambda: len(one.heard.policies) > 2, PATIENCE)
        assert set(one.heard.policies) == {"allkeys-lru"}
        await server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        await until(lambda: one.heard.policies[-1] == "noeviction", PATIENCE)
        asked = one.store._shared._link.commands
        await asyncio.sleep(0.3)
        assert one.store._shared._link.commands - asked <= 2  # heartbeats


async def test_a_right_policy_is_not_asked_about_again(monkeypatch: pytest.MonkeyPatch, server: RedisServer) -> None:
    monkeypatch.setattr(proxy.ledger.links.redis_link, "LOOK_AGAIN", 0.01)
    async with instance(address_of(server)) as one:
        await asyncio.sleep(0.2)
        assert one.heard.policies == ["noeviction"]
