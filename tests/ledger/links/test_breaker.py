"""When nobody waits for the store any more, and when they do again."""

from __future__ import annotations

from proxy.ledger.links.breaker import Breaker


def test_it_opens_after_some_failures_in_a_row_and_says_so_once() -> None:
    breaker = Breaker(failures=3)
    assert [breaker.failed(1.0) for _ in range(5)] == [False, False, True, False, False]
    assert breaker.is_open


def test_one_success_between_them_starts_the_count_again() -> None:
    breaker = Breaker(failures=3)
    for _ in range(10):
        assert not breaker.failed(1.0)
        assert not breaker.failed(1.0)
        assert not breaker.succeeded()
    assert not breaker.is_open


def test_a_success_closes_it_and_says_so_once() -> None:
    breaker = Breaker(failures=1)
    breaker.failed(1.0)
    assert [breaker.succeeded(), breaker.succeeded()] == [True, False]
    assert not breaker.is_open


def test_there_is_one_probe_per_interval_and_none_while_it_is_closed() -> None:
    breaker = Breaker(failures=1, interval=0.5)
    assert not breaker.may_probe(0.0)
    breaker.failed(1.0)
    assert [breaker.may_probe(at) for at in (1.0, 1.49, 1.5, 1.6, 1.99, 2.0)] == [False, False, True, False, False, True]


def test_a_failed_probe_does_not_put_the_next_one_off() -> None:
    breaker = Breaker(failures=3, interval=0.5)
    for at in (0.8, 0.9, 1.0):
        breaker.failed(at)
    assert breaker.may_probe(1.5)
    breaker.failed(1.7)
    assert not breaker.may_probe(1.99)
    assert breaker.may_probe(2.0)
