"""Healing under fire: random upgrades, closes, crashes, floods of trouble over several instances; then all must be right again."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

import proxy.ledger.seats.slow_sweep
from proxy.ledger.scripts import BEAT, JOIN, LOSS_TTL, Command, Keys, read_joined
from proxy.ledger.seats.keeper import Keeper
from proxy.ledger.seats.own_seats import OwnSeats
from proxy.ledger.store import Grant, StoreDown, StoreState
from tests.ledger.instances import PATIENCE, TTL, Heard, Instance, address_of, instance, the_server_has
from tests.ledger.store_contract import ask, denied, granted, member, seat
from tests.support.cuttable import Cuttable, cuttable
from tests.support.redis_servers import RedisServer, redis_server
from tests.support.waiting import eventually, until

LIMIT = 12
INSTANCES = 3


class Crowd:
    """The clients of one instance: what they hold is the truth that the server must come to."""

    def __init__(self, one: Instance, link: Cuttable, rng: random.Random) -> None:
        self.one = one
        self.link = link
        self.rng = rng
        self.held: list[tuple[Grant, str, str]] = []

    async def come(self) -> None:
        user, key = f"user {self.rng.randrange(30)}", f"k{self.rng.randrange(4)}"
        asking = asyncio.ensure_future(ask(self.one.store, seat(key, LIMIT), member(user, "room", LIMIT)))
        if self.rng.random() < 0.1:
            await asyncio.sleep(self.rng.random() * 0.01)
            asking.cancel()
        try:
            answer = await asking
        except asyncio.CancelledError:
            return
        if isinstance(answer, Grant):
            self.held.append((answer, user, key))

    async def go(self) -> None:
        if self.held:
            grant, _, _ = self.held.pop(self.rng.randrange(len(self.held)))
            self.one.store.release(grant)

    async def live(self, until: float) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < until:
            doing = [self.come() if self.rng.random() < 0.55 else self.go() for _ in range(self.rng.randrange(1, 6))]
            await asyncio.gather(*doing)
            await asyncio.sleep(self.rng.random() * 0.02)


async def trouble(kind: str, server: RedisServer, crowd: Crowd, rng: random.Random) -> None:
    if kind == "flush":
        await server.ask("FLUSHALL")
    elif kind == "scripts":
        await server.ask("SCRIPT", "FLUSH")
    elif kind == "restart":
        server.kill()
        await asyncio.sleep(rng.random())
        await server.start()
    elif kind == "freeze":
        server.freeze()
        await asyncio.sleep(rng.random() * TTL)
        server.thaw()
    elif kind == "listing":
        await server.ask("DEL", "test:h")
    elif kind == "buried" and crowd.one.holder is not None:
        await server.ask("HDEL", "test:h", crowd.one.holder)
    elif kind in ("hold", "refuse", "lose_replies", "half_open"):
        getattr(crowd.link, kind)()
        await asyncio.sleep(rng.random() * TTL * 1.5)
        await crowd.link.forward()


KINDS = ["flush", "scripts", "restart", "freeze", "listing", "buried", "hold", "refuse", "lose_replies", "half_open"]
UNDIVIDED = ["scripts", "half_open"]  # everybody goes on seeing the same, and no seat is lost: no cap is ever broken


def truth(crowds: list[Crowd]) -> dict[str, int]:
    found: dict[str, int] = {}
    for crowd in crowds:
        for _, _, key in crowd.held:
            found[key] = found.get(key, 0) + 1
    users = {user for crowd in crowds for _, user, _ in crowd.held}
    return found | ({"room": len(users)} if users else {})


@pytest.mark.long
@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", [*KINDS, "all of it"])
@pytest.mark.parametrize("seed", range(2))
async def test_whatever_happens_the_server_comes_to_the_truth(kind: str, seed: int) -> None:
    rng = random.Random(f"{kind} {seed}")
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(redis_server())
        crowds = []
        for _ in range(INSTANCES):
            link = await stack.enter_async_context(cuttable(server.port))
            one = await stack.enter_async_context(instance(address_of(server, link.port), deadline=0.2))
            crowds.append(Crowd(one, link, random.Random(rng.random())))
        end = asyncio.get_running_loop().time() + 6.0
        living = [asyncio.ensure_future(crowd.live(end)) for crowd in crowds]
        while asyncio.get_running_loop().time() < end - 1:
            await asyncio.sleep(rng.random())
            await trouble(rng.choice(KINDS) if kind == "all of it" else kind, server, rng.choice(crowds), rng)
        await asyncio.gather(*living)
        for crowd in crowds:
            await crowd.one.up()
        await the_server_has(server, truth(crowds), 10.0)
        if kind in UNDIVIDED:
            assert max(truth(crowds).values()) <= LIMIT
        for crowd in crowds:
            while crowd.held:
                await crowd.go()
        await the_server_has(server, {}, 10.0)
        await until(lambda: not any(len(crowd.one.store._own) for crowd in crowds), PATIENCE)  # the last word is yet to be heard


async def test_the_mark_of_a_loss_is_left_once_by_whoever_finds_nobody_whom_he_knew() -> None:
    async with redis_server() as server, instance(address_of(server)) as one:
        keeper = one.store._shared.keeper
        living, gone, gone_too = one.holder or b"", b"e" * 16, b"f" * 16

        async def lost_for(*known: bytes) -> float | None:
            return read_joined(await keeper.do(keeper._keys.join(secrets.token_hex(8).encode(), known))).lost_for

        assert await lost_for() is None
        assert await lost_for(gone, living, gone_too) is None
        found = await lost_for(gone, gone_too)
        assert found is not None
        assert found < PATIENCE
        await server.ask("PEXPIRE", "test:l", LOSS_TTL - 60_000)
        for known in ((gone,), (living,), ()):
            found = await lost_for(*known)
            assert found is not None
            assert 60.0 <= found < 60.0 + PATIENCE


async def test_newcomers_tell_each_other_that_somebody_may_have_been_forgotten() -> None:
    """There is one listener more than there are holders; the next newcomers are listed, and do not listen yet."""
    async with (
        redis_server() as server,
        instance(address_of(server)) as one,
        server.client() as client,
        client.pubsub() as forgotten,
    ):
        keeper = one.store._shared.keeper
        await forgotten.subscribe("test:i:" + "d" * 16)

        async def both_listen() -> bool:
            return len(await server.ask("PUBSUB", "CHANNELS", "test:i:*")) == 2

        await eventually(both_listen)

        async def begins_with(*known: bytes) -> int:
            own = secrets.token_hex(8).encode()
            return read_joined(await keeper.do(keeper._keys.join(own, known))).counters[own]

        assert [await begins_with() for _ in range(3)] == [0, 0, 0]
        assert await begins_with(one.holder or b"") == 1


async def test_a_doubt_while_everything_is_told_leaves_nothing_under_the_id_between() -> None:
    async with redis_server() as server, cuttable(server.port) as link, instance(address_of(server, link.port)) as one:
        await granted(one.store, seat(), member("ann"))
        keeper, before = one.store._shared.keeper, one.holder
        link.delay = 0.1  # each way
        keeper.doubt()
        await until(lambda: keeper.holders.own not in (before, None), PATIENCE)
        await until(lambda: one.store._own.untold == 0, PATIENCE)  # it is on its way, under the new id
        keeper.doubt()
        link.delay = 0.0
        await one.up()
        await the_server_has(server, {"seats": 1, "room": 1})
        assert list(await server.ask("HGETALL", "test:n:{seats}")) == [(one.holder or b"").decode()]


MANY = 2_600  # seats: over a way of 0.1 s each way and back some 2 s, longer than half a ttl


async def test_who_has_much_to_tell_is_heard_meanwhile_and_tells_it_once() -> None:
    """Others look for the dead long before he is done: what he had under his id of before is his."""
    async with (
        redis_server() as server,
        instance(address_of(server), ttl=1.5) as other,
        cuttable(server.port) as link,
        instance(address_of(server, link.port)) as one,
    ):
        keeper, before = one.store._shared.keeper, one.holder
        for i in range(MANY):
            one.store._own.take_alone(seat(f"k{i}"))
        one.store._own.take_alone(seat("last"))
        one.store._shared.changed()
        await the_server_has(server, {f"k{i}": 1 for i in range(MANY)} | {"last": 1})
        link.delay = 0.05
        keeper.doubt()
        await until(lambda: one.holder not in (None, before), PATIENCE)
        healing, began, told = one.holder, time.monotonic(), len(one.heard.states)
        while one.store.state is StoreState.HEALING:
            await denied(other.store, seat("last"))
            await asyncio.sleep(0.05)
        assert time.monotonic() - began > TTL / 2
        for _ in range(2):
            heard = keeper.holders.heard_at
            await until(lambda heard=heard: keeper.holders.heard_at > heard, PATIENCE)  # type: ignore[misc]  # defaults bind the loop's variables
        assert one.holder == healing
        assert one.heard.states[told:] == [StoreState.UP]
        assert await server.ask("HLEN", "test:n:{last}") == 1
        assert await server.ask("HKEYS", "test:h") == [name.decode() for name in (other.holder, one.holder) if name]


async def test_who_waits_for_others_to_tell_is_heard_meanwhile() -> None:
    async with redis_server() as server, instance(address_of(server)) as one:
        keeper, before = one.store._shared.keeper, one.holder
        keeper._telling_time = 1.5
        await server.ask("FLUSHALL")
        await until(lambda: one.holder not in (None, before), PATIENCE)
        await one.up()
        assert int(await server.ask("HGET", "test:h", one.holder or b"")) > 1


async def test_who_stands_still_while_he_tells_everything_begins_anew() -> None:
    async with redis_server() as server, cuttable(server.port) as link, instance(address_of(server, link.port), ttl=1.0) as one:
        for i in range(800):
            one.store._own.take_alone(seat(f"k{i}"))
        before = one.holder
        link.delay = 0.05  # each way: some 0.7 s for all of it
        one.store._shared.keeper.doubt()
        await until(lambda: one.holder not in (None, before), PATIENCE)
        healing = one.holder
        time.sleep(0.7)  # noqa: ASYNC251 -- the whole loop stands still, as a frozen process does
        await until(lambda: one.holder not in (None, healing), PATIENCE)
        link.delay = 0.0
        await one.up()
        await the_server_has(server, {f"k{i}": 1 for i in range(800)})


async def test_an_own_id_that_still_moves_is_not_watched() -> None:
    async with redis_server() as server, instance(address_of(server), ttl=1.0) as one:
        keeper = one.store._shared.keeper
        await server.ask("HSET", "test:h", "d" * 16, 1, "e" * 16, 1)
        keeper.teller.former = [b"d" * 16]
        await keeper._beat(one.holder or b"")
        assert keeper.holders.listed() == {b"e" * 16}


async def test_one_late_heartbeat_is_no_outage() -> None:
    async with (
        redis_server() as server,
        cuttable(server.port) as link,
        instance(address_of(server, link.port), ttl=6.0, deadline=0.2) as one,
    ):
        sent = one.store._shared._link.commands
        link.delay = 0.15  # each way: what is asked comes back too late
        await until(lambda: one.store._shared._link.commands > sent, PATIENCE)
        await asyncio.sleep(0.3)
        link.delay = 0.0
        await until(lambda: one.store._shared._link.commands > sent + 2, PATIENCE)
        assert one.heard.states == [StoreState.UP]


async def test_a_stand_still_of_the_instance_itself_is_a_doubt() -> None:
    async with redis_server() as server, instance(address_of(server)) as one:
        await granted(one.store, seat())
        before = one.holder
        time.sleep(TTL)  # noqa: ASYNC251 -- the whole loop stands still, as a frozen process does
        await granted(one.store, seat("other"))
        assert one.heard.states[1] is StoreState.HEALING
        await one.up()
        assert one.holder not in (before, None)
        await the_server_has(server, {"seats": 1, "other": 1})


async def test_who_may_not_decide_for_long_goes_on_telling_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy.ledger.seats.slow_sweep, "MAX_REST", 0.5)
    async with redis_server() as server, instance(address_of(server), ttl=1.0) as one:
        await granted(one.store, seat(limit=9), member("ann", limit=9))
        before = one.holder
        await server.ask("CONFIG", "SET", "maxmemory", "1")
        await granted(one.store, seat(limit=9))
        await until(lambda: one.store.state is StoreState.DOWN, PATIENCE)
        await the_server_has(server, {"seats": 2, "room": 1})
        for _ in range(2):
            for key in ("test:n:{seats}", "test:n:{room}", "test:m:{room}"):
                await server.ask("EXPIRE", key, 100)

            async def is_told_again() -> bool:
                return all([await server.ask("TTL", key) > 1000 for key in ("test:n:{seats}", "test:n:{room}", "test:m:{room}")])

            await eventually(is_told_again)
        assert one.holder == before
        assert one.store.state is StoreState.DOWN


async def test_the_slow_sweep_tells_every_seat_and_frees_what_the_dead_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy.ledger.seats.slow_sweep, "REFRESH", 1.0)
    async with redis_server() as server, instance(address_of(server), ttl=1.0) as one:
        await granted(one.store, seat(limit=9), member("ann", limit=9))
        await server.ask("PERSIST", "test:n:{seats}")
        await server.ask("EXPIRE", "test:m:{room}", 100)
        await server.ask("HSET", "test:n:{seats}", "f" * 16, "5")
        async with asyncio.timeout(PATIENCE):
            while await server.ask("HLEN", "test:n:{seats}") > 1 or await server.ask("TTL", "test:m:{room}") < 1000:  # noqa: ASYNC110 -- of another process
                await asyncio.sleep(0.05)
        assert await server.ask("TTL", "test:n:{seats}") > 1000


async def test_seats_that_were_forgotten_are_made_up_for_by_one_new_id() -> None:
    async with redis_server() as server, instance(address_of(server), ttl=1.0) as one:
        keeper, before = one.store._shared.keeper, one.holder
        one.store._own.overflowed = True
        await until(lambda: one.holder not in (None, before), PATIENCE)
        await one.up()
        healed = one.holder
        assert not one.store._own.overflowed
        for _ in range(2):
            heard = keeper.holders.heard_at
            await until(lambda heard=heard: keeper.holders.heard_at > heard, PATIENCE)  # type: ignore[misc]  # defaults bind the loop's variables
        assert one.holder == healed


# --- beside heartbeats ----------------------------------------------------------------------------------------------------------


class Server:
    """A link to one that lists us and takes what it is told, and never says who has seats of a key. `is_full`: it is sent nothing."""

    def __init__(self) -> None:
        self.up: Callable[[bool], None] = lambda _: None
        self.down: Callable[[str], None] = lambda _: None
        self.reason, self.timeout = "", 60.0
        self.is_usable = True
        self.is_full = False
        self.turned_away = 0
        self.looks = 0
        self._listed: dict[bytes, bytes] = {}

    @property
    def listed(self) -> set[bytes]:
        return set(self._listed)

    @property
    def commands(self) -> int:
        return 0

    def start(self) -> None:
        self.up(True)

    async def stop(self) -> None:
        self.is_usable = False

    def slot(self, key: bytes) -> int:
        return len(key) * 0

    def call(self, command: Command) -> asyncio.Future[object]:
        if self.is_full:
            self.turned_away += 1
            raise StoreDown("too much waits to be sent", outcome_known=True)
        answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        if command[0] == b"HGETALL":
            self.looks += 1
        else:
            answer.set_result(self._answer(command))
        return answer

    def _answer(self, command: Command) -> object:
        if command[0] == b"HDEL":
            return len([self._listed.pop(name, b"") for name in command[2:]])
        if command[1] == JOIN.digest:
            self._listed[command[5]] = b"1"
            return [-1, self._listing()]
        return self._listing() if command[1] == BEAT.digest else b""

    def _listing(self) -> list[bytes]:
        return [word for pair in self._listed.items() for word in pair]


@asynccontextmanager
async def kept() -> AsyncIterator[tuple[Keeper, Server, OwnSeats]]:
    server, own = Server(), OwnSeats()
    keeper = Keeper(server, Keys("test:", listed=True), own, 60.0, Heard())
    keeper._interval = 0.5
    assert await keeper.start(PATIENCE) is None
    try:
        yield keeper, server, own
    finally:
        await keeper.halt()


@pytest.mark.parametrize("key", ["of the dead", "of a crowd"])
@pytest.mark.parametrize("trouble", ["doubt", "refusal"])
async def test_what_goes_wrong_ends_a_look_at_once_and_it_is_not_forgotten(trouble: str, key: str) -> None:
    async with kept() as (keeper, server, own):
        if key == "of the dead":
            keeper.undertaker.look_at(seat())
        else:
            own.take_alone(seat())
            keeper.crowds.refused(seat())
        keeper._interval = 6000.0  # so that no heartbeat comes to its help
        await until(lambda: server.looks, PATIENCE)
        keeper._interval = 0.2
        if trouble == "doubt":
            keeper.doubt()
        else:
            keeper.refused("out of memory")
        assert keeper.state is not StoreState.UP
        await until(lambda: keeper.state is StoreState.UP, PATIENCE)
        await until(lambda: server.looks == 2, PATIENCE)


async def test_whoever_may_send_nothing_waits_for_the_next_heartbeat() -> None:
    async with kept() as (keeper, server, own):
        own.take_alone(seat())
        server.is_full = True
        await until(lambda: server.turned_away, PATIENCE)
        for _ in range(100):
            await asyncio.sleep(0)
        assert server.turned_away <= 4  # telling, and a heartbeat; another one on a machine that is busy
        server.is_full = False
        await until(lambda: own.untold == 0, PATIENCE)
        assert keeper.state is StoreState.UP


async def test_what_has_been_told_to_the_end_when_a_doubt_comes_unlists_nobody() -> None:
    """Its seats have yet to move to the next id: unlisted, they would be anybody's to free."""
    async with kept() as (keeper, server, own):
        await keeper.halt()
        holder = keeper.holders.own
        assert holder is not None
        own.take_alone(seat())
        telling = asyncio.ensure_future(keeper._tell_everything(holder))
        await asyncio.sleep(0)
        assert own.untold == 0
        keeper.doubt()
        await telling
        assert server.listed == {holder}
        assert not keeper.teller.is_open
