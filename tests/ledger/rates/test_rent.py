"""The script of shared buckets on a real server: what instances say to it, one after the other, and what it answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from math import isclose

import pytest

from proxy.ledger.rates.rent import Elsewhere, Knowledge, Leased, Owned, Rent, RentAnswer, RentCommands, Said, Verb, read_rent
from proxy.ledger.scripts import LOSS_TTL, RENT
from tests.support.redis_servers import RedisServer, redis_server

SLOW = 1 / 3600  # tokens a second: none in the time of a test
KEY = b"rule:}{\x00key"
NAME = b"test:b:{" + KEY + b"}"
ASK = Rent(KEY, SLOW, 10.0, need=1.0, want=1.0)
TAKEOVER = 0.151  # seconds
JUST_BACK = Knowledge(known=1.0, away=60.0)
SET_TURNS = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
for i = 1, #ARGV, 3 do
  local at, slot = now - ARGV[i + 1] * 1000000, now + ARGV[i + 2] * 1000000
  redis.call('HSET', KEYS[1], 'i' .. ARGV[i], string.format('%.0f 5 %.0f', at, slot))
end
"""


class Tenant:
    """One instance, as the script knows it."""

    def __init__(self, server: RedisServer, name: bytes) -> None:
        self._server = server
        self.commands = RentCommands("test:", name)
        self.knowledge = Knowledge()
        self.holder = b""
        self.number = 0
        self.heard = 0

    async def say(self, rent: Rent) -> RentAnswer:
        """Questions are numbered, unless the test does so. An ownership is heard of at once."""
        if rent.number == 0:
            self.number += rent.verb is Verb.ASK
            rent = replace(rent, number=self.number, heard=self.heard)
        said = await self.write(rent)
        if isinstance(said, Owned):
            self.heard = int(said.epoch)
        return said

    async def write(self, rent: Rent) -> RentAnswer:
        async with self._server.client(decode_responses=False) as client:
            await client.script_load(RENT.source)
            return read_rent(await client.execute_command(*self.commands.rent(rent, self.knowledge, self.holder)))

    async def ask_when(self, rent: Rent, **turns: tuple[float, float]) -> RentAnswer:
        """Ask at a moment at which each of these needs 5, and asked so many seconds ago, and has its turn in so many."""
        words = [word for name, (ago, slot) in turns.items() for word in (name, ago, slot)]
        async with self._server.client(decode_responses=False) as client, client.pipeline(transaction=True) as together:
            await client.script_load(RENT.source)
            together.eval(SET_TURNS, 1, NAME, *words)
            together.execute_command(*self.commands.rent(rent, self.knowledge, self.holder))
            return read_rent((await together.execute())[-1])

    async def ask(self, need: float = 1.0, want: float = 0.0, **changes: object) -> RentAnswer:
        return await self.say(replace(ASK, need=need, want=max(need, want), **changes))  # type: ignore[arg-type]

    async def wait(self) -> bytes:
        """Ask for what another one has: the owner who is told."""
        said = await self.ask()
        assert isinstance(said, Elsewhere)
        return said.owner

    async def own(self, left: float = 10.0, /, **changes: object) -> Owned:
        said = await self.ask(**changes)  # type: ignore[arg-type]
        assert isinstance(said, Owned)
        assert isclose(said.level, left, abs_tol=0.01)
        return said


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    async with redis_server() as one:
        yield one


@pytest.fixture
def ann(server: RedisServer) -> Tenant:
    return Tenant(server, b"ann")


@pytest.fixture
def bob(server: RedisServer) -> Tenant:
    return Tenant(server, b"bob")


async def field(server: RedisServer, name: str) -> bytes | None:
    async with server.client(decode_responses=False) as client:
        value: bytes | None = await client.hget(NAME, name)
        return value


async def shared(ann: Tenant, bob: Tenant, level: float = 10.0) -> None:
    """Both use it, and nobody owns it."""
    owned = await ann.own()
    assert isinstance(await bob.ask(), Elsewhere)
    assert await ann.say(replace(ASK, verb=Verb.YIELD, epoch=owned.epoch, level=level, need=0.0)) is Said.DONE


