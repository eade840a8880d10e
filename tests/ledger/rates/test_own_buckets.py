"""What an instance owns: when it is told and given back, and what becomes of what is not heard."""

from __future__ import annotations

import asyncio
import time
from math import inf

import pytest

from proxy.ledger.links import redis_link
from proxy.ledger.links.link import CommandError
from proxy.ledger.rates import own_buckets
from proxy.ledger.rates.bucket_table import BucketTable
from proxy.ledger.rates.leased_bucket import LeasedBucket, Mode
from proxy.ledger.rates.own_buckets import DEAF, IN_USE, OwnBuckets
from proxy.ledger.rates.redis_rates import RedisRates
from proxy.ledger.rates.rent import Verb
from proxy.ledger.store import StoreDown, StoreState
from tests.ledger.instances import Heard, address_of, instance
from tests.ledger.recording_link import NOW, Alone, RecordingLink, recorded
from tests.ledger.talkers import BUCKET, DEADLINE, KEY, SLOW, User, asked, hears, instances, is_owned, ready
from tests.support.cuttable import cuttable
from tests.support.redis_servers import RedisServer, redis_server
from tests.support.waiting import eventually, until


def owning(count: int) -> tuple[OwnBuckets, BucketTable, RecordingLink, Heard]:
    """So many buckets in use, of epochs from 1 on."""
    rents, link, heard = recorded()
    table = BucketTable()
    for number in range(count):
        bucket = LeasedBucket(b"rule:%d" % number, 1.0, 20.0, Alone())
        table.use(bucket)
        bucket.own(5.0, b"%d" % (number + 1), time.monotonic())
    rents.number = count
    return OwnBuckets(table, rents), table, link, heard


