"""What becomes of the dead, and of what they had."""

from __future__ import annotations

import asyncio

import pytest

from proxy.ledger.scripts import Command, Keys
from proxy.ledger.seats.holders import Holders
from proxy.ledger.seats.undertaker import Undertaker
from proxy.ledger.store import StoreDown, StoreState
from tests.ledger.instances import PATIENCE, Heard, address_of, instance
from tests.ledger.store_contract import denied, granted, member, seat
from tests.support.cuttable import cuttable
from tests.support.redis_servers import redis_server
from tests.support.waiting import until

KEYS = Keys("test:", listed=True)
ME, DEAD = b"a" * 16, b"f" * 16


class Asked:
    """Whom an undertaker asks: `answer` is what becomes of each command, after a turn of the loop."""

    def __init__(self) -> None:
        self.sent: list[Command] = []
        self.holders = Holders(15.0, 2.0)
        self.holders.joined(ME, {ME: 1}, 0.0)
        self.heard = Heard()
        self.moving: list[bytes] = []
        self.undertaker = Undertaker(self.do, KEYS, self.holders, lambda: self.moving, self.heard)

    async def do(self, command: Command) -> object:
        self.sent.append(command)
        await asyncio.sleep(0)
        return self.answer(command)

    def answer(self, command: Command) -> object:
        return [ME, b"1"] if command[0] == b"HGETALL" else b"0"


async def test_whoever_moved_meanwhile_is_not_buried() -> None:
    async with redis_server() as server, instance(address_of(server)) as one:
        keeper = one.store._shared.keeper
        other = b"0" * 16
        await server.ask("HSET", "test:h", other, 8)
        assert await keeper.do(keeper._keys.bury(other, 7)) == 0
        assert await server.ask("HGET", "test:h", other) == "8"
        assert await keeper.do(keeper._keys.bury(other, 8)) == 1
        assert await server.ask("HEXISTS", "test:h", other) == 0


async def test_an_own_id_of_a_moment_ago_is_not_dead_before_its_seats_have_moved() -> None:
    asked = Asked()
    asked.moving = [ME]
    asked.holders.doubted()
    asked.holders.buried(DEAD)
    assert asked.undertaker.dead_among([ME, DEAD]) == [DEAD]
    asked.moving = []
    assert asked.undertaker.dead_among([ME, DEAD]) == [ME, DEAD]


async def test_a_refusal_that_comes_just_after_a_doubt_frees_nothing_that_is_held_here() -> None:
    """A frozen process wakes up: in one turn of its loop it reads the answer, and finds that it stood still."""
    async with redis_server() as server, cuttable(server.port) as link, instance(address_of(server, link.port)) as one:
        await granted(one.store, seat("full"))
        before = one.holder
        link.delay = 0.2
        first = asyncio.ensure_future(denied(one.store, seat("full")))
        await asyncio.sleep(0.3)  # it was asked, and is answered
        one.store._shared.keeper.doubt()
        while one.holder in (None, before):
            assert await server.ask("HLEN", "test:n:{full}") == 1
            await asyncio.sleep(0.01)
        await first


# --- looks ----------------------------------------------------------------------------------------------------------------------


async def test_keys_that_come_while_it_looks_wait_for_the_next_heartbeat() -> None:
    """Over a limit in shadow each upgrade brings one."""

    class Flooded(Asked):
        def answer(self, command: Command) -> object:
            self.undertaker.look_at(seat(f"later {len(self.sent)}"))
            return super().answer(command)

    flooded = Flooded()
    for i in range(3):
        flooded.undertaker.look_at(seat(f"k{i}"))
    await flooded.undertaker.look(5.0)
    assert flooded.sent == [KEYS.holders_of(f"k{i}".encode()) for i in range(3)]
    await flooded.undertaker.look(5.0)
    assert flooded.sent[3:] == [KEYS.holders_of(f"later {i}".encode()) for i in (1, 2, 3)]


