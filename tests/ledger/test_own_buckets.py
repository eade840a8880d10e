"""What an instance owns: when it is given back, what becomes of what is not heard, and that it does not expire. On real servers."""

from __future__ import annotations

import asyncio
import time

import pytest

from proxy.ledger import own_buckets, redis_link
from proxy.ledger.leased_bucket import LeasedBucket, Mode
from proxy.ledger.store import StoreState
from tests.ledger.instances import address_of, instance
from tests.ledger.talkers import BUCKET, DEADLINE, KEY, SLOW, User, asked, hears, instances, is_owned, ready
from tests.support.cuttable import cuttable
from tests.support.redis_servers import RedisServer, redis_server
from tests.support.waiting import eventually, until


async def test_a_bucket_outlives_its_connections_and_follows_its_user() -> None:
    async with redis_server() as server, instances(2, server, deadline=2.0) as cluster:
        for at, said in ((0, 6), (0, 6), (1, 6), (0, 2)):
            user = User(cluster[at], rate=SLOW, burst=20.0)
            assert await user.say_all(6) == said
            user.leave()
        await until(lambda: not any(len(one.store) for one in cluster))


async def test_who_has_just_given_a_bucket_back_goes_alone_at_half_the_rate() -> None:
    async with redis_server() as server, instances(2, server, deadline=2.0) as cluster:
        first = User(cluster[0], rate=10.0, burst=20.0)
        assert await first.say()
        cluster[0].rates.hear(b"ytest:b:{" + KEY + b"}")
        assert first.bucket.mode is Mode.SHARED
        server.kill()
        await until(lambda: not cluster[0].rates.rents.is_usable)
        await first.say()
        assert first.bucket.mode is Mode.ALONE
        assert first.bucket.rate == 5.0


async def test_who_returns_after_he_was_given_back_in_vain_gets_nothing_twice() -> None:
    """Nobody knows whether the store was told, and here it is forgotten."""
    async with redis_server() as server, cuttable(server.port) as link, instance(address_of(server, link.port), deadline=DEADLINE) as one:
        await ready(one)
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


async def test_who_was_deaf_finds_out_what_is_not_its_own_any_more() -> None:
    async with redis_server() as server, instances(2, server, deadline=2.0) as cluster:
        first, second = (User(one, rate=50.0, burst=50.0) for one in cluster)
        assert await first.say()
        await server.ask("CLIENT", "KILL", "TYPE", "pubsub")
        await eventually(second.say)
        await until(lambda: (hears(cluster[0]) and first.bucket.mode is not Mode.OWNED) or second.bucket.mode is Mode.SHARED, 10.0)
        assert (first.bucket.mode is Mode.OWNED) + (second.bucket.mode is Mode.OWNED) <= 1


async def test_the_slow_sweep_gives_back_what_is_full_and_keeps_the_rest_from_expiring(monkeypatch: pytest.MonkeyPatch) -> None:
    async with redis_server() as server, instances(1, server, deadline=2.0) as cluster:
        store = cluster[0].store
        used, full = User(cluster[0], rate=SLOW, burst=20.0), store.open_bucket(b"rule:full", 1_000_000.0, 1.0, time.monotonic())
        assert isinstance(full, LeasedBucket)
        assert await used.say()
        full.would_pass(1.0, time.monotonic())
        await until(lambda: full.mode is Mode.OWNED, 20.0)
        await server.ask("PEXPIRE", BUCKET, 5_000)
        monkeypatch.setattr(own_buckets, "REFRESH", 1.0)
        store.sweep(time.monotonic())
        store.sweep(time.monotonic() + 10)
        assert full.mode is Mode.SHARED
        await eventually(lambda: expires_late(server))
        assert await server.ask("KEYS", "test:b:*") == [BUCKET]
        assert used.bucket.mode is Mode.OWNED


async def expires_late(server: RedisServer) -> bool:
    return int(await server.ask("TTL", BUCKET)) > 80_000


async def test_at_a_stop_everything_is_given_back() -> None:
    async with redis_server() as server:
        async with instances(1, server, deadline=2.0) as cluster:
            assert await User(cluster[0], rate=SLOW, burst=20.0).say_all(5) == 5
        async with instances(1, server, deadline=2.0) as cluster:
            assert await User(cluster[0], rate=SLOW, burst=20.0).say_all(20) == 15
