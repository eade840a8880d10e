"""The contract of `proxy.ledger.store`, told once. A test module of a store inherits these classes and brings a fixture `store`.

`StoreContract` asks nothing of the clock but that it stands still or goes on. `ClockContract` is for stores whose clock is the
argument `now`. `StoreMachine` drives a store and a slow, obviously right model side by side; times, rates and bursts are multiples
of 1/8, which floats hold exactly, so both must agree to the last token.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from fractions import Fraction
from math import inf
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from proxy.ledger.store import Ask, Claim, Denial, Grant, SeatClaim, Store, TokenClaim
from proxy.ledger.token_bucket import TokenBucket
from proxy.server import eager

NOW = 1000.0
SLOW = 1e-9  # tokens a second: none, also for a store that has a clock of its own


def seat(key: str = "seats", limit: int = 1, *, shadow: bool = False) -> SeatClaim:
    return SeatClaim(f"rule-{key}", key.encode(), limit, shadow)


def member(who: str, key: str = "room", limit: int = 1, *, shadow: bool = False) -> SeatClaim:
    return SeatClaim(f"rule-{key}", key.encode(), limit, shadow, who.encode())


def token(key: str = "tokens", rate: float = 1.0, burst: float = 1.0, *, shadow: bool = False) -> TokenClaim:
    return TokenClaim(f"rule-{key}", key.encode(), rate, burst, shadow)


async def ask(store: Store, *claims: Claim, now: float = NOW) -> Grant | Denial:
    """As the gate asks: the first step is taken before there is a task (server/eager.py)."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Grant | Denial] = loop.create_future()

    async def admit() -> None:
        try:
            [answer] = await store.admit([claims], now)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 -- whoever asked gets it
            answered.set_exception(error)
        else:
            answered.set_result(answer)

    ours = asyncio.current_task()
    assert ours is not None
    asyncio._leave_task(loop, ours)  # in this very turn of the loop: there is no other way
    try:
        rest = eager.start(loop, admit())
    finally:
        asyncio._enter_task(loop, ours)
    try:
        return await asyncio.shield(answered)
    except asyncio.CancelledError:
        if rest is not None:
            rest.cancel()
            await asyncio.wait([rest])
        if answered.done() and isinstance(found := answered.result(), Grant):
            store.release(found)  # it came in the same turn
        raise


async def granted(store: Store, *claims: Claim, now: float = NOW) -> Grant:
    answer = await ask(store, *claims, now=now)
    assert isinstance(answer, Grant)
    return answer


async def denied(store: Store, *claims: Claim, now: float = NOW) -> Denial:
    answer = await ask(store, *claims, now=now)
    assert isinstance(answer, Denial)
    return answer


def held(store: Store) -> dict[str, int]:
    return {name: count for name, count in store.seats().items() if count}


async def took(bucket: TokenBucket, cost: float) -> bool:
    """Take tokens as a meter and a tunnel do it: while it is not known whether they are there, wait for the answer."""
    while not bucket.take(cost, now := time.monotonic()):  # of the real clock, since leases end by it
        if bucket.known_at(cost, now) <= now:
            return False
        answered = asyncio.Event()
        bucket.call_when_known(answered.set)
        async with asyncio.timeout(10.0):
            await answered.wait()
    return True


