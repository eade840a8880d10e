"""How an instance asks for shared tokens: late answers, outages, data that is not ours, what comes in the wrong order."""

from __future__ import annotations

import asyncio
import time
from math import inf
from statistics import median

import pytest

from proxy.ledger.links.link import CommandError, SlotMoved
from proxy.ledger.rates import redis_landlord
from proxy.ledger.rates.bucket_table import BucketTable
from proxy.ledger.rates.leased_bucket import LeasedBucket, Mode
from proxy.ledger.rates.own_buckets import OwnBuckets
from proxy.ledger.rates.redis_landlord import OWNER, QUESTIONS, RETURN, RedisLandlord
from proxy.ledger.store import StoreDown
from tests.ledger.recording_link import recorded
from tests.ledger.talkers import BUCKET, DEADLINE, KEY, LATE, SLOW, User, asked, excess, far_instances, instances, is_owned, knows
from tests.support.redis_servers import redis_server
from tests.support.waiting import eventually, until


def used_to_waiting(landlord: RedisLandlord) -> None:
    """Its answers took long of late, so that none is late for a while, and nothing passes in advance."""
    landlord._answer_times.heard(1.0, time.monotonic())


class Asking:
    """A landlord of buckets whose store the test is: there, unless it says otherwise."""

    def __init__(self, instances: int = 2) -> None:
        self.rents, self.link, self.heard = recorded()
        self.table = BucketTable()
        self.instances = instances
        self.own = OwnBuckets(self.table, self.rents)
        self.landlord = RedisLandlord(self.rents, self.own, 0.2, lambda: self.instances)
        self.table.forgotten = self.landlord.forget
        self.landlord.healed(time.monotonic())

    def bucket(self, key: bytes = b"rule:key") -> LeasedBucket:
        """A new one, that has asked for a token if there was anybody to ask."""
        found = LeasedBucket(key, SLOW, 20.0, self.landlord)
        self.table.use(found)
        found.take(1.0, time.monotonic())
        return found


class TestAnswers:
    async def test_tokens_pass(self) -> None:
        gate = Asking()
        bucket = gate.bucket()
        await gate.link.answer(b"L 3 0 2 9")
        assert [bucket.take(1.0, time.monotonic()) for _ in range(4)] == [True] * 3 + [False]
        assert bucket.sharers == 2

    async def test_a_script_that_is_missing_twice_is_not_asked_for_a_third_time(self) -> None:
        gate = Asking()
        bucket = gate.bucket()
        for _ in range(2):
            await gate.link.answer(CommandError("NOSCRIPT", missing_script=True))
        assert gate.link.commands == 2
        assert bucket.mode is Mode.ALONE

    @pytest.mark.parametrize("reply", [b"nonsense", b"L 1", CommandError("OOM"), SlotMoved("ASK 1 host:1"), b"C"])
    async def test_with_an_answer_that_is_none_it_goes_on_alone(self, reply: bytes | Exception) -> None:
        gate = Asking()
        bucket = gate.bucket()
        await gate.link.answer(reply)
        assert bucket.mode is Mode.ALONE
        assert gate.heard.conflicts == (["rule"] if reply == b"C" else [])

    async def test_an_answer_after_it_went_alone_means_nothing_and_one_that_makes_it_ours_counts(self) -> None:
        gate = Asking()
        bucket = gate.bucket()
        bucket.go_alone(time.monotonic())
        await gate.link.answer(b"L 20 0 3 20")
        assert (bucket.mode, bucket.sharers) == (Mode.ALONE, 0)
        second = gate.bucket(b"rule:other")
        second.go_alone(time.monotonic())
        await gate.link.answer(b"O 20 1")
        assert second.mode is Mode.OWNED
        assert second.level < 7  # a share of one of two who are alone, as if there were one more

    async def test_who_is_not_listed_asks_again_and_it_is_told_under_which_id(self) -> None:
        gate, unlisted = Asking(), list[bytes]()
        gate.rents.holder, gate.rents.not_listed = lambda: b"our id", unlisted.append
        bucket = gate.bucket()
        await gate.link.answer(b"U")
        assert unlisted == [b"our id"]
        assert not bucket.is_asking
        assert not bucket.take(1.0, time.monotonic())
        assert gate.link.commands == 2

    async def test_the_answer_to_a_question_of_before_does_not_make_it_ask_or_go_alone(self) -> None:
        gate = Asking()
        bucket = gate.bucket()
        gate.landlord.late(bucket, time.monotonic())
        assert not bucket.take(1.0, time.monotonic())  # asks again
        await gate.link.answer(CommandError("NOSCRIPT", missing_script=True))
        assert bucket.mode is Mode.SHARED
        assert gate.link.commands == 2

    async def test_what_is_wanted_before_it_is_ours_is_given_back_when_it_is(self) -> None:
        gate = Asking()
        bucket = gate.bucket()
        gate.landlord.wanted(bucket)
        assert gate.link.commands == 1
        await gate.link.answer(b"O 20 1")
        assert [word["verb"] for word in gate.link.words()] == [b"ask", b"yield"]
        assert bucket.mode is Mode.SHARED

    async def test_what_nobody_here_uses_and_another_wants_is_forgotten(self) -> None:
        """It was kept since it could not be given back."""
        gate = Asking()
        bucket = gate.bucket()
        await gate.link.answer(b"O 20 1")
        bucket.users = 0
        gate.table.keep(bucket)
        gate.landlord.wanted(bucket)
        assert [word["verb"] for word in gate.link.words()] == [b"ask", b"yield"]
        assert len(gate.table) == 0

    async def test_who_waits_for_an_owner_asks_when_it_is_free_or_the_time_is_over(self) -> None:
        gate = Asking()
        bucket = gate.bucket()
        await gate.link.answer(b"W 60000 2 bob:1")
        assert gate.landlord.waiting == 1
        gate.landlord.freed(bucket)
        assert (gate.landlord.waiting, gate.link.commands) == (0, 2)
        gate.landlord.freed(bucket)  # it does not wait any more
        assert gate.link.commands == 2
        await gate.link.answer(b"W 1 2 bob:2")
        await until(lambda: gate.link.commands == 3)
        assert [word["waited_for"] for word in gate.link.words()] == [b"", b"", b"bob:2"]
        await gate.link.answer(b"L 0 1 2 5")
        assert not bucket.owner

    async def test_who_left_while_it_waited_is_forgotten_and_asks_nothing_more(self) -> None:
        gate = Asking()
        bucket = gate.bucket()
        await gate.link.answer(b"W 60000 2 bob:1")
        gate.table.forget(bucket)
        assert gate.landlord.waiting == 0
        gate.landlord.freed(bucket)
        assert gate.link.commands == 1


