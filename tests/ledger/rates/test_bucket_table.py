"""The table of shared buckets: what is used is never forgotten, and what is not used has a bound."""

from __future__ import annotations

import pytest

from proxy.ledger.rates import bucket_table
from proxy.ledger.rates.bucket_table import BucketTable
from proxy.ledger.rates.leased_bucket import LeasedBucket
from tests.ledger.recording_link import NOW, Alone

FULL_AT = NOW + 10.0  # when one that has gone alone with half of it is full


def bucket(number: int = 0) -> LeasedBucket:
    return LeasedBucket(b"rule:%d" % number, 1.0, 20.0, Alone())


def alone(number: int = 0) -> LeasedBucket:
    found = bucket(number)
    found.go_alone(NOW)
    return found


def owned(number: int = 0) -> LeasedBucket:
    found = bucket(number)
    found.own(20.0, b"1", NOW)
    return found


def watched() -> tuple[BucketTable, list[LeasedBucket]]:
    """It, and what it says that it has forgotten."""
    table, forgotten = BucketTable(), []
    table.forgotten = forgotten.append
    return table, forgotten


def kept(table: BucketTable, *buckets: LeasedBucket) -> None:
    for one in buckets:
        table.use(one)
        one.users -= 1
        table.keep(one)


def test_who_uses_a_bucket_is_counted_and_finds_the_same_one() -> None:
    table, used = BucketTable(), bucket()
    table.use(used)
    table.use(used)
    assert (used.users, len(table)) == (2, 1)
    assert table.get(used.key) is used
    assert table.get(b"rule:other") is None


def test_only_those_of_this_instance_are_owned() -> None:
    table, own = BucketTable(), owned(1)
    for one in (bucket(0), own, alone(2)):
        table.use(one)
    assert table.owned() == [own]


def test_whoever_is_to_hear_of_it_hears_what_is_forgotten() -> None:
    table, forgotten = watched()
    used = bucket()
    table.use(used)
    table.forget(used)
    assert (forgotten, len(table)) == ([used], 0)


def test_of_too_many_that_nobody_uses_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_table, "MAX_IDLE", 2)
    table, forgotten = watched()
    used, *idle = (owned(number) for number in range(5))
    table.use(used)
    kept(table, *idle)
    assert forgotten == idle[:2]
    assert len(table) == 3


def test_who_returns_to_a_bucket_that_was_kept_finds_it_and_it_is_not_forgotten_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_table, "MAX_IDLE", 1)
    table, forgotten = watched()
    first = alone(0)
    kept(table, first)
    table.use(first)
    kept(table, owned(1))
    assert table.done(FULL_AT + 1) == []
    assert forgotten == []
    assert table.get(first.key) is first


def test_what_is_full_and_alone_may_be_forgotten_and_what_is_owned_may_not() -> None:
    table, full = BucketTable(), alone(0)
    kept(table, full, owned(1))
    assert table.done(FULL_AT - 1) == []
    assert table.done(FULL_AT) == [full]
    assert len(table) == 2


def test_a_sweep_looks_at_some_and_the_next_one_at_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_table, "LOOKED_AT", 2)
    table, full = BucketTable(), [alone(number) for number in range(3)]
    kept(table, owned(10), owned(11), *full)
    found = [table.done(FULL_AT) for _ in range(3)]
    assert found == [[], full[:2], full[2:]]