class TestOwner:
    async def test_who_asks_alone_gets_all_of_it(self, ann: Tenant) -> None:
        await ann.own(10.0)

    async def test_who_cannot_be_told_to_give_it_back_never_owns(self, ann: Tenant) -> None:
        assert await ann.ask(3.0, may_own=False) == Leased(3.0, 0.0, 1)

    async def test_whoever_asks_next_waits_and_the_owner_is_told(self, server: RedisServer, ann: Tenant, bob: Tenant) -> None:
        await ann.own()
        async with server.client(decode_responses=False) as client, client.pubsub() as ears:
            await ears.subscribe(ann.commands.channel)
            await ears.get_message(timeout=5.0)
            said = await bob.ask()
            message = await ears.get_message(timeout=5.0)
            assert message is not None
            assert ann.commands.read_message(message["data"]) == (b"y", KEY)
        assert isinstance(said, Elsewhere)
        assert 0.15 < said.retry <= TAKEOVER + 0.001
        assert said.sharers == 2

    async def test_whoever_waits_is_told_when_it_was_given_back_and_finds_what_was_left(
        self, server: RedisServer, ann: Tenant, bob: Tenant
    ) -> None:
        owned = await ann.own()
        await bob.ask()
        async with server.client(decode_responses=False) as client, client.pubsub() as ears:
            await ears.subscribe(bob.commands.channel)
            await ears.get_message(timeout=5.0)
            await ann.say(replace(ASK, verb=Verb.YIELD, epoch=owned.epoch, level=4.0))
            message = await ears.get_message(timeout=5.0)
            assert message is not None
            assert bob.commands.read_message(message["data"]) == (b"f", KEY)
        assert await bob.ask(4.0) == Leased(4.0, 0.0, 2)
        said = await bob.ask(1.0)
        assert isinstance(said, Leased)
        assert said.tokens == 0

    async def test_an_owner_that_does_not_use_it_any_more_does_not_share_it(self, ann: Tenant, bob: Tenant) -> None:
        owned = await ann.own()
        await bob.ask()
        await ann.say(replace(ASK, verb=Verb.YIELD, epoch=owned.epoch, level=4.0, need=0.0, want=0.0))
        await bob.own(4.0)

    async def test_an_owner_that_is_silent_loses_it_empty(self, ann: Tenant, bob: Tenant) -> None:
        owned = await ann.own()
        silent = await bob.wait()
        assert isinstance(await bob.ask(), Elsewhere)  # he has not waited yet
        await bob.own(0.0, waited_for=silent)
        assert await ann.say(replace(ASK, verb=Verb.YIELD, epoch=owned.epoch, level=10.0)) is Said.DONE
        assert isinstance(await ann.ask(), Elsewhere)
        assert await field_level_is(bob, 0.0)

    async def test_who_loses_it_is_told_once_more(self, server: RedisServer, ann: Tenant, bob: Tenant) -> None:
        """The first word may have been lost with the connection of his channel."""
        await ann.own()
        silent = await bob.wait()
        async with server.client(decode_responses=False) as client, client.pubsub() as ears:
            await ears.subscribe(ann.commands.channel)
            await ears.get_message(timeout=5.0)
            await bob.own(0.0, waited_for=silent)
            message = await ears.get_message(timeout=5.0)
            assert message is not None
            assert ann.commands.read_message(message["data"]) == (b"y", KEY)

    async def test_who_waited_for_one_owner_waits_for_the_next_one_too(self, ann: Tenant, bob: Tenant) -> None:
        owned = await ann.own()
        silent = await bob.wait()
        await ann.say(replace(ASK, verb=Verb.YIELD, epoch=owned.epoch, level=4.0, need=0.0, want=0.0))
        await ann.write(replace(ASK, verb=Verb.LEAVE, number=9, heard=9))
        await bob.say(replace(ASK, verb=Verb.LEAVE))
        await ann.own(4.0)
        assert isinstance(await bob.ask(waited_for=silent), Elsewhere)

    async def test_a_question_that_nobody_waited_for_takes_nothing_from_an_owner(self, ann: Tenant, bob: Tenant) -> None:
        """It may have lain in a frozen server, and so may the one that made the owner what he is: he has not heard of it."""
        assert await ann.write(replace(ASK, number=7)) == Owned(10.0, b"7")
        await bob.ask()
        await asyncio.sleep(TAKEOVER)
        assert isinstance(await bob.ask(), Elsewhere)
        assert await ann.write(replace(ASK, number=8, heard=6, need=10.0, want=10.0)) == Leased(10.0, 0.0, 2)

    @pytest.mark.parametrize(
        ("knowledge", "level"),
        [(JUST_BACK, 4.0), (Knowledge(known=10.1, away=60.0), 0.0), (Knowledge(), 0.0)],
        ids=["just back", "later", "never"],
    )
    async def test_what_a_silent_owner_had_is_a_share_just_after_an_outage(
        self, ann: Tenant, bob: Tenant, knowledge: Knowledge, level: float
    ) -> None:
        """He may have become it by a question from before the outage, and not be back yet."""
        await ann.own()
        bob.knowledge = knowledge
        await bob.own(level, level=4.0, waited_for=await bob.wait())
        await bob.own(0.0, level=4.0)  # he has forgotten it, and knows that he may have had it

    async def test_such_a_share_is_no_more_than_a_bucket(self, ann: Tenant, bob: Tenant) -> None:
        bob.knowledge = JUST_BACK
        await ann.own()
        await bob.own(10.0, level=40.0, waited_for=await bob.wait())

    async def test_an_owner_that_asks_finds_that_it_still_is(self, ann: Tenant) -> None:
        owned = await ann.own()
        said = await ann.say(replace(ASK, epoch=owned.epoch, level=7.0, need=0.0, want=0.0))
        assert said == Owned(7.0, owned.epoch)

    async def test_an_owner_that_asks_while_another_waits_has_given_it_back(self, ann: Tenant, bob: Tenant) -> None:
        owned = await ann.own()
        await bob.ask()
        said = await ann.say(replace(ASK, epoch=owned.epoch, level=7.0, need=0.0, want=0.0))
        assert isinstance(said, Leased)
        assert said.tokens == 0
        assert await bob.ask(7.0, may_own=False) == Leased(7.0, 0.0, 1)
        assert await field_level_is(bob, 0.0)

    async def test_an_owner_that_has_forgotten_it_has_nothing(self, ann: Tenant) -> None:
        await ann.own(10.0)
        await ann.own(0.0)

    @pytest.mark.parametrize("verb", [Verb.ASK, Verb.YIELD])
    async def test_an_owner_that_never_heard_it_has_spent_nothing(self, ann: Tenant, bob: Tenant, verb: Verb) -> None:
        """The answer was lost, or the question ran when nobody waited for it any more."""
        assert await ann.write(replace(ASK, number=7)) == Owned(10.0, b"7")
        if verb is Verb.ASK:
            assert await ann.write(replace(ASK, number=8, heard=6)) == Owned(10.0, b"8")
        else:
            assert await ann.write(replace(ASK, verb=verb, number=7, heard=6, need=0.0, want=0.0)) is Said.DONE
            await bob.own(10.0)

    async def test_a_question_that_runs_after_a_later_one_changes_nothing(self, server: RedisServer, ann: Tenant) -> None:
        assert await ann.write(replace(ASK, number=8)) == Owned(10.0, b"8")
        for verb in (Verb.ASK, Verb.YIELD, Verb.LEAVE):
            for epoch in (b"", b"5"):
                assert await ann.write(replace(ASK, verb=verb, epoch=epoch, number=7, heard=5)) is Said.DONE
        assert await field(server, "e") == b"8"

    async def test_what_one_that_never_heard_it_gets_is_no_more_than_he_says_it_can_be(self, ann: Tenant) -> None:
        assert isinstance(await ann.write(replace(ASK, number=7)), Owned)
        assert await ann.write(replace(ASK, number=8, most=3.0)) == Owned(3.0, b"8")

    async def test_one_who_does_not_own_gives_nothing_back(self, ann: Tenant, bob: Tenant) -> None:
        await ann.own()
        for verb in (Verb.YIELD, Verb.LEAVE):
            assert await bob.say(replace(ASK, verb=verb, epoch=b"1", level=10.0)) is Said.DONE
        assert isinstance(await bob.ask(), Elsewhere)

    async def test_nobody_gives_back_more_than_a_bucket(self, ann: Tenant, bob: Tenant) -> None:
        await shared(ann, bob, level=1_000.0)
        assert await bob.ask(10.0) == Leased(10.0, 0.0, 2)
        said = await bob.ask(1.0)
        assert isinstance(said, Leased)
        assert said.tokens == 0

    async def test_only_who_needs_something_now_is_told_that_it_was_given_back(self, server: RedisServer, ann: Tenant) -> None:
        owned = await ann.own()
        async with server.client(decode_responses=False) as client, client.pubsub() as ears:
            now = int(await client.hget(NAME, "s"))
            await client.hset(NAME, mapping={"icarol": f"{now} 0 0", "idave": f"{now - 3_000_000} 5 0"})
            channels = [Tenant(server, name).commands.channel for name in (b"carol", b"dave")]
            await ears.subscribe(*channels)
            for _ in channels:
                await ears.get_message(timeout=5.0)
            await ann.say(replace(ASK, verb=Verb.YIELD, epoch=owned.epoch, level=4.0))
            await client.publish(channels[0], "the end")
            message = await ears.get_message(timeout=5.0)
            assert message is not None
            assert message["data"] == b"the end"

    async def test_who_wants_nothing_takes_it_from_no_owner_and_gets_none(self, server: RedisServer, ann: Tenant, bob: Tenant) -> None:
        assert await bob.ask(0.0) == Leased(0.0, 0.0, 1)
        await ann.own()
        said = await bob.ask(0.0)
        assert isinstance(said, Leased)
        assert said.tokens == 0
        assert await field(server, "w") is None

    async def test_who_wanted_it_from_one_owner_wants_it_no_more_from_the_next(self, ann: Tenant, bob: Tenant) -> None:
        owned = await ann.own()
        await bob.ask()
        await ann.say(replace(ASK, verb=Verb.YIELD, epoch=owned.epoch, level=4.0, need=0.0, want=0.0))
        owned = await bob.own(4.0)
        assert await bob.say(replace(ASK, epoch=owned.epoch, level=3.0)) == Owned(3.0, owned.epoch)

    async def test_a_full_bucket_that_another_one_uses_is_not_forgotten(self, server: RedisServer, ann: Tenant, bob: Tenant) -> None:
        owned = await ann.own()
        await bob.ask()
        await ann.say(replace(ASK, verb=Verb.LEAVE, epoch=owned.epoch, level=10.0))
        assert await field(server, "ibob") is not None

    async def test_a_full_bucket_that_nobody_uses_is_forgotten_and_another_not(self, server: RedisServer, ann: Tenant) -> None:
        owned = await ann.own()
        await ann.say(replace(ASK, verb=Verb.LEAVE, epoch=owned.epoch, level=9.0))
        assert await field(server, "l") == b"9"
        owned = await ann.own(9.0)
        await ann.say(replace(ASK, verb=Verb.LEAVE, epoch=owned.epoch, level=10.0))
        assert await field(server, "l") is None