class StoreContract:
    async def test_an_ask_without_claims_is_granted(self, store: Store) -> None:
        answer = await granted(store)
        assert answer.over == ()
        store.release(answer)

    async def test_no_asks_have_no_answers(self, store: Store) -> None:
        assert await store.admit([], NOW) == []

    async def test_seats_are_granted_up_to_the_limit(self, store: Store) -> None:
        for _ in range(3):
            await granted(store, seat(limit=3))
        assert await denied(store, seat(limit=3)) == Denial(0, None, ())

    async def test_the_one_beside_is_not_touched(self, store: Store) -> None:
        await granted(store, seat("mine"))
        await denied(store, seat("mine"))
        await granted(store, seat("yours"))

    async def test_a_batch_is_decided_in_order_as_if_one_came_after_the_other(self, store: Store) -> None:
        answers = await store.admit([[seat(limit=2)]] * 4, NOW)
        assert [type(answer) for answer in answers] == [Grant, Grant, Denial, Denial]

    async def test_all_claims_are_granted_or_none(self, store: Store) -> None:
        await granted(store, seat("full"))
        claims = (seat("a"), member("ann", "b"), token("c"), seat("full"))
        assert (await denied(store, *claims)).broken == 3
        assert held(store) == {"rule-full": 1}
        await granted(store, *claims[:3])  # nothing of the denied ask was taken

    async def test_the_first_broken_claim_is_named(self, store: Store) -> None:
        await granted(store, seat("b"))
        await granted(store, token("c"))
        assert (await denied(store, seat("a"), seat("b"), token("c"))).broken == 1
        assert (await denied(store, token("c"), seat("b"))).broken == 0

    async def test_a_claim_behind_the_broken_one_is_not_looked_at(self, store: Store) -> None:
        await granted(store, seat("a"))
        await granted(store, seat("later"))
        assert await denied(store, seat("a"), seat("later", shadow=True)) == Denial(0, None, ())

    async def test_a_denial_changes_nothing_however_often(self, store: Store) -> None:
        full = await granted(store, seat("full"))
        for _ in range(10):
            await denied(store, token("tokens", burst=2), member("ann"), seat("full"))
        store.release(full)
        await granted(store, token("tokens", burst=2), member("bob"), seat("full"))
        await granted(store, token("tokens", burst=2))
        await denied(store, token("tokens", burst=2))

    async def test_mistake_double_decrement_on_a_refusal(self, store: Store) -> None:
        first = await granted(store, seat(limit=1))
        await denied(store, seat(limit=1))
        store.release(first)
        await granted(store, seat(limit=1))
        await denied(store, seat(limit=1))

    async def test_mistake_releasing_twice_frees_somebody_elses_seat(self, store: Store) -> None:
        mine = await granted(store, seat(limit=2), member("ann", limit=2))
        await granted(store, seat(limit=2), member("bob", limit=2))
        for _ in range(3):
            store.release(mine)
        assert held(store) == {"rule-seats": 1, "rule-room": 1}
        await granted(store, seat(limit=2), member("cat", limit=2))
        await denied(store, seat(limit=2))
        await denied(store, member("dan", limit=2))

    async def test_mistake_check_then_increment_race_of_parallel_asks(self, store: Store) -> None:
        limit = 5
        for _ in range(limit - 1):
            await granted(store, seat(limit=limit))
        answers = await asyncio.gather(*(ask(store, seat(limit=limit)) for _ in range(50)))
        assert Counter(map(type, answers)) == {Grant: 1, Denial: 49}

    async def test_parallel_asks_for_the_last_member_and_the_last_token_admit_one_each(self, store: Store) -> None:
        await granted(store, member("ann", limit=2))
        answers = await asyncio.gather(*(ask(store, member(f"user {i}", limit=2)) for i in range(50)))
        assert Counter(map(type, answers)) == {Grant: 1, Denial: 49}
        answers = await asyncio.gather(*(ask(store, token(rate=0.001)) for _ in range(50)))
        assert Counter(map(type, answers)) == {Grant: 1, Denial: 49}

    async def test_a_limit_of_0_admits_nobody(self, store: Store) -> None:
        await denied(store, seat(limit=0))
        await denied(store, member("ann", limit=0))
        assert held(store) == {}

    async def test_two_tabs_of_one_user_take_one_seat(self, store: Store) -> None:
        await granted(store, member("ann", limit=2))
        await granted(store, member("ann", limit=2))
        await granted(store, member("bob", limit=2))
        assert held(store) == {"rule-room": 2}
        await denied(store, member("cat", limit=2))

    async def test_a_member_may_come_again_to_a_full_room(self, store: Store) -> None:
        await granted(store, member("ann"))
        await granted(store, member("ann"))
        await denied(store, member("bob"))

    async def test_mistake_the_second_tab_empties_the_seat_when_the_first_one_closes(self, store: Store) -> None:
        first = await granted(store, member("ann"))
        second = await granted(store, member("ann"))
        store.release(first)
        assert held(store) == {"rule-room": 1}
        await denied(store, member("bob"))
        store.release(second)
        assert held(store) == {}
        await granted(store, member("bob"))

    async def test_members_of_two_rooms_are_counted_apart(self, store: Store) -> None:
        await granted(store, member("ann", "blue"))
        await granted(store, member("ann", "red"))
        await denied(store, member("bob", "red"))
        assert held(store) == {"rule-blue": 1, "rule-red": 1}

    async def test_a_shadow_claim_never_denies_and_is_reported(self, store: Store) -> None:
        await granted(store, seat("a"), member("ann"), token(rate=0.001))
        over = await granted(store, seat("a", shadow=True), member("bob", shadow=True), token(rate=0.001, shadow=True), seat("b"))
        assert over.over == (0, 1, 2)

    async def test_a_shadow_claim_takes_its_seat_beyond_the_limit_and_gives_it_back(self, store: Store) -> None:
        grants = [await granted(store, seat(limit=1, shadow=True)) for _ in range(3)]
        assert [grant.over for grant in grants] == [(), (0,), (0,)]
        assert held(store) == {"rule-seats": 3}
        for grant in grants:
            store.release(grant)
        assert (await granted(store, seat(limit=1, shadow=True))).over == ()

    async def test_a_shadow_claim_of_a_denied_ask_takes_no_seat_and_is_reported(self, store: Store) -> None:
        await granted(store, seat("shadow", shadow=True))
        await granted(store, seat("full"))
        assert await denied(store, seat("shadow", shadow=True), seat("full")) == Denial(1, None, (0,))
        assert held(store) == {"rule-shadow": 1, "rule-full": 1}

    async def test_when_a_seat_is_free_cannot_be_known(self, store: Store) -> None:
        await granted(store, seat())
        assert (await denied(store, seat())).retry_after is None

    async def test_mistake_a_rate_of_0_divides_by_zero(self, store: Store) -> None:
        assert await denied(store, token(rate=0, burst=5)) == Denial(0, inf, ())
        assert (await granted(store, token(rate=0, burst=5, shadow=True))).over == (0,)

    async def test_tokens_stay_spent_when_the_seats_go_back(self, store: Store) -> None:
        grant = await granted(store, seat(), token(rate=0.001))
        store.release(grant)
        answer = await denied(store, seat(), token(rate=0.001))
        assert answer.broken == 1
        assert answer.retry_after == pytest.approx(1000, rel=0.01)

    async def test_buckets_outlive_the_connection(self, store: Store) -> None:
        bucket = store.open_bucket(b"k", SLOW, 2, NOW)
        assert await took(bucket, 2)
        store.close_bucket(b"k", bucket)
        store.sweep(NOW)
        again = store.open_bucket(b"k", SLOW, 2, NOW)
        assert not await took(again, 1)
        store.close_bucket(b"k", again)

    async def test_all_who_open_a_bucket_share_it(self, store: Store) -> None:
        mine, yours = (store.open_bucket(b"k", SLOW, 2, NOW) for _ in range(2))
        assert await took(mine, 1)
        store.close_bucket(b"k", mine)
        assert await took(yours, 1)
        assert not await took(store.open_bucket(b"k", SLOW, 2, NOW), 1)

    async def test_a_bucket_of_this_instance_is_nobody_elses(self, store: Store) -> None:
        bucket = store.open_own_bucket(b"k", SLOW, 2, NOW)
        assert bucket.take(2, NOW)
        store.close_bucket(b"k", bucket)
        assert not store.open_own_bucket(b"k", SLOW, 2, NOW).take(1, NOW)

    async def test_a_bucket_of_nothing_gives_nothing(self, store: Store) -> None:
        bucket = store.open_bucket(b"k", 0, 2, NOW)
        assert not await took(bucket, 1)
        store.close_bucket(b"k", bucket)

    async def test_seats_are_told_by_rule(self, store: Store) -> None:
        grants = [await granted(store, SeatClaim("user-connections", f"key {i}".encode(), 1)) for i in range(3)]
        assert held(store) == {"user-connections": 3}
        store.release(grants[0])
        assert held(store) == {"user-connections": 2}


