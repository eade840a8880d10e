"""What is said of shared buckets: numbers, what is known of the store, and of a loss of its data."""

from __future__ import annotations

import asyncio
import gc
from math import inf

import pytest

from proxy.ledger.links.link import CommandError
from proxy.ledger.rates.leased_bucket import Absence, LeasedBucket, Mode
from proxy.ledger.rates.prospect import SLACK
from proxy.ledger.rates.rent import Verb
from proxy.ledger.rates.rent_link import MOST_ABSENCES, RentLink
from proxy.ledger.store import StoreDown
from tests.ledger.recording_link import NOW, Alone, RecordingLink, recorded
from tests.ledger.talkers import BUCKET, SLOW, User, instances
from tests.support.redis_servers import redis_server
from tests.support.waiting import eventually, until


class TestWords:
    async def test_every_question_has_a_higher_number_and_nothing_else_has_one(self) -> None:
        rents, _, _ = recorded()
        bucket = LeasedBucket(b"rule:key", 2.0, 20.0, Alone())
        words = [rents.question(bucket, NOW, 1), rents.word(bucket), rents.word(bucket, Verb.YIELD), rents.word(bucket, Verb.LEAVE)]
        assert [word.number for word in [*words, rents.question(bucket, NOW, 1)]] == [1, 2, 2, 2, 3]

    async def test_a_question_says_what_the_bucket_wants_and_has_at_most(self) -> None:
        rents, link, _ = recorded()
        bucket = LeasedBucket(b"rule:key", 2.0, 20.0, Alone())
        bucket.own(7.0, b"4", NOW)
        bucket.share(NOW)
        bucket.need, bucket.want = 1.0, 3.0
        rents.may_own = True
        rents.call(rents.question(bucket, NOW, 3), NOW, b"our id")
        said = {"verb": b"ask", "rate": b"2.0", "burst": b"20.0", "epoch": b"", "level": b"5.0", "need": b"1.0", "want": b"3.0"}
        said |= {"may_own": b"1", "holder": b"our id", "number": b"1", "heard": b"4", "most": b"%a" % (7.0 + SLACK * 2.0)}
        assert link.words()[0].items() >= said.items()

    async def test_whom_the_store_does_not_reach_may_own_nothing(self) -> None:
        rents, link, _ = recorded()
        rents.call(rents.word(LeasedBucket(b"rule:key", 2.0, 20.0, Alone())), NOW)
        assert link.words()[0]["may_own"] == b"0"

    async def test_what_one_knows_nothing_of_is_given_back_as_of_the_last_question(self) -> None:
        rents, link, _ = recorded()
        rents.word(LeasedBucket(b"rule:key", 2.0, 20.0, Alone()))
        rents.disown(b"rule:other", NOW)
        assert link.sent[0][0][3] == b"test:b:{rule:other}"
        assert link.words()[0].items() >= {"verb": b"yield", "epoch": b"", "number": b"1", "heard": b"1"}.items()

    async def test_what_is_told_as_the_scripts_are_forgotten_is_told_once_more(self) -> None:
        rents, link, _ = recorded()
        rents.disown(b"rule:other", NOW)
        await link.answer(CommandError("missing script", missing_script=True))
        first, second = (command for command, _ in link.sent)
        assert first == second
        await link.answer(CommandError("missing script", missing_script=True))
        assert len(link.sent) == 2

    async def test_where_nobody_is_there_a_question_is_refused_and_what_needs_no_answer_is_lost(self) -> None:
        rents, link, _ = recorded()
        word = rents.word(LeasedBucket(b"rule:key", 2.0, 20.0, Alone()))
        link.is_usable = False
        with pytest.raises(StoreDown):
            rents.call(word, NOW)
        rents.tell(word, NOW)
        rents.healed(NOW, inf, lost_data=True)

    async def test_nobody_complains_of_an_error_that_nobody_waits_for(self) -> None:
        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, complaint: complaints.append(complaint))
        rents, link, _ = recorded()
        rents.disown(b"rule:key", NOW)
        await link.answer(CommandError("OOM"))
        link.sent.clear()
        gc.collect()
        assert complaints == []

    async def test_the_operator_hears_the_rule_of_a_key_that_is_not_ours_and_not_the_user(self) -> None:
        rents, _, heard = recorded()
        rents.conflict(LeasedBucket(b"rule:user:7", 2.0, 20.0, Alone()))
        assert heard.conflicts == ["rule"]


