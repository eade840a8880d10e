"""Rates over several instances on real servers: never more than one bucket allows, whatever happens, and nearly all of it."""

from __future__ import annotations

import asyncio
import random
import re
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.ledger.links.addresses import Endpoint, StoreAddress, Topology
from proxy.ledger.rates.leased_bucket import Mode
from proxy.ledger.store import StoreState
from tests.ledger.instances import Instance, address_of, instance
from tests.ledger.talkers import BUCKET, DEADLINE, LATE, SLOW, User, asked, excess, far_instances, instances, ready
from tests.support.redis_servers import FLAVOURS, HOST, SERVICE, Flavour, cluster, redis_server, sentinels
from tests.support.waiting import eventually


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
        owed = sum(user.most_owed for user in users)  # where an answer was late, on a busy machine
        assert excess([user.times for user in users], rate) <= burst + rate * LATE + 1 + owed
        assert sum(len(user.times) for user in users) >= 0.5 * (burst + rate * lasted)


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


# --- trouble


async def test_a_store_that_freezes_before_its_first_answer_holds_up_nobody() -> None:
    async with redis_server() as server, instances(2, server) as cluster:
        users = [User(one, rate=10.0, burst=20.0, key=b"rule:%d" % number) for number, one in enumerate(cluster)]
        server.freeze()
        assert all([await user.say() for user in users])
        assert max(user.longest for user in users) < DEADLINE  # and not until questions are given up
        server.thaw()


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
            await ready(one)
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
    """But a share. The one that had the bucket finds out with its next heartbeat; until then both have the rate."""
    async with redis_server() as server, instances(3, server) as cluster:
        users = [User(one, rate=1.0, burst=100.0) for one in cluster]
        assert await users[0].say_all(100) >= 99
        for user in users[1:]:
            await server.ask("FLUSHALL")
            before, began = len(users[0].times), time.monotonic()
            await asyncio.gather(users[0].flood(1.5), user.flood(1.5))
            lasted = time.monotonic() - began
            assert len(users[0].times) - before + len(user.times) <= 2 * lasted + 2 + 34  # a share, as if there were one more
            assert user.longest < 1.0


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


async def test_the_rights_that_the_page_names_suffice_for_two_who_share() -> None:
    page = (Path(__file__).parents[3] / "docs" / "store.md").read_text()
    named = [page.partition(start)[2].partition(", on `")[0] for start in ("An ACL must", "Commands that an ACL must allow")]
    rights = [f"+{command.lower()}" for part in named for command in re.findall("`([A-Z|]+)`", part)]
    async with redis_server() as server, AsyncExitStack() as stack:
        await server.ask("ACL", "SETUSER", "gate", "on", ">secret", "~test:*", "&test:*", "-@all", *rights)
        address = replace(address_of(server), username="gate", password="secret")
        two = [await stack.enter_async_context(instance(address)) for _ in range(2)]
        for one in two:
            await ready(one)
        users = [User(one, rate=SLOW, burst=20.0) for one in two]
        assert [await user.say_all(5) for user in users] == [5, 5]
        assert {user.bucket.mode for user in users} == {Mode.SHARED}
        await server.ask("FLUSHALL")
        await asyncio.gather(*(user.flood(1.0) for user in users))
        assert Mode.ALONE not in {user.bucket.mode for user in users}
        assert not any(StoreState.DOWN in one.heard.states for one in two)


# --- other shapes of a store


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_a_cluster_carries_messages_from_every_node_to_every_instance() -> None:
    async with cluster() as six, AsyncExitStack() as stack:
        addresses = [StoreAddress((Endpoint(HOST, node.port),), Topology.CLUSTER) for node in six.nodes[:3]]
        trio = [await stack.enter_async_context(instance(address, deadline=2.0)) for address in addresses]
        for one in trio:
            await ready(one)
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
            await ready(one)
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