async def field_level_is(owner: Tenant, level: float) -> bool:
    """An owner's own bucket is never in the store."""
    said = await owner.ask(may_own=False)
    return isinstance(said, Leased) and said.tokens == level


class TestLeases:
    async def test_what_is_leased_is_gone_for_everybody(self, ann: Tenant, bob: Tenant) -> None:
        await shared(ann, bob)
        assert await ann.ask(6.0) == Leased(6.0, 0.0, 2)
        said = await bob.ask(5.0)
        assert isinstance(said, Leased)
        assert said.tokens == 0
        assert said.retry > 1  # hour, about

    async def test_nobody_gets_all_beyond_what_is_needed_while_others_are_there(self, ann: Tenant, bob: Tenant) -> None:
        await shared(ann, bob)
        said = await ann.ask(1.0, 100.0)
        assert isinstance(said, Leased)
        assert 1 < said.tokens < 10
        assert said.retry > 0

    async def test_turns_are_kept_for_who_asked_first(self, ann: Tenant, bob: Tenant) -> None:
        await shared(ann, bob, level=2.0)
        refused = await ann.ask(5.0, rate=10.0)
        assert isinstance(refused, Leased)
        assert refused.tokens == 0
        assert 0.25 < refused.retry < 0.35  # until there are 5
        behind = await bob.ask(2.0, rate=10.0)
        assert isinstance(behind, Leased)
        assert behind.tokens == 0
        assert 0.4 < behind.retry < 0.55  # until there are 7
        await asyncio.sleep(refused.retry)
        said = await ann.ask(5.0, rate=10.0)
        assert isinstance(said, Leased)
        assert said.tokens == 5

    @pytest.mark.parametrize(
        ("turn", "tokens"),
        [((1.0, -0.001), 0.0), ((1.0, -0.25), 1.0), ((60.0, 60.0), 0.0), ((60.0, -0.001), 0.0)],
        ids=["just now", "over", "far away", "just now, and long awaited"],
    )
    async def test_a_turn_is_kept_until_a_quarter_of_a_second_after_its_time(
        self, ann: Tenant, bob: Tenant, turn: tuple[float, float], tokens: float
    ) -> None:
        await shared(ann, bob, level=5.0)
        said = await bob.ask_when(ASK, ann=turn)
        assert isinstance(said, Leased)
        assert said.tokens == tokens
        assert said.sharers == 2

    @pytest.mark.parametrize(("slot", "tokens"), [(-0.001, 5.0), (-0.25, 0.0)], ids=["in time", "too late"])
    async def test_whoever_comes_too_late_for_his_turn_is_behind_the_others(
        self, ann: Tenant, bob: Tenant, slot: float, tokens: float
    ) -> None:
        await shared(ann, bob, level=5.0)
        said = await bob.ask_when(replace(ASK, need=5.0, want=5.0), ann=(1.0, 10.0), bob=(1.0, slot))
        assert isinstance(said, Leased)
        assert said.tokens == tokens

    async def test_what_others_wait_for_is_not_shared_out(self, ann: Tenant, bob: Tenant) -> None:
        """It is his turn, and the other one's is to come."""
        await shared(ann, bob)
        said = await bob.ask_when(replace(ASK, want=9.0), ann=(1.0, 10.0), bob=(1.0, 5.0))
        assert isinstance(said, Leased)
        assert said.tokens == 3.0  # one, and two thirds of the four beyond the other's five

    async def test_who_got_a_part_of_what_he_wants_is_behind_who_waits(self, ann: Tenant, bob: Tenant) -> None:
        await shared(ann, bob, level=6.0)
        said = await bob.ask_when(replace(ASK, want=9.0), ann=(1.0, 10.0), bob=(1.0, 5.0))
        assert isinstance(said, Leased)
        assert said.tokens == 1.0
        assert said.retry > 1_000  # until there are six again, five of them for the other one

    async def test_who_has_asked_for_nothing_for_two_seconds_shares_it_no_more(self, ann: Tenant, bob: Tenant) -> None:
        await shared(ann, bob, level=5.0)
        said = await bob.ask_when(replace(ASK, number=7), ann=(2.0, -2.0))
        assert isinstance(said, Owned)

    async def test_who_has_waited_for_longer_and_still_does_shares_it(self, ann: Tenant, bob: Tenant) -> None:
        await shared(ann, bob)
        assert await bob.ask_when(ASK, ann=(5.0, 5.0)) == Leased(1.0, 0.0, 2)

    async def test_an_owner_does_not_share_what_he_has(self, ann: Tenant, bob: Tenant) -> None:
        """He has just asked; and so whoever takes it from him has it alone."""
        await shared(ann, bob)
        assert await bob.ask_when(replace(ASK, number=7), ann=(2.0, -2.0), bob=(0.0, 0.0)) == Owned(pytest.approx(10.0, abs=0.01), b"7")
        await ann.own(0.0, waited_for=await ann.wait())

    async def test_a_bucket_fills_as_time_goes_by_and_not_beyond_its_burst(self, ann: Tenant, bob: Tenant) -> None:
        await shared(ann, bob, level=0.0)
        await asyncio.sleep(0.3)
        said = await ann.ask(1.0, 1_000.0, rate=1_000.0, may_own=False)
        assert isinstance(said, Leased)
        assert 10 < said.tokens <= 10.0 + 1_000.0 * 0.05
        assert said.tokens + said.left == pytest.approx(60, abs=0.01)

    async def test_one_that_holds_a_quarter_of_a_second_holds_no_more_than_its_burst(self, ann: Tenant, bob: Tenant) -> None:
        await shared(ann, bob, level=0.0)
        await asyncio.sleep(0.3)
        said = await ann.ask(1.0, 1_000.0, rate=1_000.0, burst=250.0, may_own=False)
        assert isinstance(said, Leased)
        assert said.tokens + said.left == pytest.approx(250, abs=0.01)

    async def test_one_that_is_not_shared_holds_no_more_than_its_burst(self, server: RedisServer, ann: Tenant) -> None:
        await server.ask("HSET", NAME, "l", "0", "s", "1")
        said = await ann.ask(rate=1_000.0, may_own=False)
        assert isinstance(said, Leased)
        assert said.left == 9.0

    async def test_a_small_bucket_is_asked_for_more_often(self, server: RedisServer, ann: Tenant) -> None:
        """Half of the time in which it fills: of its burst, and what a shared one holds beyond it."""
        await server.ask("HSET", NAME, "l", "0", "s", str(2**53))  # nothing comes in
        assert await ann.ask(rate=100.0, may_own=False) == Leased(0.0, 0.076, 1)

    async def test_what_lacks_no_more_than_rounding_is_there(self, server: RedisServer, ann: Tenant) -> None:
        await server.ask("HSET", NAME, "l", "0.9999999", "s", str(2**53))
        assert await ann.ask(may_own=False) == Leased(1.0, 0.0, 1)
        assert await field(server, "l") == b"0"


