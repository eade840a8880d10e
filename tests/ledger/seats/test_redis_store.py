"""Seats and upgrade tokens through a real server: the contract, then what only a shared store must keep."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from proxy.ledger.store import Ask, Claim, Denial, Grant, Store, StoreState
from proxy.server import eager
from tests.ledger.instances import PATIENCE, TTL, Instance, address_of, instance, seats_in, the_server_has
from tests.ledger.penalty_contract import ANN, PenaltyContract, penalty
from tests.ledger.store_contract import NOW, StoreContract, ask, denied, granted, held, member, seat, token
from tests.support.cuttable import cuttable
from tests.support.redis_servers import FLAVOURS, Flavour, RedisServer, redis_server
from tests.support.waiting import eventually, until


@pytest.fixture(params=FLAVOURS, ids=lambda flavour: flavour.value)
async def any_server(request: pytest.FixtureRequest) -> AsyncIterator[RedisServer]:
    flavour: Flavour = request.param
    async with redis_server(flavour) as one:
        yield one


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    async with redis_server() as one:
        yield one


class TestContract(StoreContract):
    @pytest.fixture
    async def store(self, any_server: RedisServer) -> AsyncIterator[Store]:
        async with instance(address_of(any_server)) as one:
            assert one.store.state is StoreState.UP
            yield one.store
            assert one.heard.states == [StoreState.UP]  # it was the server that decided


class TestPenalties(PenaltyContract):
    @pytest.fixture
    async def store(self, any_server: RedisServer) -> AsyncIterator[Store]:
        async with instance(address_of(any_server)) as one:
            yield one.store


class _Elsewhere:
    """Asks one instance and penalizes at another: a store as the contract sees it, once the server has heard."""

    def __init__(self, here: Store, there: Store, server: RedisServer) -> None:
        self._here, self._there, self._server = here, there, server
        self._told: dict[bytes, float] = {}

    async def admit(self, asks: Sequence[Ask], now: float) -> list[Grant | Denial]:
        for key, seconds in self._told.items():
            await eager.in_task()  # `eventually` has a timeout
            await eventually(lambda key=key, least=seconds * 800: self._has(key, least), PATIENCE)  # type: ignore[misc]  # defaults bind the loop's variables
        return await self._here.admit(asks, now)

    async def _has(self, key: bytes, least: float) -> bool:
        left: int = await self._server.ask("PTTL", b"test:p:{%b}" % key)
        return left >= least

    def penalize(self, key: bytes, seconds: float, now: float) -> None:
        self._told[key] = max(seconds, self._told.get(key, 0.0))
        self._there.penalize(key, seconds, now)

    def __getattr__(self, name: str) -> object:
        return getattr(self._here, name)


class TestPenaltiesOfAnotherInstance(PenaltyContract):
    @pytest.fixture
    async def store(self, any_server: RedisServer) -> AsyncIterator[object]:
        async with instance(address_of(any_server)) as here, instance(address_of(any_server)) as there:
            yield _Elsewhere(here.store, there.store, any_server)


async def test_a_shorter_penalty_of_another_instance_does_not_end_a_longer_one(two: Two, server: RedisServer) -> None:
    one, other = two
    one.store.penalize(ANN, 30.0, NOW)
    await eventually(lambda: server.ask("EXISTS", b"test:p:{%b}" % ANN))
    other.store.penalize(ANN, 1.0, NOW)
    await denied(other.store, penalty())  # which it asks behind it
    assert await server.ask("PTTL", b"test:p:{%b}" % ANN) > 20_000


async def test_a_penalty_is_over_when_its_time_is(two: Two, server: RedisServer) -> None:
    two[0].store.penalize(ANN, 0.3, NOW)
    await eventually(lambda: server.ask("EXISTS", b"test:p:{%b}" % ANN))
    await admitted(two[1], penalty())
    assert await server.ask("KEYS", "test:p:*") == []


@pytest.mark.parametrize("command", [("SET", b"test:p:{rule:ann}", "x"), ("LPUSH", b"test:p:{rule:ann}", "x")], ids=["text", "list"])
async def test_a_penalty_key_that_is_not_ours_is_refused_told_and_not_touched(
    two: Two, server: RedisServer, command: tuple[str | bytes, ...]
) -> None:
    one, other = two
    await server.ask(*command)
    assert await denied(one.store, seat(), penalty()) == Denial(1, None, ())
    assert one.heard.conflicts == ["rule"]
    other.store.penalize(ANN, 30.0, NOW)
    await until(lambda: other.heard.conflicts == ["rule"], PATIENCE)
    await server.ask("PEXPIRE", command[1], "100000")
    if command[0] == "LPUSH":
        assert await denied(one.store, penalty()) == Denial(0, None, ())
    assert await server.ask("TYPE", command[1]) == ("list" if command[0] == "LPUSH" else "string")


async def test_a_penalty_whose_script_was_missing_is_told_with_the_next_sweep(two: Two, server: RedisServer) -> None:
    await server.ask("SCRIPT", "FLUSH")
    two[0].store.penalize(ANN, 30.0, NOW)
    await until(lambda: two[0].store._shared.penalties._untold, PATIENCE)
    two[0].store.sweep(NOW)
    await eventually(lambda: server.ask("EXISTS", b"test:p:{%b}" % ANN))


# --- several instances -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", ["connections", "members"])
async def test_300_parallel_upgrades_at_a_cap_of_100_admit_exactly_100(any_server: RedisServer, kind: str, rounds: int) -> None:
    async with AsyncExitStack() as stack:
        # A machine that is busy stands still for a second; none of them must take that for an outage, and decide alone.
        opened = [instance(address_of(any_server), ttl=15.0, deadline=10.0) for _ in range(3)]
        stores = [(await stack.enter_async_context(one)).store for one in opened]
        for turn in range(rounds):
            claims = [seat(f"k{turn}", 100) if kind == "connections" else member(f"user {i}", f"k{turn}", 100) for i in range(300)]
            answers = await asyncio.gather(*(ask(stores[i % 3], claim) for i, claim in enumerate(claims)))
            assert Counter(map(type, answers)) == {Grant: 100, Denial: 200}
            assert sum(sum(store.seats().values()) for store in stores) == 100
            assert await seats_in(any_server) == {f"k{turn}": 100}
            for answer, i in zip(answers, range(300), strict=True):
                if isinstance(answer, Grant):
                    stores[i % 3].release(answer)
            await the_server_has(any_server, {})


@pytest.fixture
async def two(server: RedisServer) -> AsyncIterator[tuple[Instance, Instance]]:
    async with instance(address_of(server)) as one, instance(address_of(server)) as other:
        yield one, other


Two = tuple[Instance, Instance]


async def test_a_user_with_tabs_on_two_instances_has_one_seat_until_the_last_one_closes(two: Two, server: RedisServer) -> None:
    one, other = two
    first, second = await granted(one.store, member("ann")), await granted(other.store, member("ann"))
    await denied(one.store, member("bob"))
    one.store.release(first)
    assert await seats_in(server) == {"room": 1}
    await asyncio.sleep(0.3)  # a refusal may be repeated for so long
    await denied(one.store, member("bob"))
    other.store.release(second)
    await the_server_has(server, {})
    await asyncio.sleep(0.3)
    await granted(one.store, member("bob"))


async def test_a_refusal_by_one_claim_takes_nothing_of_the_others(two: Two, server: RedisServer) -> None:
    one, other = two
    await granted(one.store, seat("full"))
    for _ in range(5):
        assert (await denied(other.store, seat("a"), member("ann", "b"), token("c", 0.001), seat("full"))).broken == 3
    assert await seats_in(server) == {"full": 1}
    await granted(other.store, seat("a"), member("ann", "b"), token("c", 0.001))


async def test_a_release_and_a_question_of_one_turn_of_the_loop_keep_their_order(two: Two) -> None:
    one, _ = two
    for _ in range(50):
        grant = await granted(one.store, seat(), member("ann"))
        one.store.release(grant)


async def test_what_was_just_refused_is_refused_again_without_asking(two: Two) -> None:
    one, other = two
    grant = await granted(other.store, seat())
    await denied(one.store, seat())
    before = one.store._shared._link.commands
    for _ in range(20):
        await denied(one.store, seat())
    assert one.store._shared._link.commands - before <= 2  # heartbeats
    other.store.release(grant)
    await asyncio.sleep(0.3)
    await granted(one.store, seat())


@pytest.mark.parametrize("known", [0, 10_000], ids=["alone", "beside very many"])
async def test_a_refusal_that_was_on_its_way_as_a_seat_was_given_back_is_not_repeated(server: RedisServer, known: int) -> None:
    async with cuttable(server.port) as link, instance(address_of(server, link.port)) as one:
        grant = await granted(one.store, seat("first"), member("ann"))
        one.store._shared._given_back.update({b"%d" % i: 0.0 for i in range(known)})
        link.delay = 0.05
        refused = [asyncio.ensure_future(ask(one.store, claim)) for claim in (seat("first"), member("bob"))]
        await asyncio.sleep(0.02)
        one.store.release(grant)
        link.delay = 0.0
        assert [type(await answer) for answer in refused] == [Denial, Denial]
        await granted(one.store, seat("first"), member("bob"))
        assert len(one.store._shared._given_back) <= 10_000


async def test_a_refusal_for_a_seat_of_one_who_has_hung_up_is_not_repeated(server: RedisServer) -> None:
    async with cuttable(server.port) as link, instance(address_of(server, link.port)) as one:
        await granted(one.store, seat("other"))
        link.delay = 0.05
        leaver, refused = [asyncio.ensure_future(ask(one.store, seat())) for _ in range(2)]
        await asyncio.sleep(0.02)  # both are on their way, and not answered
        leaver.cancel()
        link.delay = 0.0
        assert isinstance(await refused, Denial)
        await granted(one.store, seat())


async def test_a_question_that_nobody_waits_for_any_more_holds_nothing(two: Two, server: RedisServer) -> None:
    one, _ = two
    for turns in range(4):
        asking = asyncio.ensure_future(ask(one.store, seat(), member("ann")))
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
    await the_server_has(server, {})
    assert held(one.store) == {}
    await granted(one.store, seat(), member("bob"))


async def test_whoever_stops_gives_everything_back_and_is_listed_no_more(server: RedisServer) -> None:
    async with instance(address_of(server)) as one:
        grant = await granted(one.store, seat(), member("ann"))
        one.store.release(grant)
    assert await server.ask("KEYS", "*") == []


async def test_keys_of_seats_and_tokens_expire_if_nobody_speaks_of_them_again(two: Two, server: RedisServer) -> None:
    await granted(two[0].store, seat(), member("ann"), token(rate=0.5, burst=4))
    for key in ("test:n:{seats}", "test:n:{room}", "test:m:{room}"):
        assert 86_000 < await server.ask("TTL", key) <= 86_400
    assert 0 < await server.ask("PTTL", "test:u:{tokens}") <= 3000
    assert 86_000 < await server.ask("TTL", "test:h") <= 86_400


async def test_an_idle_instance_only_sends_heartbeats(server: RedisServer) -> None:
    async with instance(address_of(server), ttl=1.0) as one:
        for i in range(200):
            await granted(one.store, seat(f"k{i}"))
        before = one.store._shared._link.commands
        await asyncio.sleep(1.0)
        assert 1 <= one.store._shared._link.commands - before <= 8


# --- tokens ---------------------------------------------------------------------------------------------------------------------


class TestTokens:
    async def test_one_bucket_for_all_instances(self, two: Two) -> None:
        answers = await asyncio.gather(*(ask(two[i % 2].store, token(rate=0.001, burst=5)) for i in range(40)))
        assert Counter(map(type, answers)) == {Grant: 5, Denial: 35}

    async def test_a_fractional_rate_fills_up_by_the_servers_clock(self, two: Two) -> None:
        await granted(two[0].store, token(rate=2.5))
        wait = (await denied(two[1].store, token(rate=2.5))).retry_after
        assert wait is not None
        assert 0.1 < wait <= 0.4
        await asyncio.sleep(wait + 0.01)
        await granted(two[1].store, token(rate=2.5))

    async def test_a_bucket_never_holds_more_than_its_burst(self, two: Two, server: RedisServer) -> None:
        await server.ask("SET", "test:u:{tokens}", f"0 {time.time() - 1e6:.6f}")
        for i in range(3):
            await granted(two[i % 2].store, token(rate=0.01, burst=3))
        await denied(two[0].store, token(rate=0.01, burst=3))

    async def test_a_rate_of_0_never(self, two: Two, server: RedisServer) -> None:
        assert (await denied(two[0].store, token(rate=0))).retry_after == inf
        assert (await denied(two[0].store, token(rate=1, burst=0.5))).retry_after == inf
        assert await server.ask("EXISTS", "test:u:{tokens}") == 0

    async def test_a_clock_that_went_backwards_moves_the_stamp_and_waits_for_nothing(self, two: Two, server: RedisServer) -> None:
        await server.ask("SET", "test:u:{tokens}", f"1 {time.time() + 1e6:.6f}")
        await granted(two[0].store, token(rate=10.0))
        _, stamp = (await server.ask("GET", "test:u:{tokens}")).split()
        assert abs(float(stamp) - time.time()) < 60

    async def test_a_shadow_rate_is_reported_and_takes_what_there_is(self, two: Two) -> None:
        await granted(two[0].store, token(rate=0.001, shadow=True))
        assert (await granted(two[0].store, token(rate=0.001, shadow=True))).over == (0,)


# --- what is not ours -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "claim"),
    [
        (("SET", "test:n:{seats}", "x"), seat(limit=9)),
        (("HSET", "test:n:{seats}", "someone", "many"), seat(limit=9)),
        (("SET", "test:n:{room}", "x"), member("ann", limit=9)),
        (("LPUSH", "test:m:{room}", "x"), member("ann", limit=9)),
        (("HSET", "test:u:{tokens}", "a", "b"), token(burst=9)),
        (("SET", "test:u:{tokens}", "nonsense"), token(burst=9)),
    ],
    ids=str,
)
async def test_a_key_that_holds_what_is_not_ours_is_refused_and_told(
    two: Two, server: RedisServer, command: tuple[str, ...], claim: Claim
) -> None:
    one, _ = two
    await server.ask(*command)
    before = await server.ask("TYPE", command[1])
    assert await denied(one.store, seat("fine"), claim) == Denial(1, None, ())
    assert one.heard.conflicts == [claim.rule]
    assert await server.ask("TYPE", command[1]) == before
    assert await server.ask("EXISTS", "test:n:{fine}") == 0
    await granted(one.store, seat("fine"))
    assert one.store.state is StoreState.UP


async def test_a_key_that_is_overwritten_under_a_seat_is_told_and_does_no_harm(two: Two, server: RedisServer) -> None:
    one, _ = two
    grant = await granted(one.store, seat())
    await server.ask("SET", "test:n:{seats}", "x")
    one.store.release(grant)
    await until(lambda: one.heard.conflicts == ["rule-seats"], PATIENCE)
    await granted(one.store, seat("fine"))


async def test_a_listing_that_is_not_ours_leaves_the_instance_alone(server: RedisServer) -> None:
    await server.ask("SET", "test:h", "x")
    async with instance(address_of(server)) as one:
        assert one.store.state is StoreState.DOWN
        await granted(one.store, seat())
        await denied(one.store, seat())
        await server.ask("DEL", "test:h")
        await one.up()
        await the_server_has(server, {"seats": 1})


# --- trouble --------------------------------------------------------------------------------------------------------------------


async def test_missing_scripts_are_loaded_and_nobody_notices(two: Two, server: RedisServer) -> None:
    one, _ = two
    for _ in range(5):
        grant = await granted(one.store, seat(), member("ann"))
        await server.ask("SCRIPT", "FLUSH")
        one.store.release(grant)
        await granted(one.store, seat("other", 100))
        await server.ask("SCRIPT", "FLUSH")
    await the_server_has(server, {"other": 5})
    assert one.heard.states == [StoreState.UP]


async def test_a_server_that_comes_back_empty_is_told_everything(two: Two, server: RedisServer) -> None:
    for i in range(200):
        await granted(two[i % 2].store, seat("all", 1000), member(f"user {i}", "room", 1000), seat(f"k{i}"))
    wanted = await seats_in(server)
    assert (wanted["all"], wanted["room"], len(wanted)) == (200, 200, 202)
    server.kill()
    await until(lambda: all(one.store.state is StoreState.DOWN for one in two), PATIENCE)
    late = await granted(two[0].store, seat("all", 1000), seat("while away"))
    early = await granted(two[1].store, seat("gone again"))
    two[1].store.release(early)
    await server.start()
    returned = time.monotonic()
    await the_server_has(server, wanted | {"all": 201, "while away": 1})
    assert time.monotonic() - returned < 5.0
    for one in two:
        await one.up()
    two[0].store.release(late)
    await the_server_has(server, wanted)


async def test_a_flush_is_noticed_at_the_first_question_and_healed(two: Two, server: RedisServer) -> None:
    one, other = two
    for i in range(60):
        await granted(two[i % 2].store, seat("all", 60), member(f"user {i}", "room", 60))
    await denied(one.store, seat("all", 60))
    await server.ask("FLUSHALL")
    await granted(one.store, seat("elsewhere"))
    assert one.store.state is StoreState.HEALING
    assert (await denied(one.store, seat("all", 60))).broken == 0  # it knows what the other was last seen to hold
    await the_server_has(server, {"all": 60, "room": 60, "elsewhere": 1}, 5.0)
    await one.up()
    await other.up()
    await denied(other.store, member("late", "room", 60))


async def test_a_frozen_server_costs_nobody_more_than_the_deadline_and_nothing_is_leaked(server: RedisServer) -> None:
    async with instance(address_of(server), deadline=0.2) as one, instance(address_of(server), deadline=0.2) as other:
        grants = [await granted(one.store, seat(limit=10), member(f"user {i}", limit=10)) for i in range(5)]
        server.freeze()
        slowest = 0.0
        for i in range(60):
            began = time.monotonic()
            grants.append(await granted(one.store, seat(f"k{i}")))
            slowest = max(slowest, time.monotonic() - began)
        assert 0.15 < slowest < 2.0
        began = time.monotonic()
        await granted(one.store, seat("at once"))
        assert time.monotonic() - began < 0.1
        assert one.store.state is StoreState.DOWN
        await asyncio.sleep(TTL)
        for grant in grants:
            one.store.release(grant)
        server.thaw()
        await one.up()
        await other.up()
        await the_server_has(server, {"at once": 1}, 5.0)
        assert StoreState.DOWN in other.heard.states


async def test_a_replica_is_not_written_to_and_a_promoted_one_is(two: Two, server: RedisServer) -> None:
    one, _ = two
    await granted(one.store, seat("before"))
    async with redis_server() as master:
        await server.ask("REPLICAOF", "127.0.0.1", master.port)
        await granted(one.store, seat("meanwhile"))
        await until(lambda: one.store.state is StoreState.DOWN, PATIENCE)
        await denied(one.store, seat("meanwhile"))
        await server.ask("REPLICAOF", "NO", "ONE")
        await one.up()
        await the_server_has(server, {"before": 1, "meanwhile": 1})


async def test_a_server_without_memory_leaves_the_instance_alone(two: Two, server: RedisServer) -> None:
    one, _ = two
    first = await granted(one.store, seat("before"))
    await server.ask("CONFIG", "SET", "maxmemory", "1")
    second = await granted(one.store, seat("meanwhile"))
    await denied(one.store, seat("meanwhile"))
    assert one.store.state is StoreState.DOWN
    one.store.release(first)
    one.store.release(second)
    await granted(one.store, seat("also"))
    await server.ask("CONFIG", "SET", "maxmemory", "0")
    await one.up()
    await the_server_has(server, {"also": 1})


@pytest.mark.parametrize(
    ("trouble", "takes_no_writes"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), True),
        (("CONFIG", "SET", "min-replicas-to-write", "1"), True),
        (("ACL", "SETUSER", "default", "-evalsha"), False),
    ],
    ids=["memory", "replicas", "rights"],
)
async def test_only_a_server_that_takes_no_writes_is_tried_before_it_is_said_to_be_back(
    server: RedisServer, trouble: tuple[str, ...], takes_no_writes: bool
) -> None:
    async with instance(address_of(server)) as one:
        await server.ask(*trouble)
        await granted(one.store, seat())  # alone
        await until(lambda: one.store.state is StoreState.DOWN, PATIENCE)
        assert one.store._shared.keeper._is_refused is takes_no_writes


async def test_what_may_not_be_told_is_no_conflict_and_is_told_later(server: RedisServer) -> None:
    await server.ask("ACL", "SETUSER", "gate", "on", ">secret", "~*", "&*", "+@all")
    async with instance(replace(address_of(server), username="gate", password="secret")) as one:
        first, _ = await granted(one.store, seat(limit=2)), await granted(one.store, seat(limit=2))
        await server.ask("ACL", "SETUSER", "gate", "-hset")
        one.store.release(first)
        await eventually(lambda: has_refused(server), PATIENCE)
        assert not one.heard.conflicts
        await server.ask("ACL", "SETUSER", "gate", "+hset")
        await the_server_has(server, {"seats": 1})


async def has_refused(server: RedisServer) -> bool:
    """For want of rights."""
    return bool(await server.ask("ACL", "LOG"))


async def test_a_server_that_is_loading_is_waited_for(server: RedisServer) -> None:
    await fill(server)
    async with instance(address_of(server)) as one:
        await granted(one.store, seat())
        await server.ask("SAVE")
        server.kill()
        server.settings |= {"key-load-delay": "300", "loading-process-events-interval-bytes": "1024"}  # µs a key: two seconds
        server.spawn()
        await until(lambda: "loading" in one.store._shared._link.reason, PATIENCE)
        await denied(one.store, seat())
        await one.up()
        await denied(one.store, seat())


async def fill(server: RedisServer) -> None:
    async with server.client() as client, client.pipeline(transaction=False) as pipe:
        for i in range(5_000):
            pipe.set(f"other:{i}", "x")
        await pipe.execute()


async def test_a_wrong_password_is_said_at_once_and_in_one_line() -> None:
    async with redis_server(password="right") as server, instance(replace(address_of(server), password="wrong secret")) as one:
        assert one.store.state is StoreState.DOWN
        assert "\n" not in one.reason
        assert "password" in one.reason
        assert "wrong secret" not in one.reason
        await granted(one.store, seat())


@pytest.mark.parametrize("database", [0, 3])
async def test_the_rights_that_the_page_names_are_enough(server: RedisServer, database: int) -> None:
    page = (Path(__file__).parents[3] / "docs" / "store.md").read_text(encoding="utf-8")
    named = page.partition("Commands that an ACL must allow")[2].partition(", on `")[0]
    commands = {word.lower() for word in re.findall("`([A-Z|]+)`", named)}
    if not database:
        commands.remove("select")
    rights = [f"+{command}" for command in commands]
    await server.ask("ACL", "SETUSER", "gate", "on", ">secret", "~test:*", "&test:*", "-@all", *rights)
    address = replace(address_of(server), username="gate", password="secret", database=database)
    async with instance(address, ttl=1.0) as one, instance(address, ttl=1.0) as other:
        await granted(one.store, seat(), member("ann"), token())
        await denied(other.store, seat())
        other.store.penalize(ANN, 30.0, NOW)
        await denied(other.store, penalty())
        await denied(one.store, penalty())
        await one.crash()
        await admitted(other, seat(), member("bob"))
        assert other.heard.states == [StoreState.UP]
        assert other.heard.policies == ["noeviction"]


async def test_a_database_that_is_not_there_is_said(server: RedisServer) -> None:
    async with instance(address_of(server, database=999)) as one:
        assert one.store.state is StoreState.DOWN
        assert "DB index" in one.reason


async def test_a_server_that_throws_keys_away_is_told_of() -> None:
    async with redis_server(maxmemory="100mb", maxmemory_policy="allkeys-lru") as server, instance(address_of(server)) as one:
        assert one.heard.policies == ["allkeys-lru"]


async def test_lost_answers_leak_nothing(server: RedisServer) -> None:
    async with cuttable(server.port) as link, instance(address_of(server, link.port), deadline=0.2) as one:
        kept = await granted(one.store, seat(limit=5))
        link.lose_replies()
        grants = [await granted(one.store, seat(limit=5), member("ann", "room")), await granted(one.store, seat("other"))]
        one.store.release(kept)
        await link.forward()
        await one.up()
        await the_server_has(server, {"seats": 1, "room": 1, "other": 1}, 5.0)
        for grant in grants:
            one.store.release(grant)
        await the_server_has(server, {})


async def test_a_partition_of_one_instance_takes_nothing_from_anybody_for_good(server: RedisServer) -> None:
    async with (
        cuttable(server.port) as link,
        instance(address_of(server, link.port), deadline=0.2) as one,
        instance(address_of(server)) as other,
    ):
        for i in range(20):
            await granted((one, other)[i % 2].store, seat("all", 20), member(f"user {i}", "room", 20))
        await denied(one.store, seat("all", 20))
        link.hold()
        lost = one.holder
        assert lost is not None
        await until(lambda: one.store.state is StoreState.DOWN, PATIENCE)
        assert (await denied(one.store, seat("all", 20))).broken == 0
        await until(lambda: lost not in other.store._shared.keeper.holders.listed(), PATIENCE)
        await granted(other.store, seat("all", 20))  # rightly given on
        await link.forward()
        await the_server_has(server, {"all": 21, "room": 20}, 5.0)
        await one.up()
        await denied(other.store, seat("all", 20))


async def admitted(one: Instance, *claims: Claim) -> Grant:
    """Asks until it is granted."""
    async with asyncio.timeout(PATIENCE):
        while isinstance(answer := await ask(one.store, *claims), Denial):  # noqa: ASYNC110 -- that it is granted is no event
            await asyncio.sleep(0.05)
    return answer


# --- death ----------------------------------------------------------------------------------------------------------------------


async def test_a_dead_instances_seats_are_free_after_its_ttl_and_not_before(server: RedisServer) -> None:
    async with instance(address_of(server)) as one, instance(address_of(server)) as other:
        for i in range(10):
            await granted((one, other)[i % 2].store, seat("all", 10), member(f"user {i}", "room", 10))
        await asyncio.sleep(TTL)  # a newcomer judges nobody
        await one.crash()
        died = time.monotonic()
        await admitted(other, seat("all", 10), member("late", "room", 10))
        assert TTL * 0.7 < time.monotonic() - died < TTL + 5.0
        assert (await seats_in(server)) == {"all": 6, "room": 6}
        answers = [await ask(other.store, seat("all", 10), member(f"new {i}", "room", 10)) for i in range(5)]
        assert [type(answer) for answer in answers] == [Grant] * 4 + [Denial]


async def test_a_crowd_that_a_crash_has_thrown_out_comes_back_all_at_once(server: RedisServer) -> None:
    async with instance(address_of(server)) as one, instance(address_of(server)) as other:
        for i in range(200):
            await granted(one.store, member(f"user {i}", limit=200))
        dead = one.holder
        assert dead is not None
        await one.crash()
        await until(lambda: other.store._shared.keeper.holders.dead_among([dead], 0.0), PATIENCE)
        before = other.store._shared._link.commands
        answers = await asyncio.gather(*(ask(other.store, member(f"again {i}", limit=200)) for i in range(200)))
        assert Counter(map(type, answers)) == {Grant: 200}
        assert other.store._shared._link.commands - before < 410  # each asks twice; they clear up once
        await the_server_has(server, {"room": 200})


async def test_an_instance_that_was_wrongly_taken_for_dead_comes_back_with_its_seats(two: Two, server: RedisServer) -> None:
    one, other = two
    for i in range(10):
        await granted(two[i % 2].store, seat("all", 10), member(f"user {i}", "room", 10))
    assert one.holder is not None
    await server.ask("HDEL", "test:h", one.holder)
    await until(lambda: one.heard.states[-1] is not StoreState.UP, PATIENCE)
    await one.up()
    await the_server_has(server, {"all": 10, "room": 10}, 5.0)
    await denied(other.store, member("late", "room", 10))


async def test_seats_under_an_id_that_is_not_listed_are_nobodys(server: RedisServer) -> None:
    await server.ask("HSET", "test:n:{seats}", "f" * 16, "5")
    await server.ask("HSET", "test:n:{room}", "f" * 16, "1")
    await server.ask("HSET", "test:m:{room}", "zoe", "f" * 16 + ";")
    async with instance(address_of(server), ttl=1.0) as one:
        await denied(one.store, seat(limit=5), member("ann"))  # it has just come, and knows nobody
        await admitted(one, seat(limit=5), member("ann"))
        assert await server.ask("HLEN", "test:m:{room}") == 1