class ClockContract:
    """For stores whose clock is the argument."""

    async def test_retry_after_is_when_it_works_again(self, store: Store) -> None:
        await granted(store, token(rate=0.5))
        assert (await denied(store, token(rate=0.5))).retry_after == 2.0
        assert (await denied(store, token(rate=0.5), now=NOW + 1.5)).retry_after == 0.5
        await granted(store, token(rate=0.5), now=NOW + 2)
        await denied(store, token(rate=0.5), now=NOW + 2)

    async def test_tokens_come_back_up_to_the_burst_and_no_further(self, store: Store) -> None:
        for _ in range(3):
            await granted(store, token(rate=1, burst=3))
        for _ in range(3):
            await granted(store, token(rate=1, burst=3), now=NOW + 1000)
        await denied(store, token(rate=1, burst=3), now=NOW + 1000)

    async def test_mistake_counters_that_expire_under_a_living_connection(self, store: Store) -> None:
        await granted(store, seat(), member("ann"))
        for day in range(1, 4):
            store.sweep(NOW + day * 86400)
            await denied(store, seat(), now=NOW + day * 86400)
            await denied(store, member("bob"), now=NOW + day * 86400)

    async def test_a_bucket_that_is_held_open_is_not_forgotten_though_it_is_full(self, store: Store) -> None:
        bucket = store.open_bucket(b"k", 1, 1, NOW)
        store.sweep(NOW + 1000)
        assert store.open_bucket(b"k", 1, 1, NOW + 1000) is bucket

    async def test_time_that_goes_backwards_gives_and_takes_nothing(self, store: Store) -> None:
        await granted(store, token(rate=1, burst=2), now=NOW)
        await granted(store, token(rate=1, burst=2), now=NOW - 500)
        assert (await denied(store, token(rate=1, burst=2), now=NOW - 500)).retry_after == 1.0
        await granted(store, token(rate=1, burst=2), now=NOW - 499)


