"""Rates over several instances on real servers: never more than one bucket allows, whatever happens, and nearly all of it."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from math import inf
from pathlib import Path
from statistics import median

import pytest

from proxy.ledger import redis_link, redis_rates
from proxy.ledger.addresses import Endpoint, StoreAddress, Topology
from proxy.ledger.leased_bucket import LeasedBucket, Mode
from proxy.ledger.store import StoreState
from tests.ledger.instances import Instance, address_of, instance
from tests.ledger.talkers import KEY, LATE, User, asked, excess, hears
from tests.support.cuttable import cuttable
from tests.support.redis_servers import FLAVOURS, HOST, SERVICE, Flavour, RedisServer, cluster, redis_server, sentinels
from tests.support.waiting import eventually, until

BUCKET = f"test:b:{{{KEY.decode()}}}"  # where the server has it
SLOW = 1 / 3600  # tokens a second: none in the time of a test
DEADLINE = 0.2  # seconds: the store's, in these tests the real one


@asynccontextmanager
async def instances(count: int, server: RedisServer, deadline: float = DEADLINE) -> AsyncIterator[list[Instance]]:
    """So many that decide with the store, and hear it."""
    async with AsyncExitStack() as stack:
        started = [await stack.enter_async_context(instance(address_of(server), deadline=deadline)) for _ in range(count)]
        for one in started:
            await one.up()
            await until(lambda one=one: hears(one), 30.0)  # type: ignore[misc]  # a default binds the loop's variable
        yield started


async def test_who_is_alone_asks_once_and_then_nothing_per_message() -> None:
    async with redis_server() as server, instances(1, server) as cluster:
        user = User(cluster[0], rate=100.0, burst=100.0)
        assert await user.say()
        before = asked(cluster)
        began = time.monotonic()
        await user.flood(1.0, pause=0.0)
        assert asked(cluster) - before <= (time.monotonic() - began) / 0.5 + 1  # heartbeats
        assert excess([user.times], 100.0) <= 101.0
        user.leave()


async def test_who_says_nothing_asks_nothing_and_who_left_is_forgotten() -> None:
    async with redis_server() as server, instances(1, server) as cluster:
        before = asked(cluster)
        buckets = [(b"rule:%d" % number, cluster[0].store) for number in range(1_000)]
        opened = [store.open_bucket(key, 1.0, 1.0, time.monotonic()) for key, store in buckets]
        await asyncio.sleep(0)
        assert asked(cluster) - before <= 1
        for (key, store), bucket in zip(buckets, opened, strict=True):
            store.close_bucket(key, bucket)
        assert len(cluster[0].store) == 0
        assert not await server.ask("KEYS", "test:b:*")


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.value)
async def test_a_second_instance_gets_what_the_first_has_left_and_loses_no_message(flavour: Flavour) -> None:
    async with redis_server(flavour) as server, instances(2, server, deadline=2.0) as cluster:
        first, second = (User(one, rate=SLOW, burst=20.0) for one in cluster)
        assert await first.say_all(5) == 5
        assert first.bucket.mode is Mode.OWNED
        assert await second.say_all(5) == 5
        assert first.bucket.mode is second.bucket.mode is Mode.SHARED
        assert await first.say_all(5) == 5
        assert await second.say_all(20) + await first.say_all(20) in (3, 4, 5)  # some are in a lease that nobody spends


async def test_a_bucket_outlives_its_connections_and_follows_its_user() -> None:
    async with redis_server() as server, instances(2, server, deadline=2.0) as cluster:
        for at, said in ((0, 6), (0, 6), (1, 6), (0, 2)):
            user = User(cluster[at], rate=SLOW, burst=20.0)
            assert await user.say_all(6) == said
            user.leave()
        await until(lambda: not any(len(one.store) for one in cluster))


async def test_a_bucket_goes_back_to_who_uses_it_alone() -> None:
    async with redis_server() as server, instances(2, server, deadline=2.0) as cluster:
        first, second = (User(one, rate=1_000.0, burst=100.0) for one in cluster)
        await first.say()
        await second.say()
        assert second.bucket.mode is Mode.SHARED

        async def has_it() -> bool:
            await second.say()
            return second.bucket.mode is Mode.OWNED

        await eventually(has_it)


@pytest.mark.parametrize(("rate", "burst"), [(100.0, 100.0), (50.0, 5.0), (400.0, 1.0)])
async def test_in_no_window_more_passes_than_the_bound_while_instances_come_and_go(rate: float, burst: float) -> None:
    async with redis_server() as server, instances(4, server) as cluster:
        users: list[User] = []

        async def visit(at: Instance, end: float) -> None:
            while time.monotonic() < end:
                user = User(at, rate, burst)
                users.append(user)
                await user.flood(random.uniform(0, 1.5), random.choice((0.001, 0.02)))
                user.leave()
                await asyncio.sleep(random.choice((0, 0.05, 0.5)))

        began = time.monotonic()
        await asyncio.gather(*(visit(one, began + 4.0) for one in cluster))
        lasted = time.monotonic() - began
        assert excess([user.times for user in users], rate) <= burst + rate * LATE + 1
        assert sum(len(user.times) for user in users) >= 0.5 * (burst + rate * lasted)


@asynccontextmanager
async def far_instances(count: int, server: RedisServer, seconds: float) -> AsyncIterator[list[Instance]]:
    """So many, each at the end of a link whose round trip takes so long."""
    async with AsyncExitStack() as stack:
        links = [await stack.enter_async_context(cuttable(server.port)) for _ in range(count)]
        started = [await stack.enter_async_context(instance(address_of(server, link.port), deadline=DEADLINE)) for link in links]
        for one in started:
            await one.up()
            await until(lambda one=one: hears(one), 30.0)  # type: ignore[misc]  # as above
        for one, link in zip(started, links, strict=True):
            await until(lambda one=one: one.store._sharers() == count, 30.0)  # type: ignore[misc]  # as above
            link.delay = seconds / 2
        yield started


@pytest.mark.parametrize("round_trip", [0.01, 0.05, 0.08, 0.1, 0.15])
async def test_far_from_the_store_no_more_passes_either_and_nobody_goes_alone(round_trip: float) -> None:
    async with redis_server() as server, far_instances(4, server, round_trip) as cluster:
        users = [User(one, rate=100.0, burst=100.0) for one in cluster]
        began = time.monotonic()
        await asyncio.gather(*(user.flood(3.0, pause=0.004) for user in users))
        lasted = time.monotonic() - began
        assert excess([user.times for user in users], 100.0) <= 100.0 + 100.0 * LATE
        assert sum(len(user.times) for user in users) >= 0.6 * (100.0 + 100.0 * lasted)
        assert {user.bucket.mode for user in users} == {Mode.SHARED}


async def test_just_too_far_from_the_store_each_has_its_share() -> None:
    async with redis_server() as server, far_instances(4, server, DEADLINE + 0.01) as cluster:
        users = [User(one, rate=100.0, burst=100.0) for one in cluster]
        began = time.monotonic()
        await asyncio.gather(*(user.flood(3.0, pause=0.004) for user in users))
        lasted = time.monotonic() - began
        assert {user.bucket.mode for user in users} == {Mode.ALONE}
        assert 0.6 * 100.0 * lasted <= sum(len(user.times) for user in users) <= 100.0 * lasted + 1
        assert max(user.longest for user in users) < 3 * DEADLINE + 0.3


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_20_instances_get_90_percent_of_a_low_rate() -> None:
    async with redis_server() as server, instances(20, server) as cluster:
        users = [User(one, rate=10.0, burst=10.0) for one in cluster]
        before, began = asked(cluster), time.monotonic()
        await asyncio.gather(*(user.flood(30.0, pause=0.01) for user in users))
        lasted = time.monotonic() - began
        total = sum(len(user.times) for user in users)
        assert 0.9 * (10 + 10 * lasted) <= total <= 10 + 10 * (lasted + LATE)
        assert (asked(cluster) - before) / lasted - len(cluster) / 0.54 < 30


async def test_the_slow_sweep_gives_back_what_is_full_and_keeps_the_rest_from_expiring(monkeypatch: pytest.MonkeyPatch) -> None:
    async with redis_server() as server, instances(1, server, deadline=2.0) as cluster:
        store = cluster[0].store
        used, full = User(cluster[0], rate=SLOW, burst=20.0), store.open_bucket(b"rule:full", 1_000_000.0, 1.0, time.monotonic())
        assert isinstance(full, LeasedBucket)
        assert await used.say()
        full.would_pass(1.0, time.monotonic())
        await until(lambda: full.mode is Mode.OWNED, 20.0)
        name = f"test:b:{{{KEY.decode()}}}"
        await server.ask("PEXPIRE", name, 5_000)
        monkeypatch.setattr(redis_rates, "REFRESH", 1.0)
        store.sweep(time.monotonic())
        store.sweep(time.monotonic() + 10)
        assert full.mode is Mode.SHARED
        await eventually(lambda: expires_late(server, name))
        assert await server.ask("KEYS", "test:b:*") == [name]
        assert used.bucket.mode is Mode.OWNED


async def expires_late(server: RedisServer, name: str) -> bool:
    return int(await server.ask("TTL", name)) > 80_000


# --- trouble


async def test_what_a_dead_owner_had_is_lost_and_its_user_goes_on_at_the_rate() -> None:
    async with redis_server() as server, instances(2, server, deadline=2.0) as cluster:
        first, second = (User(one, rate=20.0, burst=20.0) for one in cluster)
        assert await first.say()
        await cluster[0].crash()
        began = time.monotonic()
        await eventually(second.say)
        assert time.monotonic() - began < 1.0
        assert await second.say_all(20) < 10


async def test_a_store_that_comes_back_empty_gives_no_fresh_burst() -> None:
    async with redis_server() as server, instances(2, server) as cluster:
        first, second = (User(one, rate=5.0, burst=100.0) for one in cluster)
        assert await first.say_all(100) == 100
        began = time.monotonic()
        await server.restart()
        for one in cluster:
            await one.up()
            await until(lambda one=one: hears(one), 30.0)  # type: ignore[misc]  # as above
        await asyncio.gather(first.flood(1.0), second.flood(1.0))
        lasted = time.monotonic() - began
        passed = len(first.times) + len(second.times) - 100
        assert passed <= 2 * 5.0 * (lasted + 1) + 4  # each may take itself for alone for a while


async def test_a_store_that_comes_back_empty_gives_no_fresh_burst_to_those_who_shared_either() -> None:
    async with redis_server() as server, instances(2, server) as cluster:
        users = [User(one, rate=5.0, burst=100.0) for one in cluster]
        await asyncio.gather(*(user.flood(1.0) for user in users))
        assert {user.bucket.mode for user in users} == {Mode.SHARED}
        before, began = sum(len(user.times) for user in users), time.monotonic()
        await server.restart()
        for one in cluster:
            await one.up()
        await asyncio.gather(*(user.flood(1.0) for user in users))
        passed, lasted = sum(len(user.times) for user in users) - before, time.monotonic() - began
        assert passed <= 2 * 5.0 * (lasted + 1) + 4


async def test_a_flush_gives_no_fresh_burst_to_whoever_asks_first_after_it() -> None:
    """The one that had the bucket finds out with its next heartbeat; until then both have the rate."""
    async with redis_server() as server, instances(3, server) as cluster:
        users = [User(one, rate=1.0, burst=100.0) for one in cluster]
        assert await users[0].say_all(100) >= 99
        for user in users[1:]:
            await server.ask("FLUSHALL")
            before, began = len(users[0].times), time.monotonic()
            await asyncio.gather(users[0].flood(1.5), user.flood(1.5))
            lasted = time.monotonic() - began
            assert len(users[0].times) - before + len(user.times) <= 2 * lasted + 2  # a first message, and what had come before
            assert user.longest < 1.0


async def test_one_who_starts_after_a_flush_takes_no_bucket_to_be_full() -> None:
    async with redis_server() as server, instances(1, server) as cluster:
        user = User(cluster[0], rate=1.0, burst=100.0)
        assert await user.say_all(100) >= 99
        user.leave()
        before = cluster[0].holder
        await server.ask("FLUSHALL")
        await until(lambda: cluster[0].holder not in (None, before), 30.0)
        await cluster[0].up()
        async with instances(1, server) as late:
            user = User(late[0], rate=1.0, burst=100.0)
            await user.flood(1.0)
            assert 1 <= len(user.times) <= 10


async def test_who_has_seen_a_loss_of_data_needs_no_mark_of_it() -> None:
    """As in a Cluster, where the mark lies elsewhere."""
    async with redis_server() as server, instances(1, server) as cluster:
        cluster[0].store._shared_rates._commands._checked = ()
        before = cluster[0].holder
        await server.ask("FLUSHALL")
        await until(lambda: cluster[0].holder not in (None, before), 30.0)
        await cluster[0].up()
        user = User(cluster[0], rate=1.0, burst=100.0)
        await user.flood(1.0)
        assert 1 <= len(user.times) <= 10


async def test_after_a_flush_a_first_message_waits_until_the_store_is_told_and_passes() -> None:
    async with redis_server() as server, instances(2, server, deadline=2.0) as cluster:
        await server.ask("FLUSHALL")
        before = asked(cluster[:1])
        user = User(cluster[0], rate=SLOW, burst=20.0)
        assert await user.say()
        assert user.bucket.mode is Mode.OWNED
        assert asked(cluster[:1]) - before < 15  # it asks, is told that it is not listed, is listed, and asks again
        assert not await user.say()


async def test_a_flush_gives_no_first_message_to_those_who_are_known() -> None:
    async with redis_server() as server, instances(2, server, deadline=2.0) as cluster:
        users = [User(one, rate=SLOW, burst=5.0) for one in cluster]
        assert sum([await user.say_all(10) for user in users]) <= 5
        assert {user.bucket.mode for user in users} == {Mode.SHARED}
        await server.ask("FLUSHALL")
        assert not [await user.say() for user in users if await user.say()]


async def test_a_late_answer_is_asked_for_again_and_no_more_passes_without_one_than_in_an_outage() -> None:
    async with redis_server() as server, far_instances(2, server, 0.0) as cluster:
        users = [User(one, rate=100.0, burst=100.0) for one in cluster]
        await asyncio.gather(*(user.flood(0.5) for user in users))
        await asyncio.sleep(LATE)  # leases end
        before = len(users[0].times)
        server.freeze()
        saying = asyncio.ensure_future(users[0].flood(1.5 * DEADLINE))
        await asyncio.sleep(1.5 * DEADLINE)  # the second question is out; a third one that fails would be an outage
        assert users[0].bucket.mode is Mode.SHARED
        assert len(users[0].times) - before <= 1 + 50.0 * 1.5 * DEADLINE + 1
        server.thaw()
        await saying
        await asyncio.gather(*(user.flood(0.5) for user in users))
        assert users[0].bucket.mode is not Mode.ALONE
        assert excess([user.times for user in users], 100.0) <= 100.0 + 100.0 * LATE + 1


async def test_who_speaks_within_his_share_waits_for_a_frozen_store_a_moment_only() -> None:
    """He is on two instances. Of three freezes the median counts, since the machine may be busy."""
    async with redis_server() as server, instances(2, server) as cluster:
        users = [User(one, rate=100.0, burst=100.0) for one in cluster]
        waited = []
        for _ in range(3):
            await asyncio.gather(*(user.flood(1.0, pause=0.05) for user in users))
            assert {user.bucket.mode for user in users} == {Mode.SHARED}
            for user in users:
                user.longest = 0.0
            server.freeze()
            await asyncio.gather(*(user.flood(1.5, pause=0.05) for user in users))
            waited.append(max(user.longest for user in users))
            server.thaw()
            for one in cluster:
                await one.up()
                one.store.sweep(time.monotonic())
        assert median(waited) <= 0.05, waited


async def test_a_question_that_ran_when_nobody_waited_for_it_any_more_loses_nothing_of_the_bucket() -> None:
    async with redis_server() as server, instances(1, server) as cluster:
        user = User(cluster[0], rate=SLOW, burst=100.0)
        server.freeze()
        await user.say()
        await until(lambda: user.bucket.mode is Mode.ALONE)
        server.thaw()
        await eventually(lambda: is_owned(server))  # by whoever was never told
        await cluster[0].up()
        cluster[0].store.sweep(time.monotonic())
        assert await user.say_all(100) >= 98


async def is_owned(server: RedisServer) -> bool:
    return bool(await server.ask("HGET", BUCKET, "o"))


async def test_who_returns_after_he_was_given_back_in_vain_gets_nothing_twice() -> None:
    """Nobody knows whether the store was told, and here it is forgotten."""
    async with redis_server() as server, cuttable(server.port) as link, instance(address_of(server, link.port), deadline=DEADLINE) as one:
        await one.up()
        await until(lambda: hears(one), 30.0)
        user = User(one, rate=SLOW, burst=20.0)
        assert await user.say_all(5) == 5
        link.hold()
        user.leave()
        await asyncio.sleep(0.05)  # it is on its way
        link.refuse()
        await until(lambda: one.store.state is StoreState.DOWN)
        assert len(one.store) == 0
        await link.forward()
        await one.up()
        assert await is_owned(server)
        assert await User(one, rate=SLOW, burst=20.0).say_all(20) <= 1


async def test_what_could_not_be_given_back_stays_ours() -> None:
    """The queue is full."""
    async with redis_server() as server, instances(1, server, deadline=2.0) as cluster:
        user = User(cluster[0], rate=SLOW, burst=20.0)
        assert await user.say_all(5) == 5
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(redis_link, "MAX_QUEUED", 0)
            user.leave()
        before = asked(cluster)
        user = User(cluster[0], rate=SLOW, burst=20.0)
        assert await user.say_all(20) == 15
        assert asked(cluster) - before < 10


async def test_what_is_given_back_as_the_scripts_are_forgotten_is_given_back_all_the_same() -> None:
    async with redis_server() as server, instances(2, server, deadline=2.0) as cluster:
        user = User(cluster[0], rate=SLOW, burst=20.0)
        assert await user.say_all(5) == 5
        await server.ask("SCRIPT", "FLUSH")
        user.leave()
        await until(lambda: len(cluster[0].store) == 0)

        async def is_free() -> bool:
            return not await is_owned(server)

        await eventually(is_free)
        assert await User(cluster[1], rate=SLOW, burst=20.0).say_all(20) == 15


async def test_far_from_the_store_a_user_who_moves_waits_for_three_round_trips_and_goes_on() -> None:
    round_trip = 0.15
    async with redis_server() as server, far_instances(2, server, round_trip) as cluster:
        first, second = (User(one, rate=SLOW, burst=20.0) for one in cluster)
        assert await first.say_all(5) == 5
        assert first.bucket.mode is Mode.OWNED
        assert await second.say()
        assert second.bucket.mode is Mode.SHARED
        assert second.longest < 3 * round_trip + 0.3


async def test_in_an_outage_who_comes_later_finds_what_came_in_meanwhile() -> None:
    async with redis_server() as server, instances(2, server) as cluster:
        rates = cluster[0].store._shared_rates
        await until(lambda: cluster[0].store._sharers() == 2, 30.0)
        server.kill()
        await until(lambda: not rates._link.is_usable)
        cluster[0].store.sweep(time.monotonic())
        assert rates.away_since <= time.monotonic()
        await asyncio.sleep(1.0)
        user = User(cluster[0], rate=20.0, burst=100.0)
        assert 8 <= await user.say_all(100) <= 14
        await server.start()
        await cluster[0].up()
        assert rates.away_since == inf


async def test_who_has_just_given_a_bucket_back_goes_alone_at_half_the_rate() -> None:
    async with redis_server() as server, instances(2, server, deadline=2.0) as cluster:
        first = User(cluster[0], rate=10.0, burst=20.0)
        assert await first.say()
        cluster[0].store._shared_rates.hear(b"ytest:b:{" + KEY + b"}")
        assert first.bucket.mode is Mode.SHARED
        server.kill()
        await until(lambda: not cluster[0].store._shared_rates._link.is_usable)
        await first.say()
        assert first.bucket.mode is Mode.ALONE
        assert first.bucket.rate == 5.0


async def test_a_bucket_that_was_thrown_away_is_not_full_for_those_who_shared_it() -> None:
    async with redis_server() as server, instances(2, server) as cluster:
        users = [User(one, rate=1.0, burst=100.0) for one in cluster]
        await asyncio.gather(*(user.flood(1.0) for user in users))
        assert {user.bucket.mode for user in users} == {Mode.SHARED}
        before, began = sum(len(user.times) for user in users), time.monotonic()
        for command in (("DEL", BUCKET), ("HSET", BUCKET, "s", "1")):  # as a clock does that jumps ahead
            await server.ask(*command)
            await asyncio.gather(*(user.flood(0.7) for user in users))
        lasted = time.monotonic() - began
        assert sum(len(user.times) for user in users) - before <= lasted + 2


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_clock_that_was_moved_gives_nothing_and_lets_nobody_wait(hours: int) -> None:
    """What the store has noted seems to lie an hour behind, or ahead."""
    async with redis_server() as server, instances(2, server) as cluster:
        users = [User(one, rate=50.0, burst=50.0) for one in cluster]
        await asyncio.gather(*(user.flood(0.5) for user in users))
        began = time.monotonic()
        async with server.client() as client:
            for name, value in (await client.hgetall(BUCKET)).items():
                moments = [moved(word, hours) for word in value.split()]
                await client.hset(BUCKET, name, " ".join(moments))
        before = sum(len(user.times) for user in users)
        await asyncio.gather(*(user.flood(2.0) for user in users))
        lasted = time.monotonic() - began
        passed = sum(len(user.times) for user in users) - before
        assert 0.5 * 50.0 * lasted <= passed <= 50.0 * (lasted + LATE) + 5


def moved(word: str, hours: int) -> str:
    """A stamp, in microseconds; small numbers are none."""
    return word if float(word) < 1e15 else f"{float(word) + hours * 3.6e9:.0f}"


async def test_in_an_outage_all_instances_together_have_one_token_at_most() -> None:
    async with redis_server() as server, instances(5, server) as cluster:
        for one in cluster:
            await until(lambda one=one: one.store._sharers() == 5, 30.0)  # type: ignore[misc]  # as above
        known, unknown = ([User(one, rate=SLOW, burst=1.0, key=key) for one in cluster] for key in (KEY, b"rule:new"))
        assert sum([await user.say() for user in known]) == 1
        for _ in range(3):
            server.freeze()
            assert sum(await asyncio.gather(*(user.say() for user in known))) == 0
            assert sum(await asyncio.gather(*(user.say() for user in unknown))) <= 1
            server.thaw()
            for one in cluster:
                await one.up()
                one.store.sweep(time.monotonic())
        assert sum(len(user.times) for user in known) == 1


async def test_while_the_store_is_frozen_each_goes_on_at_its_share_and_nobody_waits_longer_than_three_deadlines() -> None:
    async with redis_server() as server, instances(2, server) as cluster:
        users = [User(one, rate=100.0, burst=100.0) for one in cluster]
        await asyncio.gather(*(user.flood(2.0) for user in users))
        assert {user.bucket.mode for user in users} == {Mode.SHARED}
        for user in users:
            user.times.clear()
            user.longest = 0.0
        server.freeze()
        began = time.monotonic()
        await asyncio.gather(*(user.flood(3.0) for user in users))
        lasted = time.monotonic() - began
        total = sum(len(user.times) for user in users)
        assert max(user.longest for user in users) < 3 * DEADLINE + 0.3
        assert 0.6 * 100.0 * lasted <= total <= 100.0 * (lasted + LATE) + 25
        server.thaw()
        for one in cluster:
            await one.up()
        for user in users:
            user.times.clear()
        began = time.monotonic()
        await asyncio.gather(*(user.flood(2.0) for user in users))
        lasted = time.monotonic() - began
        assert sum(len(user.times) for user in users) <= 100.0 * (lasted + 2 * LATE) + 2


async def test_a_wish_that_comes_before_the_bucket_is_kept() -> None:
    """The two connections of an instance know no order: it may hear that it is to give back what it does not know to have."""
    async with redis_server() as server, instances(2, server, deadline=2.0) as cluster:
        first, second = (User(one, rate=SLOW, burst=20.0) for one in cluster)
        before = asked(cluster[:1])
        saying = asyncio.ensure_future(first.say())
        await asyncio.sleep(0)
        assert first.bucket.is_asking
        cluster[0].store._shared_rates.hear(b"ytest:b:{" + KEY + b"}")
        assert await saying
        assert asked(cluster[:1]) - before >= 3  # asked, given back, asked again
        assert await second.say_all(19) >= 10  # some are in leases that end unspent


async def test_who_was_deaf_finds_out_what_is_not_its_own_any_more() -> None:
    async with redis_server() as server, instances(2, server, deadline=2.0) as cluster:
        first, second = (User(one, rate=50.0, burst=50.0) for one in cluster)
        assert await first.say()
        await server.ask("CLIENT", "KILL", "TYPE", "pubsub")
        await eventually(second.say)
        await until(lambda: (hears(cluster[0]) and first.bucket.mode is not Mode.OWNED) or second.bucket.mode is Mode.SHARED, 10.0)
        assert (first.bucket.mode is Mode.OWNED) + (second.bucket.mode is Mode.OWNED) <= 1


async def test_scripts_that_were_forgotten_are_loaded_again_and_no_message_is_lost() -> None:
    async with redis_server() as server, instances(1, server, deadline=2.0) as cluster:
        await server.ask("SCRIPT", "FLUSH")
        user = User(cluster[0], rate=10.0, burst=5.0)
        assert await user.say_all(5) == 5
        assert user.bucket.mode is Mode.OWNED


async def test_a_key_that_is_not_ours_is_told_and_the_user_has_a_bucket_here() -> None:
    async with redis_server() as server, instances(1, server, deadline=2.0) as cluster:
        await server.ask("SET", f"test:b:{{{KEY.decode()}}}", "another program's")
        user = User(cluster[0], rate=10.0, burst=5.0)
        assert await user.say()
        assert user.bucket.mode is Mode.ALONE
        assert cluster[0].heard.conflicts == ["rule"]


@pytest.mark.parametrize("field", ["l", "s", "iother"])
async def test_a_bucket_that_was_damaged_is_told_and_everybody_has_a_share_of_it(field: str) -> None:
    async with redis_server() as server, instances(2, server, deadline=2.0) as cluster:
        users = [User(one, rate=10.0, burst=5.0) for one in cluster]
        for user in users:
            assert await user.say()
        await server.ask("HSET", BUCKET, field, "nan")
        for user in users:
            await user.flood(1.0)
            assert user.bucket.mode is Mode.ALONE
        assert [set(one.heard.conflicts) for one in cluster] == [{"rule"}] * 2
        assert await server.ask("HGET", BUCKET, field) == "nan"
        await server.ask("DEL", BUCKET)
        for one, user in zip(cluster, users, strict=True):
            one.store.sweep(time.monotonic())
            await user.flood(0.3)
            assert user.bucket.mode is not Mode.ALONE


async def test_one_that_is_told_to_give_back_what_it_knows_nothing_of_gives_back_nothing() -> None:
    async with redis_server() as server, instances(2, server, deadline=2.0) as cluster:
        await server.ask("HSET", BUCKET, "l", "20", "s", "1", "o", cluster[0].store._shared_rates._commands._instance.decode(), "e", "1")
        second = User(cluster[1], rate=10.0, burst=20.0)
        await eventually(second.say, 2.0)
        assert await second.say_all(20) < 5


async def test_the_rights_that_the_page_names_suffice_for_two_who_share() -> None:
    page = (Path(__file__).parents[2] / "docs" / "store.md").read_text()
    named = [page.partition(start)[2].partition(", on `")[0] for start in ("An ACL must", "Commands that an ACL must allow")]
    rights = [f"+{command.lower()}" for part in named for command in re.findall("`([A-Z|]+)`", part)]
    async with redis_server() as server, AsyncExitStack() as stack:
        await server.ask("ACL", "SETUSER", "gate", "on", ">secret", "~test:*", "&test:*", "-@all", *rights)
        address = replace(address_of(server), username="gate", password="secret")
        two = [await stack.enter_async_context(instance(address)) for _ in range(2)]
        for one in two:
            await until(lambda one=one: hears(one), 30.0)  # type: ignore[misc]  # as above
        users = [User(one, rate=SLOW, burst=20.0) for one in two]
        assert [await user.say_all(5) for user in users] == [5, 5]
        assert {user.bucket.mode for user in users} == {Mode.SHARED}
        await server.ask("FLUSHALL")
        await asyncio.gather(*(user.flood(1.0) for user in users))
        assert Mode.ALONE not in {user.bucket.mode for user in users}
        assert not any(StoreState.DOWN in one.heard.states for one in two)


async def test_at_a_stop_everything_is_given_back() -> None:
    async with redis_server() as server:
        async with instances(1, server, deadline=2.0) as cluster:
            assert await User(cluster[0], rate=SLOW, burst=20.0).say_all(5) == 5
        async with instances(1, server, deadline=2.0) as cluster:
            assert await User(cluster[0], rate=SLOW, burst=20.0).say_all(20) == 15


# --- other shapes of a store


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_a_cluster_carries_messages_from_every_node_to_every_instance() -> None:
    async with cluster() as six, AsyncExitStack() as stack:
        addresses = [StoreAddress((Endpoint(HOST, node.port),), Topology.CLUSTER) for node in six.nodes[:3]]
        trio = [await stack.enter_async_context(instance(address, deadline=2.0)) for address in addresses]
        for one in trio:
            await one.up()
            await until(lambda one=one: hears(one), 30.0)  # type: ignore[misc]  # as above
        for number in range(6):  # keys in several slots
            users = [User(one, SLOW, 30.0, b"rule:%d" % number) for one in trio]
            assert [await user.say_all(5) for user in users] == [5, 5, 5]
            assert max(user.longest for user in users) < 1.0


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_a_failover_gives_no_fresh_burst() -> None:
    async with sentinels() as trio, AsyncExitStack() as stack:
        address = StoreAddress(tuple(Endpoint(HOST, one.port) for one in trio.watchers), Topology.SENTINEL, SERVICE)
        two = [await stack.enter_async_context(instance(address)) for _ in range(2)]
        for one in two:
            await one.up()
            await until(lambda one=one: hears(one), 30.0)  # type: ignore[misc]  # as above
        users = [User(one, rate=5.0, burst=200.0) for one in two]
        await asyncio.gather(*(user.flood(2.0) for user in users))
        before, began = sum(len(user.times) for user in users), time.monotonic()
        master = await trio.master()
        master.kill()
        await trio.new_master(master)
        for one in two:
            await one.up()
        await asyncio.gather(*(user.flood(2.0) for user in users))
        passed, lasted = sum(len(user.times) for user in users) - before, time.monotonic() - began
        assert before >= 200
        assert passed <= 2 * 5.0 * (lasted + 1) + 4
