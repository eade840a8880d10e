"""Two stores as one: the contract over both of them, and claims of one ask that lie on both sides."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest
from hypothesis import settings

from proxy.ledger import scoped_store
from proxy.ledger.memory_store import MemoryStore
from proxy.ledger.scoped_store import ScopedStore
from proxy.ledger.store import Ask, Claim, Denial, Grant, PenaltyClaim, Store, StoreDown
from tests.ledger.penalty_contract import PenaltyClockContract, PenaltyContract
from tests.ledger.store_contract import (
    NOW,
    Answers,
    ClockContract,
    StoreContract,
    StoreMachine,
    ask,
    denied,
    granted,
    held,
    member,
    seat,
    token,
)
from tests.support.waiting import until

OWN = frozenset({"rule-mine", "rule-tokens", "rule-room"})


@pytest.fixture(params=[frozenset(), OWN, frozenset({"rule-seats", "rule"})], ids=["shared", "mixed", "seats"])
def store(request: pytest.FixtureRequest) -> ScopedStore:
    return ScopedStore(MemoryStore(), MemoryStore(), request.param)


class TestContract(StoreContract):
    pass


class TestClock(ClockContract):
    pass


class TestPenalties(PenaltyContract):
    pass


class TestPenaltyClock(PenaltyClockContract):
    pass


class ScopedStoreMachine(StoreMachine):
    """Random claims on both sides, against the model of the contract."""

    def make_store(self) -> Store:
        self.stores = MemoryStore(), MemoryStore()
        return ScopedStore(*self.stores, {"rule-s0", "rule-m1", "rule-t0", "rule-t2", "b0"})

    def run(self, coroutine: Coroutine[Any, Any, Answers]) -> Answers:
        return asyncio.run(coroutine)

    def check_empty(self, store: Store) -> None:
        assert [len(one) for one in self.stores] == [0, 0]


TestModel = ScopedStoreMachine.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


class Away(MemoryStore):
    """A shared store, when it is away and nobody is to be admitted."""

    async def admit(self, asks: Sequence[Ask], now: float) -> list[Grant | Denial]:
        raise StoreDown("away", outcome_known=True)


@pytest.fixture
def mixed() -> ScopedStore:
    return ScopedStore(MemoryStore(), MemoryStore(), OWN)


async def test_a_refusal_of_the_shared_store_gives_back_all_that_is_our_own(mixed: ScopedStore) -> None:
    await granted(mixed, seat("theirs"))
    for _ in range(3):
        assert await denied(mixed, seat("mine"), token(), member("ann"), seat("theirs")) == Denial(3, None, ())
    assert held(mixed) == {"rule-theirs": 1}
    await granted(mixed, seat("mine"), token(), member("ann"))


class Slow(MemoryStore):
    """A shared store that takes a turn or more of the loop, until `decide` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.decide = asyncio.Event()
        self.asked = 0

    async def admit(self, asks: Sequence[Ask], now: float) -> list[Grant | Denial]:
        self.asked += 1
        await self.decide.wait()
        return await super().admit(asks, now)


@pytest.mark.parametrize("claim", [seat("mine"), token(rate=1e-9), member("ann")], ids=["seat", "token", "member"])
async def test_what_comes_back_from_a_refusal_goes_to_whoever_asked_meanwhile(claim: Claim) -> None:
    shared = Slow()
    store = ScopedStore(MemoryStore(), shared, OWN)
    asking = asyncio.gather(
        ask(store, claim, seat("full", 0)),
        ask(store, claim if claim.key != b"room" else member("bob"), seat("theirs", 9)),
        ask(store, claim if claim.key != b"room" else member("cid"), seat("theirs", 9)),
    )
    await until(lambda: shared.asked)
    shared.decide.set()
    answers = await asking
    assert answers[0] == Denial(1, None, ())
    assert sorted(type(answer).__name__ for answer in answers[1:]) == ["Denial", "Grant"]
    assert not store._undecided


async def test_a_refusal_of_our_own_does_not_wait_for_long() -> None:
    shared = Slow()
    store = ScopedStore(MemoryStore(), shared, OWN)
    first = asyncio.ensure_future(ask(store, seat("mine"), seat("theirs")))
    await until(lambda: shared.asked)
    began = asyncio.get_running_loop().time()
    assert await denied(store, seat("mine"), seat("theirs")) == Denial(0, None, ())
    assert asyncio.get_running_loop().time() - began >= scoped_store.PATIENCE
    first.cancel()
    await asyncio.wait([first])
    assert held(store) == {}
    shared.decide.set()
    await granted(store, seat("mine"), seat("theirs"))


async def test_whoever_has_a_seat_for_good_is_not_waited_for(mixed: ScopedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoped_store, "PATIENCE", 1e9)
    await granted(mixed, seat("mine"), seat("theirs"))
    assert await denied(mixed, seat("mine"), seat("others")) == Denial(0, None, ())


