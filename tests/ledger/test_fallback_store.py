"""What this instance does while the shared store does not decide."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from math import inf

import pytest

from proxy.ledger.fallback_store import FallbackStore, OnStoreDown
from proxy.ledger.links.addresses import Endpoint, StoreAddress
from proxy.ledger.store import Claim, Denial, Store, StoreDown, StoreState
from tests.ledger.instances import PATIENCE, Heard, address_of, instance, the_server_has
from tests.ledger.penalty_contract import ANN, PenaltyClockContract, PenaltyContract, penalty
from tests.ledger.store_contract import NOW, ClockContract, StoreContract, ask, denied, granted, held, member, seat, token, took
from tests.support.redis_servers import HOST, free_port, redis_server
from tests.support.waiting import eventually, until


def nowhere() -> StoreAddress:
    return StoreAddress((Endpoint(HOST, free_port()),))


class TestContractAlone(StoreContract):
    """Without any server it is a store of one instance."""

    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        async with instance(nowhere()) as one:
            assert one.store.state is StoreState.DOWN
            yield one.store

    async def test_buckets_outlive_the_connection(self, store: Store) -> None:
        """Not so full here: nobody knows what others have left of them."""
        bucket = store.open_bucket(b"k", 0.001, 2, NOW)
        assert await took(bucket, 1)
        store.close_bucket(b"k", bucket)
        store.sweep(NOW)
        assert not await took(store.open_bucket(b"k", 0.001, 2, NOW), 1)

    async def test_all_who_open_a_bucket_share_it(self, store: Store) -> None:
        mine, yours = (store.open_bucket(b"k", 0.001, 2, NOW) for _ in range(2))
        assert await took(mine, 1)
        store.close_bucket(b"k", mine)
        assert not await took(yours, 1)


class TestClockAlone(ClockContract):
    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        async with instance(nowhere()) as one:
            yield one.store


class TestPenaltiesAlone(PenaltyContract):
    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        async with instance(nowhere()) as one:
            yield one.store


class TestPenaltyClockAlone(PenaltyClockContract):
    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        async with instance(nowhere()) as one:
            yield one.store


async def test_the_start_says_why_it_does_not_decide() -> None:
    async with instance(nowhere()) as one:
        assert one.reason is not None
        assert "Connect call failed" in one.reason
        assert isinstance(one.heard, Heard)


async def test_open_admits_everybody() -> None:
    async with instance(nowhere(), on_store_down=OnStoreDown.OPEN) as one:
        for _ in range(3):
            assert (await granted(one.store, seat(), member("ann"), token(rate=0))).over == ()
        assert held(one.store) == {"rule-seats": 3, "rule-room": 1}


async def test_open_admits_nobody_who_is_known_to_be_penalized() -> None:
    async with instance(nowhere(), on_store_down=OnStoreDown.OPEN) as one:
        one.store.penalize(ANN, 30.0, NOW)
        assert await denied(one.store, seat(limit=0), penalty()) == Denial(1, 30.0, ())
        await granted(one.store, seat(limit=0), penalty("bob"))


async def test_closed_admits_nobody_and_touches_nobody() -> None:
    async with redis_server() as server, instance(address_of(server), deadline=0.2, on_store_down=OnStoreDown.CLOSED) as one:
        grant = await granted(one.store, seat())
        server.kill()
        for _ in range(3):
            with pytest.raises(StoreDown):
                await ask(one.store, seat("other"))
        assert held(one.store) == {"rule-seats": 1}
        one.store.release(grant)
        await server.start()
        await one.up()
        await the_server_has(server, {})
        await granted(one.store, seat())


async def test_a_batch_that_cannot_be_finished_holds_nothing() -> None:
    async with redis_server() as server, instance(address_of(server), deadline=0.2, on_store_down=OnStoreDown.CLOSED) as one:
        server.freeze()
        with pytest.raises(StoreDown):
            await one.store.admit([[seat("a")], [seat("b")], [seat("c")]], NOW)
        server.thaw()
        assert held(one.store) == {}
        await one.up()
        await the_server_has(server, {})


async def test_after_a_doubt_whoever_asks_waits_until_the_store_decides_again() -> None:
    """Alone it would be decided by what was never seen of the others: here nothing."""
    async with redis_server() as server, instance(address_of(server), deadline=5.0) as one, instance(address_of(server)) as other:
        await granted(other.store, seat())
        one.store._shared.keeper.doubt()
        began = time.monotonic()
        assert await denied(one.store, seat()) == Denial(0, None, ())
        assert time.monotonic() - began < 2.5
        assert await denied(one.store, seat("none", 0)) == Denial(0, None, ())
        await granted(one.store, seat("other"))
        assert one.store.state is StoreState.UP


async def test_what_takes_longer_than_an_answer_to_be_told_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with redis_server() as server, instance(address_of(server), deadline=0.3) as one:
        told = asyncio.Event()
        monkeypatch.setattr(one.store._shared.keeper.teller, "everything", lambda _: told.wait())
        one.store._shared.keeper.doubt()
        began = time.monotonic()
        await granted(one.store, seat())
        first = time.monotonic() - began
        await granted(one.store, seat("other"))
        assert first >= 0.29
        assert time.monotonic() - began - first < 0.2
        assert one.store.state is StoreState.HEALING
        told.set()


async def test_upgrades_are_shared_by_as_many_as_were_last_listed() -> None:
    async with redis_server() as server, instance(address_of(server), ttl=1.0) as one, instance(address_of(server)) as other:
        await one.store._shared.keeper._beat(one.holder or b"")
        server.kill()
        await other.crash()
        for _ in range(5):
            await granted(one.store, token(rate=0.002, burst=10))
        assert (await denied(one.store, token(rate=0.002, burst=10))).retry_after == pytest.approx(1000, rel=0.01)
        assert (await denied(one.store, token("never", rate=0))).retry_after == inf


async def test_an_outage_brings_no_fresh_burst_and_what_is_taken_meanwhile_is_taken_from_all() -> None:
    claim = token(rate=0.001, burst=4)
    async with redis_server() as server, instance(address_of(server), deadline=0.2) as one, instance(address_of(server)) as other:
        for _ in range(2):
            await granted(one.store, claim)
        await one.store._shared.keeper._beat(one.holder or b"")
        for _ in range(3):
            server.kill()
            await until(lambda: one.store.state is not StoreState.UP, PATIENCE)
            await until(lambda: other.store.state is not StoreState.UP, PATIENCE)
            answer = await ask(one.store, claim)  # half of what was left: one token, once
            await denied(one.store, claim)
            await server.start()
            await one.up()
            await other.up()
            assert await server.ask("EXISTS", "test:u:{tokens}") == 0  # it would give a burst
        assert isinstance(answer, Denial)
        await granted(one.store, claim)
        assert (await denied(one.store, claim)).retry_after == pytest.approx(1000, rel=0.01)
        await denied(other.store, claim)


async def test_caps_know_of_the_others_what_a_granted_question_was_told() -> None:
    async with redis_server() as server, instance(address_of(server), deadline=0.2) as one, instance(address_of(server)) as other:
        for i in range(3):
            await granted(other.store, seat(limit=5), member(f"user {i}", limit=5))
        await granted(one.store, seat(limit=5), member("me", limit=5))
        server.kill()
        await granted(one.store, seat(limit=5))
        await denied(one.store, seat(limit=5))
        await granted(one.store, member("user 9", limit=5))
        await denied(one.store, member("user 10", limit=5))


async def test_two_knocks_of_one_member_at_once_do_not_vouch_for_each_other() -> None:
    async with redis_server() as server, instance(address_of(server), deadline=0.2) as one, instance(address_of(server)) as other:
        await granted(other.store, member("bob"))
        await denied(one.store, member("cat"))
        server.freeze()
        answers = await asyncio.gather(*(ask(one.store, member("ann")) for _ in range(2)))
        server.thaw()
        assert [type(answer) for answer in answers] == [Denial, Denial]


async def test_a_penalty_holds_while_the_store_is_away_and_is_told_to_it_when_it_is_back() -> None:
    async with redis_server() as server, instance(address_of(server), deadline=0.2) as one, instance(address_of(server)) as other:
        one.store.penalize(ANN, 500.0, NOW)
        server.kill()
        await until(lambda: one.store.state is StoreState.DOWN, PATIENCE)
        one.store.penalize(b"rule:bob", 500.0, NOW)
        for who in ("ann", "bob"):
            await denied(one.store, penalty(who))
        await server.start()
        for instance_ in (one, other):
            await instance_.up()
        one.store.sweep(NOW)
        for who in ("ann", "bob"):
            await eventually(lambda who=who: is_denied(other.store, penalty(who)), PATIENCE)  # type: ignore[misc]  # a default binds the loop's variable
        one.store.sweep(NOW + 500)
        assert len(one.store) == 0


async def is_denied(store: Store, *claims: Claim) -> bool:
    return isinstance(await ask(store, *claims), Denial)


async def test_a_bucket_of_frames_begins_with_half_of_it_and_is_forgotten_when_it_is_full() -> None:
    async with instance(nowhere()) as one:
        store: FallbackStore = one.store
        now = time.monotonic()
        bucket = store.open_bucket(b"k", 0.1, 2.0, now)
        assert bucket.take(1.0, now)
        assert not bucket.take(1.0, now)
        store.close_bucket(b"k", bucket)
        store.sweep(now + 1)
        assert len(store) == 1
        store.sweep(now + 30)
        assert len(store) == 0