class TestDoubts:
    async def test_in_doubt_nothing_is_asked_until_it_is_over(self) -> None:
        gate = Asking()
        gate.landlord.doubted()
        bucket = gate.bucket()
        assert (gate.landlord.waiting, gate.link.commands) == (1, 0)
        gate.landlord.healed(time.monotonic())
        assert gate.landlord.waiting == 0
        assert not bucket.take(1.0, time.monotonic())
        assert gate.link.commands == 1

    async def test_a_doubt_takes_no_patience_from_those_who_waited_for_its_end(self) -> None:
        gate = Asking()
        used_to_waiting(gate.landlord)
        began = time.monotonic()
        gate.landlord.doubted()
        bucket = gate.bucket()
        bucket.call_when_known(lambda: None)
        gate.landlord.healed(time.monotonic())
        assert not bucket.take(1.0, time.monotonic())
        await gate.link.answer(b"W 60000 2 bob:1")
        assert bucket.known_at(1.0, time.monotonic()) >= began + QUESTIONS * 0.2 + OWNER

    async def test_a_doubt_that_lasts_is_an_outage_and_who_comes_later_does_not_wait_for_it(self) -> None:
        gate = Asking()
        gate.landlord.doubted()
        bucket = gate.bucket()
        await until(lambda: bucket.mode is Mode.ALONE)
        gate.landlord.doubted()  # is no new one
        late = gate.bucket(b"rule:late")
        assert late.mode is Mode.ALONE
        assert (gate.landlord.waiting, gate.link.commands) == (0, 0)

    async def test_an_outage_is_noted_once_and_ends_when_the_store_is_back(self) -> None:
        gate = Asking()
        began = time.monotonic()
        gate.link.is_usable = False
        for later in (0.0, 5.0):
            gate.landlord.lost(began + later)
            assert gate.landlord.away_since == began
        assert gate.bucket().mode is Mode.ALONE
        gate.link.is_usable = True
        gate.landlord.healed(began + 9.0)
        assert gate.landlord.away_since == inf

    async def test_one_whose_end_nobody_told_is_over_when_the_store_was_seen_twice(self) -> None:
        gate = Asking()
        now = time.monotonic()
        gate.landlord.lost(now)
        gate.link.is_usable = False
        for later in (1.0, 2.0):
            gate.landlord.sweep(now + later)
        gate.link.is_usable = True
        gate.landlord.sweep(now + 3.0)
        assert gate.landlord.away_since == now
        gate.landlord.sweep(now + 4.0)
        assert gate.landlord.away_since == inf

    async def test_after_a_doubt_those_who_were_there_before_count_for_a_while(self) -> None:
        gate = Asking(instances=4)
        gate.landlord.doubted()
        gate.instances = 1
        now = time.monotonic()
        gate.landlord.healed(now)
        for moment in (now, now + RETURN + 1.0):
            gate.landlord.ask(LeasedBucket(b"rule:key", SLOW, 20.0, gate.landlord), moment)
        assert [word["level"] for word in gate.link.words()] == [b"4.0", b"10.0"]

    async def test_those_who_are_alone_try_again_some_in_each_turn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(redis_landlord, "AT_ONCE", 2)
        gate = Asking()
        gate.link.is_usable = False
        buckets = [gate.bucket(b"rule:%d" % number) for number in range(5)]
        gate.link.is_usable = True
        gate.landlord.healed(time.monotonic())
        alone = []
        for _ in range(3):
            alone.append(sum(bucket.mode is Mode.ALONE for bucket in buckets))
            gate.landlord.sweep(time.monotonic())
            await asyncio.sleep(0)
        assert alone == [3, 1, 0]

    async def test_who_leaves_before_he_hears_whether_it_is_ours_gives_it_back(self) -> None:
        gate = Asking()
        bucket = gate.bucket()
        gate.landlord.late(bucket, time.monotonic())
        bucket.users = 0
        gate.own.rest(bucket)
        assert [word["verb"] for word in gate.link.words()] == [b"ask", b"leave"]
        assert gate.link.words()[1]["heard"] == b"0"
        assert len(gate.table) == 0

    @pytest.mark.parametrize("is_alone", [False, True], ids=["owing", "alone"])
    async def test_who_is_forgotten_later_gives_it_back_then_and_again_if_that_is_not_heard(self, is_alone: bool) -> None:
        gate = Asking()
        bucket = gate.bucket()
        bucket._debt, bucket._owes_until = 1.0, time.monotonic() + 0.1
        gate.link.is_usable = not is_alone
        gate.landlord.late(bucket, time.monotonic())
        bucket.users = 0
        gate.own.rest(bucket)
        assert (gate.link.commands, len(gate.table)) == (1, 1)
        bucket._owes_until, bucket.level = 0.0, bucket.burst
        gate.own.refresh(time.monotonic() + 1e9)
        assert len(gate.table) == is_alone  # a store that is away is told later
        gate.link.is_usable = True
        gate.landlord.sweep(time.monotonic())
        await gate.link.answer()
        for error in (CommandError("NOSCRIPT", missing_script=True), StoreDown("no answer", outcome_known=False)):
            assert len(gate.table) == 0
            gate.link.sent[-1][1].set_exception(error)
            await gate.link.answer()
            assert len(gate.table) == 1
            gate.own.refresh(time.monotonic() + 1e9)
        assert [word["verb"] for word in gate.link.words()] == [b"ask", *[b"leave"] * 3]
        gate.link.sent[-1][1].set_result(b"K")
        await gate.link.answer()
        gate.own.refresh(time.monotonic() + 1e9)
        assert (gate.link.commands, len(gate.table)) == (4, 0)

    async def test_who_comes_back_to_one_that_was_alone_and_given_back_in_vain_asks(self) -> None:
        gate = Asking()
        bucket = gate.bucket()
        gate.link.is_usable = False
        gate.landlord.late(bucket, time.monotonic())
        bucket.users, bucket.level = 0, bucket.burst
        gate.table.keep(bucket)
        gate.link.is_usable = True  # and not healed yet
        gate.own.refresh(time.monotonic())
        assert [word["verb"] for word in gate.link.words()] == [b"ask", b"leave"]
        gate.link.sent[-1][1].set_exception(StoreDown("no answer", outcome_known=False))
        await gate.link.answer()
        gate.table.use(bucket)
        assert not bucket.take(1.0, time.monotonic())
        assert bucket.is_asking

    async def test_who_is_alone_tries_the_store_again_only_when_it_is_there(self) -> None:
        gate = Asking()
        gate.link.is_usable = False
        bucket = gate.bucket()
        gate.landlord.sweep(time.monotonic())
        assert bucket.mode is Mode.ALONE
        gate.link.is_usable = True
        gate.landlord.doubted()
        gate.landlord.sweep(time.monotonic())
        assert bucket.mode is Mode.ALONE
        gate.landlord.healed(time.monotonic())
        assert bucket.mode is Mode.SHARED

    async def test_after_the_end_no_timer_is_left(self) -> None:
        gate = Asking()
        gate.bucket()
        await gate.link.answer(b"W 60000 2 bob:1")
        gate.landlord.doubted()
        gate.bucket(b"rule:late")
        assert gate.landlord.waiting == 2
        gate.landlord.stop()
        assert gate.landlord.waiting == 0