async def test_it_looks_no_longer_than_it_may_and_forgets_nothing() -> None:
    asked = Asked()
    for i in range(3):
        asked.undertaker.look_at(seat(f"k{i}"))
    for i in range(3):
        await asked.undertaker.look(0.0)
        assert len(asked.sent) == i + 1
    assert not asked.undertaker.has_looks


class Unheard(Asked):
    """The first question is not answered."""

    def __init__(self, problem: BaseException) -> None:
        super().__init__()
        self.problem = problem

    def answer(self, command: Command) -> object:
        if len(self.sent) == 1:
            raise self.problem
        return super().answer(command)


@pytest.mark.parametrize("problem", [StoreDown("no answer in time", outcome_known=False), asyncio.CancelledError()], ids=["late", "ended"])
async def test_a_key_of_which_nothing_was_heard_waits_behind_the_others(problem: BaseException) -> None:
    unheard = Unheard(problem)
    for i in range(3):
        unheard.undertaker.look_at(seat(f"k{i}"))
    with pytest.raises(type(problem)):
        await unheard.undertaker.look(5.0)
    await unheard.undertaker.look(5.0)
    assert unheard.sent == [KEYS.holders_of(b"k%d" % i) for i in (0, 1, 2, 0)]


async def test_what_was_told_of_a_key_of_which_nothing_was_heard_is_not_told_again() -> None:
    class Foreign(Unheard):
        def answer(self, command: Command) -> object:
            super().answer(command)
            return b"nonsense"

    foreign = Foreign(StoreDown("no answer in time", outcome_known=False))
    foreign.undertaker.look_beyond(seat("k0"))
    with pytest.raises(StoreDown):
        await foreign.undertaker.look(5.0)
    await foreign.undertaker.look(5.0)
    assert len(foreign.sent) == 2
    assert foreign.heard.conflicts == []


async def test_a_doubt_ends_its_looks() -> None:
    class Doubted(Asked):
        def answer(self, command: Command) -> object:
            self.moving.append(ME)
            self.holders.doubted()
            return super().answer(command)

    doubted = Doubted()
    for i in range(3):
        doubted.undertaker.look_at(seat(f"k{i}"))
    await doubted.undertaker.look(5.0)
    assert doubted.sent == [KEYS.holders_of(b"k0")]


async def test_many_looks_over_a_long_way_leave_the_heartbeat_alone() -> None:
    async with redis_server() as server, cuttable(server.port) as link, instance(address_of(server, link.port)) as one:
        await granted(one.store, seat("held"))
        keeper, before = one.store._shared.keeper, one.holder
        link.delay = 0.02
        for i in range(40):
            keeper.undertaker.look_at(seat(f"k{i}"))
        heard: set[float] = set()
        while keeper.undertaker.has_looks:
            heard.add(keeper.holders.heard_at)
            await asyncio.sleep(0.01)
        assert len(heard) > 3
        assert one.holder == before
        assert one.heard.states == [StoreState.UP]


async def test_one_look_that_takes_long_leaves_the_heartbeat_alone() -> None:
    """A room of very many has many steps to be freed."""
    async with redis_server() as server, cuttable(server.port) as link, instance(address_of(server, link.port)) as one:
        keeper = one.store._shared.keeper
        members = [text for i in range(20_000) for text in (f"user {i}", DEAD + b";")]
        await server.ask("HSET", "test:n:{room}", DEAD, 20_000)
        for start in range(0, len(members), 4_000):
            await server.ask("HSET", "test:m:{room}", *members[start : start + 4_000])
        keeper.holders.buried(DEAD)
        link.delay = 0.04
        keeper.undertaker.look_at(member("ann"))
        await until(lambda: not keeper.undertaker.has_looks, PATIENCE)
        heard: set[float] = set()
        while await server.ask("EXISTS", "test:n:{room}"):
            heard.add(keeper.holders.heard_at)
            await asyncio.sleep(0.01)
        assert len(heard) > 3
        assert one.heard.states == [StoreState.UP]
