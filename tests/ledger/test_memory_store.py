"""The embedded store: the contract, the model, and its memory, which must not grow with what clients send."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import settings

from proxy.ledger.memory_store import AMORTISED, SWEEP_BATCH, MemoryStore
from proxy.ledger.store import Grant, Store
from tests.ledger.penalty_contract import PenaltyClockContract, PenaltyContract
from tests.ledger.store_contract import NOW, Answers, ClockContract, StoreContract, StoreMachine, denied, granted, member, seat, token


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


class TestContract(StoreContract):
    pass


class TestClock(ClockContract):
    pass


class TestPenalties(PenaltyContract):
    pass


class TestPenaltyClock(PenaltyClockContract):
    pass


class MemoryStoreMachine(StoreMachine):
    def make_store(self) -> Store:
        return MemoryStore()

    def run(self, coroutine: Coroutine[Any, Any, Answers]) -> Answers:
        """To its end without an event loop: this store never waits."""
        try:
            coroutine.send(None)
        except StopIteration as done:
            answers: Answers = done.value
            return answers
        raise AssertionError("the memory store waited")

    def check_empty(self, store: Store) -> None:
        assert isinstance(store, MemoryStore)
        assert len(store) == 0
        assert not store._idle


TestModel = MemoryStoreMachine.TestCase
TestModel.settings = settings(max_examples=120, stateful_step_count=25, deadline=None)


async def test_mistake_memory_tables_that_never_shrink() -> None:
    store = MemoryStore()
    for chunk in range(0, 100_000, 1000):
        keys = [str(i) for i in range(chunk, chunk + 1000)]
        for grant in await store.admit([[seat("s" + key), member("ann", "m" + key), token("t" + key)] for key in keys], NOW):
            assert isinstance(grant, Grant)
            store.release(grant)
    assert len(store) == 100_000  # buckets that are not full yet
    for _ in range(100_000 // SWEEP_BATCH):
        store.sweep(NOW + 1.0)
    assert len(store) == 0
    assert not store._idle


async def test_seats_leave_nothing_behind() -> None:
    store = MemoryStore()
    first = await granted(store, seat(limit=2), member("ann"))
    second = await granted(store, seat(limit=2), member("ann"))
    assert len(store) == 2
    store.release(first)
    assert len(store) == 2
    store.release(second)
    assert len(store) == 0


async def test_a_denial_leaves_nothing_behind() -> None:
    store = MemoryStore()
    for i in range(100):
        await denied(store, token(f"t{i}"), member("ann", f"m{i}"), seat(limit=0))
        await denied(store, token(f"r{i}", rate=0))
    assert len(store) == 0


async def test_a_bucket_is_kept_until_it_is_full_again_and_no_longer() -> None:
    store = MemoryStore()
    await granted(store, token(rate=0.1))
    store.sweep(NOW + 9.99)
    assert len(store) == 1
    store.sweep(NOW + 10)
    assert len(store) == 0


async def test_a_bucket_that_was_spent_from_again_is_kept_until_it_is_full_from_then() -> None:
    store = MemoryStore()
    await granted(store, token(rate=1, burst=2))
    await granted(store, token(rate=1, burst=2), now=NOW + 0.5)
    store.sweep(NOW + 1.0)
    assert len(store) == 1
    store.sweep(NOW + 2.0)
    assert len(store) == 0


async def test_a_spent_bucket_that_was_closed_is_forgotten_when_it_is_full() -> None:
    store = MemoryStore()
    bucket = store.open_bucket(b"k", 1, 10, NOW)
    bucket.take(10, NOW)
    store.sweep(NOW + 100)
    assert len(store) == 1  # held open
    store.close_bucket(b"k", bucket)
    store.sweep(NOW + 100)
    assert len(store) == 0


async def test_a_bucket_opened_while_it_is_lined_up_survives_being_forgotten() -> None:
    store = MemoryStore()
    first = store.open_bucket(b"k", 1, 10, NOW)
    first.take(5, NOW)
    store.close_bucket(b"k", first)
    again = store.open_bucket(b"k", 1, 10, NOW + 1)
    assert again is first
    again.take(5, NOW + 1)
    store.sweep(NOW + 5)
    store.close_bucket(b"k", again)
    store.sweep(NOW + 5)
    assert store.open_bucket(b"k", 1, 10, NOW + 5) is first


async def test_connecting_and_leaving_over_and_over_lines_a_bucket_up_once() -> None:
    store = MemoryStore()
    for i in range(1000):
        store.close_bucket(b"k", store.open_bucket(b"k", 0.001, 10, NOW + i / 1000))
        await granted(store, token(rate=0.001, burst=5000), now=NOW)
    assert len(store._idle) <= 2


async def test_without_sweeps_admissions_forget_full_buckets_as_they_come() -> None:
    store = MemoryStore()
    for i in range(10_000):
        await granted(store, token(f"k{i}"), now=NOW + i)
    assert len(store) <= 1 + AMORTISED


async def test_a_sweep_is_bounded_work() -> None:
    store = MemoryStore()
    await store.admit([[token(f"k{i}")] for i in range(SWEEP_BATCH + 5)], NOW)
    store.sweep(NOW + 1)
    assert len(store) == 5


class TestIdleBound:
    async def test_those_nearest_to_full_are_forgotten_first(self) -> None:
        store = MemoryStore(max_idle_buckets=3)
        for seconds in (50, 10, 40, 20, 30):
            await granted(store, token(f"full in {seconds} s", rate=1 / seconds))
        for seconds in (30, 40, 50):
            await denied(store, token(f"full in {seconds} s", rate=1 / seconds))
        await granted(store, token("full in 10 s", rate=1 / 10))

    async def test_what_was_spent_since_a_bucket_was_lined_up_counts(self) -> None:
        store = MemoryStore(max_idle_buckets=2)
        for _ in range(10):
            await granted(store, token("flood", rate=0.1, burst=10))  # lined up at the first, empty now: full in 100 s
        await granted(store, token("b", rate=1 / 20))
        await granted(store, token("c", rate=1 / 30))
        await denied(store, token("flood", rate=0.1, burst=10))
        await denied(store, token("c", rate=1 / 30))

    async def test_the_tables_and_the_heap_are_bounded_whatever_comes(self) -> None:
        store = MemoryStore(max_idle_buckets=100)
        for i in range(2000):
            await granted(store, token(f"k{i}", rate=0.001, burst=3))
            await granted(store, token(f"k{i // 2}", rate=0.001, burst=3))
            store.close_bucket(b"o%d" % i, store.open_bucket(b"o%d" % i, 0.001, 3, NOW))
        assert len(store) == len(store._idle) == 100

    async def test_a_bucket_that_is_held_open_is_never_evicted(self) -> None:
        store = MemoryStore(max_idle_buckets=2)
        mine = store.open_bucket(b"mine", 0.001, 2, NOW)
        assert mine.take(1, NOW)
        store.close_bucket(b"mine", mine)  # now it is the first in line
        assert store.open_bucket(b"mine", 0.001, 2, NOW) is mine
        assert mine.take(1, NOW)
        for i in range(10):
            await granted(store, token(f"k{i}", rate=0.0001))
        assert store.open_bucket(b"mine", 0.001, 2, NOW) is mine
        store.close_bucket(b"mine", mine)
        store.close_bucket(b"mine", mine)
        assert len(store) == 2

    async def test_an_eviction_is_bounded_work(self) -> None:
        store = MemoryStore(max_idle_buckets=1000)
        await store.admit([[token(f"k{i}", rate=0.001, burst=2)] for i in range(1000)] * 2, NOW)
        await granted(store, token("one more", rate=0.001, burst=2))
        lined_up = sorted(full_at for full_at, _ in store._idle)
        assert len(store) == 1000
        assert lined_up[500] == NOW + 1000  # most were not looked at