# --- on real servers


async def test_after_a_flush_a_first_message_waits_until_the_store_is_told_and_passes() -> None:
    async with redis_server() as server, instances(2, server, deadline=2.0) as cluster:
        await server.ask("FLUSHALL")
        before = asked(cluster[:1])
        user = User(cluster[0], rate=SLOW, burst=20.0)
        assert await user.say()
        assert user.bucket.mode is Mode.OWNED
        assert asked(cluster[:1]) - before < 15  # it asks, is told that it is not listed, is listed, and asks again
        assert 3 <= await user.say_all(20) <= 9  # a share


async def test_scripts_that_were_forgotten_are_loaded_again_and_no_message_is_lost() -> None:
    async with redis_server() as server, instances(1, server, deadline=2.0) as cluster:
        await server.ask("SCRIPT", "FLUSH")
        user = User(cluster[0], rate=10.0, burst=5.0)
        assert await user.say_all(5) == 5
        assert user.bucket.mode is Mode.OWNED


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
        assert len(users[0].times) - before <= 50.0 * (1.5 * DEADLINE + LATE + 0.4) + 2  # half of what came since it asked last
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
        used_to_waiting(cluster[0].rates.landlord)
        server.freeze()
        await user.say()
        await until(lambda: user.bucket.mode is Mode.ALONE)
        server.thaw()
        await eventually(lambda: is_owned(server))  # by whoever was never told
        await cluster[0].up()
        cluster[0].store.sweep(time.monotonic())
        assert await user.say_all(100) >= 98