class TestKnowledge:
    """In microseconds; -1: for ever, or never."""

    @staticmethod
    def known(rents: RentLink, link: RecordingLink, absence: Absence | None = None) -> tuple[int, int, int]:
        rents.call(rents.word(LeasedBucket(b"rule:key", 2.0, 20.0, Alone())), NOW, absence=absence)
        said = link.words()[-1]
        return int(said["known"]), int(said["away"]), int(said["kept"])

    async def test_a_store_that_was_never_away_was_always_there(self) -> None:
        rents, link, _ = recorded()
        assert self.known(rents, link) == (-1, 0, -1)
        rents.healed(NOW - 9.0, inf, lost_data=False)
        assert self.known(rents, link) == (-1, 0, -1)

    async def test_after_an_outage_it_was_there_since_it_came_back(self) -> None:
        rents, link, _ = recorded()
        for ago in (9.0, 4.0):
            rents.healed(NOW - ago, NOW - ago - 1.0, lost_data=False)
        assert self.known(rents, link) == (4_000_000, 2_000_000, -1)

    async def test_of_several_outages_those_count_between_which_the_bucket_may_have_been_less_than_full(self) -> None:
        """It needs 10 s to be full, and is there for 15 s after that."""
        for pause, away in ((24.9, 4_000_000), (25.1, 1_000_000)):
            rents, link, _ = recorded()
            rents.healed(NOW - 5.0 - pause, NOW - 8.0 - pause, lost_data=False)
            rents.healed(NOW - 4.0, NOW - 5.0, lost_data=False)
            assert self.known(rents, link) == (4_000_000, away, -1)

    async def test_outages_are_remembered_up_to_a_number(self) -> None:
        rents, link, _ = recorded()
        for ago in range(100, 0, -1):
            rents.healed(NOW - ago, NOW - ago - 0.5, lost_data=False)
        assert self.known(rents, link) == (1_000_000, MOST_ABSENCES * 500_000, -1)

    async def test_of_a_bucket_that_was_alone_no_more_is_known_than_since_then(self) -> None:
        rents, link, _ = recorded()
        assert self.known(rents, link, Absence(NOW - 5.0, NOW - 2.0)) == (2_000_000, 3_000_000, -1)
        rents.healed(NOW - 4.0, NOW - 5.0, lost_data=False)
        assert self.known(rents, link, Absence(NOW - 5.0, NOW - 2.0)) == (2_000_000, 3_000_000, -1)
        assert self.known(rents, link, Absence(NOW - 3.0, NOW - 2.0)) == (2_000_000, 2_000_000, -1)
        assert self.known(rents, link, Absence(NOW - 8.0, NOW - 6.0)) == (4_000_000, 2_000_000, -1)

    async def test_a_loss_of_data_goes_with_every_word(self) -> None:
        rents, link, _ = recorded()
        rents.healed(NOW - 3.0, inf, lost_data=True)
        assert self.known(rents, link) == (-1, 0, 3_000_000)


# --- on real servers


async def test_a_flush_gives_no_first_message_to_those_who_are_known() -> None:
    async with redis_server() as server, instances(2, server, deadline=2.0) as cluster:
        users = [User(one, rate=SLOW, burst=5.0) for one in cluster]
        assert sum([await user.say_all(10) for user in users]) <= 5
        assert {user.bucket.mode for user in users} == {Mode.SHARED}
        await server.ask("FLUSHALL")
        assert not [await user.say() for user in users if await user.say()]


async def test_who_has_seen_a_loss_of_data_needs_no_mark_of_it() -> None:
    """As in a Cluster, where the mark lies elsewhere."""
    async with redis_server() as server, instances(1, server) as cluster:
        cluster[0].rates.rents._commands._checked = ()
        before = cluster[0].holder
        await server.ask("FLUSHALL")
        await until(lambda: cluster[0].holder not in (None, before), 30.0)
        await cluster[0].up()
        user = User(cluster[0], rate=1.0, burst=100.0)
        await user.flood(1.0)
        assert 50 <= len(user.times) <= 60  # a share, as if there were one more


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
            assert 33 <= len(user.times) <= 45  # a share of two, as if there were one more


async def test_one_that_is_told_to_give_back_what_it_knows_nothing_of_gives_back_nothing() -> None:
    async with redis_server() as server, instances(2, server, deadline=2.0) as cluster:
        await server.ask("HSET", BUCKET, "l", "20", "s", "1", "o", cluster[0].name.decode(), "e", "1")
        second = User(cluster[1], rate=10.0, burst=20.0)
        await eventually(second.say, 2.0)
        assert await second.say_all(20) < 5