class TestToldAgain:
    async def test_all_is_told_some_at_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(own_buckets, "AT_ONCE", 2)
        own, _, link, _ = owning(5)
        own.tell_again()
        sent = []
        for _ in range(4):
            await link.answer(*[b"O 5 9"] * 2)
            sent.append(link.commands)
        assert sent == [2, 4, 5, 5]
        assert sorted(word["epoch"] for word in link.words()) == [b"%d" % epoch for epoch in range(1, 6)]

    async def test_what_was_told_in_vain_is_told_with_the_next_sweep_and_once(self) -> None:
        own, table, link, _ = owning(1)
        own.tell_again()
        await link.answer()
        await link.answer(StoreDown("no answer", outcome_known=False))
        bucket = table.owned()[0]
        assert bucket.heard == int(link.words()[-1]["number"])  # it may have become ours anew by that
        own.refresh(time.monotonic())
        assert link.commands == 2
        await link.answer(b"O 5 9")
        own.refresh(time.monotonic())
        assert link.commands == 2

    async def test_a_doubt_meanwhile_begins_anew(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(own_buckets, "AT_ONCE", 1)
        own, _, link, _ = owning(2)
        for _ in range(2):
            own.tell_again()
            await link.answer()
        assert [word["epoch"] for word in link.words()] == [b"1", b"1"]
        await link.answer(b"O 5 8", b"O 5 9")
        await link.answer(b"O 5 9")
        assert [word["epoch"] for word in link.words()] == [b"1", b"1", b"2"]

    async def test_where_nobody_is_there_it_ends(self) -> None:
        own, table, link, _ = owning(2)
        link.is_usable = False
        own.tell_again()
        await link.answer()
        assert len(table.owned()) == 2

    @pytest.mark.parametrize("reply", [b"K", b"L 3 0 2 9", b"W 150 2 bob:1"])
    async def test_what_is_not_ours_any_more_is_shared(self, reply: bytes) -> None:
        own, table, link, _ = owning(1)
        own.tell_again()
        await link.answer()
        await link.answer(reply)
        assert table.owned() == []

    @pytest.mark.parametrize("reply", [CommandError("OOM"), StoreDown("no answer", outcome_known=False), b"nonsense", b"U", b"C", b"O 5 1"])
    async def test_any_other_answer_leaves_it_ours(self, reply: bytes | Exception) -> None:
        own, table, link, _ = owning(1)
        own.tell_again()
        await link.answer()
        await link.answer(reply)
        assert len(table.owned()) == 1

    async def test_an_answer_about_an_ownership_of_before_means_nothing(self) -> None:
        own, table, link, _ = owning(1)
        own.tell_again()
        await link.answer()
        [bucket] = table.owned()
        bucket.share(NOW)
        bucket.own(5.0, b"8", NOW)
        await link.answer(b"K")
        assert table.owned() == [bucket]

    async def test_who_is_not_listed_hears_under_which_id_and_a_conflict_is_told(self) -> None:
        rents, link, heard = recorded()
        table, unlisted = BucketTable(), list[bytes]()
        rents.holder, rents.not_listed = lambda: b"our id", unlisted.append
        own = OwnBuckets(table, rents)
        bucket = LeasedBucket(b"rule:key", 1.0, 20.0, Alone())
        table.use(bucket)
        bucket.own(5.0, b"1", NOW)
        for reply in (b"U", b"C"):
            own.tell_again()
            await link.answer()
            await link.answer(reply)
        assert (unlisted, heard.conflicts) == ([b"our id"], ["rule"])
        assert {word["holder"] for word in link.words()} == {b"our id"}


class TestDeaf:
    @pytest.mark.parametrize("users", [0, 1])
    async def test_who_has_heard_nothing_for_long_owns_nothing_if_the_store_is_there(self, users: int) -> None:
        own, table, link, _ = owning(2)
        now = time.monotonic()
        for bucket in table.owned():
            bucket.users = users
        for deaf_for, is_usable, owned in ((DEAF - 1.0, True, 2), (DEAF + 1.0, False, 2), (DEAF + 1.0, True, 0)):
            own.deaf_since, link.is_usable = now - deaf_for, is_usable
            own.refresh(now)
            assert len(table.owned()) == owned
        assert [word["verb"] for word in link.words()] == [b"leave"] * 2

    async def test_a_pause_in_which_it_hears_begins_anew(self) -> None:
        rents, _, _ = recorded()
        rates = RedisRates(rents, 0.2, lambda: 1)
        rates.listening(False)
        first = rates._own.deaf_since
        rates.listening(False)
        assert rates._own.deaf_since == first <= time.monotonic()
        rates.listening(True)
        assert rates._own.deaf_since == inf


class TestGivenBack:
    @pytest.mark.parametrize(("idle", "wanted"), [(0.0, b"1.0"), (IN_USE, b"0.0")])
    async def test_who_used_it_lately_goes_on_to_share_it(self, idle: float, wanted: bytes) -> None:
        own, table, link, _ = owning(1)
        [bucket] = table.owned()
        bucket.stamp = time.monotonic() - idle
        own.give_back(bucket, Verb.YIELD)
        [word] = link.words()
        assert (word["verb"], word["epoch"], word["want"]) == (b"yield", b"1", wanted)
        assert 5.0 <= float(word["level"]) < 8.0
        assert (bucket.mode, bucket.sharers) == (Mode.SHARED, 2)

    async def test_what_cannot_be_given_back_is_kept_and_given_back_later(self) -> None:
        own, table, link, _ = owning(1)
        [bucket] = table.owned()
        bucket.users = 0
        link.is_usable = False
        own.rest(bucket)
        assert table.owned() == [bucket]
        link.is_usable = True
        own.rest(bucket)
        assert [word["verb"] for word in link.words()] == [b"leave"]
        assert len(table) == 0

    async def test_what_somebody_uses_or_asks_for_does_not_go(self) -> None:
        own, table, link, _ = owning(1)
        [bucket] = table.owned()
        own.rest(bucket)
        bucket.share(NOW)
        bucket.users = 0
        bucket.asked(NOW + 1, NOW + 1, NOW)
        own.rest(bucket)
        assert (len(table), link.commands) == (1, 0)

    @pytest.mark.parametrize("outcome_known", [True, False])
    async def test_it_stays_ours_only_if_the_store_has_certainly_not_heard(self, outcome_known: bool) -> None:
        own, table, link, _ = owning(1)
        [bucket] = table.owned()
        bucket.users = 0
        own.rest(bucket)
        await link.answer(StoreDown("cut", outcome_known=outcome_known))
        assert table.owned() == ([bucket] if outcome_known else [])

    async def test_a_script_that_is_missing_twice_is_not_asked_for_a_third_time(self) -> None:
        own, table, link, _ = owning(1)
        [bucket] = table.owned()
        bucket.users = 0
        own.rest(bucket)
        for _ in range(3):
            await link.answer(CommandError("NOSCRIPT", missing_script=True))
        assert link.commands == 2
        assert table.owned() == [bucket]

    async def test_who_has_come_back_meanwhile_has_what_the_store_gives_him(self) -> None:
        own, table, link, _ = owning(1)
        [old] = table.owned()
        old.users = 0
        own.rest(old)
        new = LeasedBucket(old.key, 1.0, 20.0, Alone())
        table.use(new)
        await link.answer(StoreDown("cut", outcome_known=True))
        assert table.get(old.key) is new
        assert table.owned() == []

    async def test_a_farewell_without_an_answer_has_an_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(own_buckets, "FAREWELL", 0.05)
        own, table, link, _ = owning(3)
        await own.stop()
        assert [word["verb"] for word in link.words()] == [b"leave"] * 3
        assert table.owned() == []


# --- on real servers


async def test_a_bucket_outlives_its_connections_and_follows_its_user() -> None:
    async with redis_server() as server, instances(2, server, deadline=2.0) as cluster:
        for at, said in ((0, 6), (0, 6), (1, 6), (0, 2)):
            user = User(cluster[at], rate=SLOW, burst=20.0)
            assert said <= await user.say_all(6) <= said + 1  # one in advance, where the machine is slow
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