async def test_a_wish_that_comes_before_the_bucket_is_kept() -> None:
    """The two connections of an instance know no order: it may hear that it is to give back what it does not know to have."""
    async with redis_server() as server, instances(2, server, deadline=2.0) as cluster:
        first, second = (User(one, rate=SLOW, burst=20.0) for one in cluster)
        before = asked(cluster[:1])
        saying = asyncio.ensure_future(first.say())
        await asyncio.sleep(0)
        assert first.bucket.is_asking
        cluster[0].rates.hear(b"ytest:b:{" + KEY + b"}")
        assert await saying
        assert asked(cluster[:1]) - before >= 3  # asked, given back, asked again
        assert await second.say_all(19) >= 10  # some are in leases that end unspent


async def test_far_from_the_store_a_user_who_moves_waits_for_three_round_trips_and_goes_on() -> None:
    round_trip = 0.15
    async with redis_server() as server, far_instances(2, server, round_trip) as cluster:
        first, second = (User(one, rate=SLOW, burst=20.0) for one in cluster)
        assert await first.say_all(5) == 5
        assert first.bucket.mode is Mode.OWNED
        assert await second.say()
        assert second.bucket.mode is Mode.SHARED
        assert second.longest < 3 * round_trip + 0.3


async def test_just_too_far_from_the_store_each_has_its_share() -> None:
    async with redis_server() as server, far_instances(4, server, DEADLINE + 0.01) as cluster:
        users = [User(one, rate=100.0, burst=100.0) for one in cluster]
        began = time.monotonic()
        await asyncio.gather(*(user.flood(3.0, pause=0.004) for user in users))
        lasted = time.monotonic() - began
        assert {user.bucket.mode for user in users} == {Mode.ALONE}
        assert 0.6 * 100.0 * lasted <= sum(len(user.times) for user in users) <= 100.0 + 100.0 * lasted + 1
        assert max(user.longest for user in users) < 3 * DEADLINE + 0.3


async def test_in_an_outage_who_comes_later_finds_what_came_in_meanwhile() -> None:
    async with redis_server() as server, instances(2, server) as cluster:
        rates = cluster[0].rates
        await knows(cluster[0], 2)
        server.kill()
        await until(lambda: rates.landlord.away_since < inf)
        cluster[0].store.sweep(time.monotonic())
        assert rates.landlord.away_since <= time.monotonic()
        await asyncio.sleep(1.0)
        user = User(cluster[0], rate=20.0, burst=100.0)
        assert 40 <= await user.say_all(100) <= 48  # a share of two, as if there were one more; and half of 20
        await server.start()
        await cluster[0].up()
        assert rates.landlord.away_since == inf


async def test_in_an_outage_all_instances_together_have_one_token_at_most() -> None:
    async with redis_server() as server, instances(5, server) as cluster:
        for one in cluster:
            await knows(one, 5)
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


async def test_a_key_that_is_not_ours_is_told_and_the_user_has_a_bucket_here() -> None:
    async with redis_server() as server, instances(1, server, deadline=2.0) as cluster:
        await server.ask("SET", BUCKET, "another program's")
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