class TestTrouble:
    async def test_a_clock_that_went_back_gives_nothing_and_takes_nothing(self, server: RedisServer, ann: Tenant, bob: Tenant) -> None:
        await shared(ann, bob, level=3.0)
        async with server.client(decode_responses=False) as client:
            ahead = int(await client.hget(NAME, "s")) + 3_600_000_000
            await client.hset(NAME, mapping={"s": ahead, "iann": f"{ahead} 5 {ahead}", "w": ahead})
        assert await bob.ask(3.0, rate=10.0, may_own=False) == Leased(3.0, 0.0, 1)

    async def test_what_came_while_the_store_was_away_is_not_refilled(self, ann: Tenant, bob: Tenant) -> None:
        await shared(ann, bob, level=0.0)
        await asyncio.sleep(0.2)
        bob.knowledge = Knowledge(known=0.0, away=60.0)
        said = await bob.ask(1.0, rate=100.0)
        assert isinstance(said, Leased)
        assert said.tokens == 0

    @pytest.mark.parametrize(("away", "refill"), [(0.0, 0.4), (0.3, 0.1), (0.5, 0.05)])
    async def test_what_came_before_and_after_it_was_away_is(
        self, server: RedisServer, ann: Tenant, bob: Tenant, away: float, refill: float
    ) -> None:
        """It was written 0.4 s ago, and has been back for 0.05."""
        await shared(ann, bob, level=0.0)
        async with server.client(decode_responses=False) as client:
            await client.hset(NAME, "s", int(await client.hget(NAME, "s")) - 400_000)
        bob.knowledge = Knowledge(known=0.05, away=away)
        said = await bob.ask(0.0, 0.001, rate=100.0, burst=1_000.0, may_own=False)
        assert isinstance(said, Leased)
        assert 100.0 * refill - 0.1 <= said.left <= 100.0 * refill + 8.0  # the machine may be slow

    @pytest.mark.parametrize(
        ("away", "known", "level"),
        [(0.0, 0.5, 10.0), (1.0, 60.0, 10.0), (15.0, 0.5, 10.0), (16.0, 0.5, 8.0 + 1.0), (60.0, 0.5, 3.0 + 1.0), (60.0, 5.0, 10.0)],
    )
    async def test_one_that_may_have_expired_while_it_was_away_lacks_what_came_in_then(
        self, ann: Tenant, away: float, known: float, level: float
    ) -> None:
        """It was full for 15 s before it expired, so that what it lacks is less than what comes in in the rest of the outage."""
        ann.knowledge = Knowledge(known=known, away=away)
        said = await ann.ask(level=3.0, rate=2.0)
        assert isinstance(said, Owned)
        assert said.level == level

    async def test_after_a_loss_of_data_a_bucket_that_is_not_there_began_as_empty(self, ann: Tenant) -> None:
        ann.knowledge = Knowledge(kept=0.5)
        said = await ann.ask(rate=10.0)
        assert isinstance(said, Owned)
        assert said.level == 5.0

    async def test_but_has_what_whoever_asks_says_that_it_begins_with(self, ann: Tenant) -> None:
        ann.knowledge = Knowledge(kept=0.5)
        said = await ann.ask(level=3.0, rate=10.0)
        assert isinstance(said, Owned)
        assert said.level == 8.0

    async def test_an_owner_who_became_it_anew_and_did_not_hear_so_brings_back_what_he_has(
        self, server: RedisServer, ann: Tenant, bob: Tenant
    ) -> None:
        """He told that it is his after a loss of data, and the answer was lost."""
        owned = await ann.own()
        await server.ask("FLUSHALL")
        told = replace(ASK, epoch=owned.epoch, level=10.0, need=0.0, want=0.0, number=5, heard=5)
        assert await ann.write(told) == Owned(10.0, b"5")
        again = replace(told, level=4.0, number=6, heard=6)
        assert await ann.write(again) == Owned(4.0, b"5")
        await bob.ask()
        given_back = replace(ASK, verb=Verb.YIELD, epoch=owned.epoch, level=2.0, need=0.0, want=0.0, number=6, heard=6)
        assert await ann.write(given_back) is Said.DONE
        await bob.own(2.0)

    async def test_after_a_loss_of_data_an_owner_brings_its_level_back(self, server: RedisServer, ann: Tenant, bob: Tenant) -> None:
        owned = await ann.own()
        await server.ask("FLUSHALL")
        said = await ann.say(replace(ASK, epoch=owned.epoch, level=3.0, need=0.0, want=0.0))
        assert isinstance(said, Owned)
        assert said.level == 3.0
        assert isinstance(await bob.ask(), Elsewhere)

    @pytest.mark.parametrize(
        "junk",
        [
            ("SET", "text"),
            ("HSET", "name", "value"),
            ("HSET", "l", "1"),
            ("HSET", "l", "1", "s", "1", "name", "value"),
            ("HSET", "iann", "now"),
            ("HSET", "l", "1", "s", "1", "iann", "nan 1 1"),
            ("HSET", "l", "1", "s", "1", "iann", "1 inf 1"),
            ("HSET", "l", "1", "s", "1", "iann", "1 1 -1"),
            ("HSET", "l", "1", "s", "1", "w", "inf"),
            ("HSET", "l", "1", "s", "1", "o", "ann"),
            ("HSET", "l", "1", "s", "1", "e", "1"),
            *(("HSET", name, value, other, "1") for name, other in ("ls", "sl") for value in ("nan", "inf", "-inf", "-1", "1e300", "")),
            ("HSET", "l", "1", "s", "1", *(word for number in range(4_096) for word in (f"i{number}", "1 1 1"))),
            ("HSET", *(word for number in range(9_000) for word in (f"i{number}", "1 1 1"))),
            ("RPUSH", "1"),
        ],
        ids=lambda junk: " ".join(junk[:7]),
    )
    async def test_what_is_not_ours_is_told_and_left_alone(self, server: RedisServer, ann: Tenant, junk: tuple[str, ...]) -> None:
        async with server.client(decode_responses=False) as client:
            await client.execute_command(junk[0], NAME, *junk[1:])
            before = await client.dump(NAME)
            assert await ann.ask() is Said.CONFLICT
            assert await client.dump(NAME) == before

    async def test_many_instances_that_are_gone_are_no_trouble(self, server: RedisServer, ann: Tenant) -> None:
        gone = [word for number in range(4_094) for word in (f"i{number}", "1 1 1")]
        async with server.client(decode_responses=False) as client:
            await client.execute_command("HSET", NAME, "l", "3", "s", "1", *gone)
            assert await ann.ask(may_own=False, rate=10.0) == Leased(1.0, 0.0, 1)
            assert await client.hlen(NAME) == 3

    async def test_a_turn_that_is_further_away_than_numbers_reach_does_no_harm(self, server: RedisServer, ann: Tenant, bob: Tenant) -> None:
        await shared(ann, bob, level=0.0)
        for _ in range(2):
            said = await ann.ask(10.0, rate=1e-12)
            assert isinstance(said, Leased)
            assert said.tokens == 0
        assert 364 * 86_400 < await server.ask("TTL", NAME) <= 365 * 86_400

    async def test_one_who_knows_nothing_of_its_bucket_gives_back_an_empty_one(self, server: RedisServer, ann: Tenant, bob: Tenant) -> None:
        await ann.own()
        await bob.ask()
        assert await ann.say(Rent(KEY, 0.0, 0.0, Verb.YIELD)) is Said.DONE
        assert await field(server, "l") == b"0"
        async with server.client(decode_responses=False) as client:
            assert 0 < await client.pttl(NAME) <= 86_400_000
        assert await bob.ask(1.0, rate=10.0, may_own=False) == Leased(0.0, 0.201, 1)

    async def test_so_does_one_whom_nobody_has_asked(self, server: RedisServer, ann: Tenant) -> None:
        await ann.own()
        assert await ann.say(Rent(KEY, 0.0, 0.0, Verb.YIELD)) is Said.DONE
        assert await field(server, "l") == b"0"

    @pytest.mark.parametrize("knowledge", [Knowledge(), Knowledge(known=1.0, kept=1.0), JUST_BACK], ids=["calm", "lost", "just back"])
    @pytest.mark.parametrize("word", [Rent(KEY, 0.0, 0.0, Verb.YIELD), replace(ASK, verb=Verb.LEAVE)], ids=["yield", "leave"])
    async def test_one_who_gives_back_what_is_not_there_leaves_nothing(
        self, server: RedisServer, ann: Tenant, word: Rent, knowledge: Knowledge
    ) -> None:
        ann.knowledge = knowledge
        assert await ann.say(word) is Said.DONE
        assert await field(server, "l") is None

    async def test_giving_back_twice_is_giving_back_once(self, server: RedisServer, ann: Tenant, bob: Tenant) -> None:
        await shared(ann, bob, level=3.0)
        await ann.ask(1.0)
        before = await field(server, "iann")
        assert before is not None
        assert await ann.say(replace(ASK, verb=Verb.YIELD, level=10.0)) is Said.DONE
        assert await field(server, "iann") == before
        assert float(await field(server, "l") or 0) == pytest.approx(2, abs=0.01)

    async def test_nobody_brings_back_more_than_a_bucket(self, ann: Tenant) -> None:
        assert await ann.ask(1.0, 100.0, epoch=b"1", level=40.0, may_own=False) == Leased(10.0, pytest.approx(3_600, rel=0.01), 1)

    async def test_whoever_is_not_listed_is_told_so_and_changes_nothing(self, server: RedisServer, ann: Tenant) -> None:
        ann.commands, ann.holder = RentCommands("test:", b"ann", [b"test:h"]), b"me"
        assert await ann.ask() is Said.UNLISTED
        assert await field(server, "l") is None
        await server.ask("HSET", "test:h", "me", "1")
        owned = await ann.own()
        await server.ask("DEL", "test:h")
        assert await ann.say(replace(ASK, verb=Verb.YIELD, epoch=owned.epoch, level=3.0)) is Said.DONE  # what is given back is taken
        assert await field(server, "l") == b"3"

    async def test_whoever_comes_after_a_loss_of_data_finds_its_mark(self, server: RedisServer, ann: Tenant, bob: Tenant) -> None:
        bob.commands, bob.holder = RentCommands("test:", b"bob", [b"test:h"]), b"me"
        await server.ask("HSET", "test:h", "me", "1")
        async with server.client(decode_responses=False) as client:
            await client.set("test:l", "1", px=LOSS_TTL - 500)
        said = await bob.ask(rate=10.0)
        assert isinstance(said, Owned)
        assert said.level == pytest.approx(5.0, abs=3)
        async with server.client(decode_responses=False) as client:
            await client.delete(NAME)
        bob.knowledge = Knowledge(kept=0.2)
        said = await bob.ask(rate=10.0)
        assert isinstance(said, Owned)
        assert said.level == 2.0
        async with server.client(decode_responses=False) as client:
            await client.delete(NAME, "test:l")
        bob.knowledge = Knowledge()
        await bob.own(10.0)
        async with server.client(decode_responses=False) as client:
            await client.delete(NAME)
            await client.set("test:l", "1", px=2 * LOSS_TTL)  # a clock went back
        await bob.own(0.0)

    async def test_what_an_instance_knows_is_the_most_that_is_there(self, server: RedisServer, ann: Tenant, bob: Tenant) -> None:
        """The key was thrown away, or its stamp was moved by a clock that jumped ahead."""
        await shared(ann, bob, level=2.0)
        said = await ann.ask(2.0)
        assert isinstance(said, Leased)
        assert said.left == pytest.approx(0.0, abs=0.01)
        async with server.client(decode_responses=False) as client:
            await client.hset(NAME, "s", 1)
            assert await ann.ask(1.0, most=0.5) == Leased(0.0, pytest.approx(1_800, rel=0.01), 2)
            await client.delete(NAME)
        assert await ann.ask(1.0, most=0.5, may_own=False) == Leased(0.0, pytest.approx(1_800, rel=0.01), 1)

    async def test_every_key_expires_an_owned_one_after_a_day_others_when_they_are_full(
        self, server: RedisServer, ann: Tenant, bob: Tenant
    ) -> None:
        await ann.own()
        async with server.client(decode_responses=False) as client:
            assert 86_000 < await client.ttl(NAME) <= 86_400
            await client.expire(NAME, 60)
            assert await ann.say(replace(ASK, epoch=b"1", level=7.0)) == Owned(7.0, b"1")
            assert 86_000 < await client.ttl(NAME) <= 86_400
            await client.delete(NAME)
            assert isinstance(await bob.ask(10.0, rate=10.0, may_own=False), Leased)
            assert 1 < await client.ttl(NAME) <= 20

    async def test_instances_that_are_gone_are_forgotten(self, server: RedisServer, ann: Tenant, bob: Tenant) -> None:
        await shared(ann, bob)
        async with server.client(decode_responses=False) as client:
            await client.hset(NAME, "iold", "1 5 2")
            await bob.ask()
            assert not await client.hexists(NAME, "iold")
            await client.hset(NAME, "iold", "1 5 2")
            await bob.say(replace(ASK, verb=Verb.LEAVE))
            assert not await client.hexists(NAME, "iold")


@pytest.mark.parametrize("reply", [None, 1, b"", b"O 1", b"L 1 2", b"L 1 2 3", b"W 1 2", b"X", b"L a b c d", b"K 1"])
def test_an_answer_that_makes_no_sense_is_told(reply: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_rent(reply)


@pytest.mark.parametrize("message", [b"", b"y", b"ytest:b:{key", b"xtest:b:{key}", b"yother:b:{key}"])
def test_a_message_that_is_not_ours_is_not_heard(message: bytes) -> None:
    assert RentCommands("test:", b"ann").read_message(message) is None