# The model.

RATES = {"t0": (0.5, 1.0), "t1": (2.0, 3.0), "t2": (0.0, 1.0), "b0": (1.0, 2.0), "b1": (0.25, 1.5)}
"""key -> (tokens per second, burst)"""


@dataclass
class ModelGrant:
    seats: list[SeatClaim]
    real: Grant


@dataclass
class Model:
    """Every grant and every spending is kept, and each question is answered by looking at them all."""

    grants: list[ModelGrant] = field(default_factory=list)
    spent: dict[str, list[tuple[Fraction, Fraction]]] = field(default_factory=dict)  # key -> (when, how much)

    def level(self, key: str, now: Fraction) -> Fraction:
        rate, burst = map(Fraction, RATES[key])
        if not rate:
            return Fraction(0)
        level, since = burst, Fraction(0)
        for when, cost in self.spent.get(key, []):
            level = min(burst, level + (when - since) * rate) - cost
            since = when
        return min(burst, level + (now - since) * rate)

    def take(self, key: str, cost: Fraction, now: Fraction) -> bool:
        enough = self.level(key, now) >= cost
        if enough:
            self.spent.setdefault(key, []).append((now, cost))
        return enough

    def wait(self, key: str, now: Fraction) -> float:
        rate, burst = map(Fraction, RATES[key])
        if not rate or burst < 1:
            return inf
        return float(max(Fraction(0), (1 - self.level(key, now)) / rate))

    def has_room(self, claim: SeatClaim) -> bool:
        seats = [one for grant in self.grants for one in grant.seats if one.key == claim.key]
        if claim.member is None:
            return len(seats) < claim.limit
        members = {one.member for one in seats}
        return claim.member in members or len(members) < claim.limit

    def seats(self) -> dict[str, int]:
        taken = {(one.rule, one.key, one.member or (id(grant), one.key)) for grant in self.grants for one in grant.seats}
        return dict(Counter(name for name, _, _ in taken))

    def decide(self, claims: Ask, now: Fraction) -> tuple[int | None, float | None, tuple[int, ...]]:
        """(the first broken claim, its wait, the shadow claims that are over); takes the tokens if nothing is broken."""
        over: list[int] = []
        for index, claim in enumerate(claims):
            if isinstance(claim, SeatClaim):
                fits, wait = self.has_room(claim), None
            else:
                wait = self.wait(claim.key.decode(), now)
                fits = wait == 0
            if not fits:
                if not claim.shadow:
                    return index, wait, tuple(over)
                over.append(index)
        for claim in claims:
            if isinstance(claim, TokenClaim):
                self.take(claim.key.decode(), Fraction(1), now)
        return None, None, tuple(over)