async def test_a_shared_store_that_is_away_takes_nothing_of_our_own() -> None:
    store = ScopedStore(MemoryStore(), Away(), OWN)
    for _ in range(3):
        with pytest.raises(StoreDown):
            await store.admit([[seat("mine"), token(), seat("theirs")]], NOW)
    assert held(store) == {}
    await granted(store, seat("mine"), token())


async def test_a_batch_that_fails_leaves_nothing_behind() -> None:
    store = ScopedStore(MemoryStore(), Away(), OWN)
    with pytest.raises(StoreDown):
        await store.admit([[seat("mine")], [seat("theirs")]], NOW)
    assert held(store) == {}


async def test_a_refusal_of_our_own_needs_nobody_else() -> None:
    store = ScopedStore(MemoryStore(), Away(), OWN)
    await granted(store, seat("mine"))
    assert await denied(store, seat("theirs"), seat("mine")) == Denial(1, None, ())
    assert await denied(store, seat("mine"), seat("theirs")) == Denial(0, None, ())


async def test_a_penalty_of_our_own_is_named_by_its_place(mixed: ScopedStore) -> None:
    mixed.penalize(b"rule-mine:k", 5.0, NOW)
    assert await denied(mixed, seat("theirs"), PenaltyClaim("rule-mine", b"rule-mine:k")) == Denial(1, 5.0, ())
    assert held(mixed) == {}


async def test_penalties_lie_where_their_rule_does() -> None:
    own, shared = MemoryStore(), MemoryStore()
    store = ScopedStore(own, shared, OWN)
    store.penalize(b"rule-theirs:k", 5.0, NOW)
    assert (len(own), len(shared)) == (0, 1)
    assert await denied(store, PenaltyClaim("rule-theirs", b"rule-theirs:k")) == Denial(0, 5.0, ())
    await granted(store, PenaltyClaim("rule-mine", b"rule-theirs:k"))
    store.penalize(b"rule-mine:k", 5.0, NOW)
    assert (len(own), len(shared)) == (1, 1)


async def test_an_earlier_claim_of_the_shared_store_is_named_before_one_of_our_own(mixed: ScopedStore) -> None:
    await granted(mixed, seat("mine"), seat("theirs"), token("c", 0.001), seat("shadow"))
    before = held(mixed)
    claims = (seat("shadow", shadow=True), token("c", 0.001), seat("mine"), seat("theirs"))
    answer = await denied(mixed, *claims)
    assert (answer.broken, answer.over) == (1, (0,))
    assert answer.retry_after == pytest.approx(1000)
    assert await denied(mixed, claims[0], token("free"), claims[2], claims[3]) == Denial(2, None, (0,))
    assert held(mixed) == before
    await granted(mixed, token("free"))  # which was asked about, and not taken


async def test_shadow_claims_on_both_sides_are_told_in_the_order_of_the_ask(mixed: ScopedStore) -> None:
    await granted(mixed, seat("mine"), seat("theirs"))
    claims = (seat("theirs", shadow=True), seat("mine", shadow=True), token())
    grant = await granted(mixed, *claims)
    assert grant.over == (0, 1)
    assert held(mixed) == {"rule-mine": 2, "rule-theirs": 2}
    await granted(mixed, seat("last"))
    claims = (seat("theirs", shadow=True), seat("last"), seat("mine", shadow=True))
    assert await denied(mixed, *claims) == Denial(1, None, (0,))
    mixed.release(grant)
    mixed.release(grant)
    assert held(mixed) == {"rule-mine": 1, "rule-theirs": 1, "rule-last": 1}


async def test_a_shadow_token_that_was_not_there_is_not_given_back(mixed: ScopedStore) -> None:
    await granted(mixed, token(), seat("theirs"))
    await denied(mixed, token(shadow=True), seat("theirs"))
    await denied(mixed, token())


async def test_buckets_lie_where_their_rule_does() -> None:
    own, shared = MemoryStore(), MemoryStore()
    store = ScopedStore(own, shared, OWN)
    mine, theirs = (store.open_bucket(key, 1.0, 1.0, NOW) for key in (b"rule-mine:\xff", b"rule-theirs:\xff"))
    assert (len(own), len(shared)) == (1, 1)
    for key, bucket in ((b"rule-mine:\xff", mine), (b"rule-theirs:\xff", theirs)):
        store.close_bucket(key, bucket)
    store.sweep(NOW)
    assert (len(own), len(shared)) == (0, 0)


def test_the_last_seat_goes_to_one_of_many() -> None:
    async def race() -> list[list[Grant | Denial]]:
        store = ScopedStore(MemoryStore(), MemoryStore(), OWN)
        return await asyncio.gather(*(store.admit([[seat("mine"), token(burst=9.0), seat("theirs", limit=3)]], NOW) for _ in range(9)))

    assert sum(isinstance(answer, Grant) for (answer,) in asyncio.run(race())) == 1