shadows = st.booleans()
seat_claims = st.builds(lambda k, limit, shadow: seat(f"s{k}", limit, shadow=shadow), st.integers(0, 1), st.integers(0, 3), shadows)
member_claims = st.builds(
    lambda who, k, limit, shadow: member(who, f"m{k}", limit, shadow=shadow),
    st.sampled_from("abc"),
    st.integers(0, 1),
    st.integers(0, 2),
    shadows,
)
token_claims = st.builds(lambda key, shadow: token(key, *RATES[key], shadow=shadow), st.sampled_from(["t0", "t1", "t2"]), shadows)
asks = st.lists(st.one_of(seat_claims, member_claims, token_claims), max_size=4, unique_by=lambda claim: claim.key)


Answers = list[Grant | Denial]


class StoreMachine(RuleBasedStateMachine):
    """A store and the model side by side. A store's test module says in a subclass how to make one, how to run a coroutine, and
    what must be true at the end, when everybody has left and all buckets are full."""

    def make_store(self) -> Store:
        raise NotImplementedError

    def run(self, coroutine: Coroutine[Any, Any, Answers]) -> Answers:
        raise NotImplementedError

    def check_empty(self, store: Store) -> None:
        raise NotImplementedError

    grants = Bundle("grants")
    buckets = Bundle("buckets")

    @initialize()
    def start(self) -> None:
        self.store = self.make_store()
        self.model = Model()
        self.now = Fraction(1000)
        self.open: list[tuple[str, TokenBucket]] = []

    @rule(target=grants, batch=st.lists(asks, min_size=1, max_size=3))
    def admit(self, batch: list[list[Claim]]) -> list[ModelGrant]:
        answers = self.run(self.store.admit(batch, float(self.now)))
        assert len(answers) == len(batch)
        given = []
        for claims, answer in zip(batch, answers, strict=True):
            broken, wait, over = self.model.decide(claims, self.now)
            if broken is None:
                assert isinstance(answer, Grant)
                assert answer.over == over
                given.append(ModelGrant([one for one in claims if isinstance(one, SeatClaim)], answer))
                self.model.grants.append(given[-1])
            else:
                assert answer == Denial(broken, wait, over)
        return given

    @rule(given=grants)
    def release(self, given: list[ModelGrant]) -> None:
        """Perhaps not for the first time."""
        for grant in given:
            self.store.release(grant.real)
            self.model.grants = [one for one in self.model.grants if one is not grant]

    @rule(eighths=st.integers(0, 40))
    def time_passes(self, eighths: int) -> None:
        self.now += Fraction(eighths, 8)

    @rule()
    def sweep(self) -> None:
        self.store.sweep(float(self.now))

    @rule(target=buckets, key=st.sampled_from(["b0", "b1"]))
    def open_bucket(self, key: str) -> tuple[str, TokenBucket]:
        one = (key, self.store.open_bucket(key.encode(), *RATES[key], float(self.now)))
        self.open.append(one)
        return one

    @rule(one=buckets, eighths=st.integers(1, 20))
    def take(self, one: tuple[str, TokenBucket], eighths: int) -> None:
        if one in self.open:
            key, bucket = one
            cost = Fraction(eighths, 8)
            assert bucket.take(float(cost), float(self.now)) == self.model.take(key, cost, self.now)

    @rule(one=consumes(buckets))
    def close_bucket(self, one: tuple[str, TokenBucket]) -> None:
        self.open.remove(one)
        key, bucket = one
        self.store.close_bucket(key.encode(), bucket)

    @invariant()
    def seats_agree(self) -> None:
        if hasattr(self, "store"):
            assert held(self.store) == self.model.seats()

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        for grant in self.model.grants:
            self.store.release(grant.real)
        for key, bucket in self.open:
            self.store.close_bucket(key.encode(), bucket)
        self.store.sweep(float(self.now + 1000))
        assert held(self.store) == {}
        self.check_empty(self.store)
