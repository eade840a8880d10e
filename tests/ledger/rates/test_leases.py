"""What is leased, by when it ends."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.ledger.rates.leases import Leases

NOW = 1_000.0


def leases(*pairs: tuple[float, float]) -> Leases:
    """(tokens, seconds from NOW until they end)."""
    found = Leases()
    for tokens, lifetime in pairs:
        found.add(tokens, NOW + lifetime)
    return found


def test_there_is_nothing_before_the_first_one() -> None:
    assert leases().available(NOW) == 0


def test_what_has_ended_is_not_there() -> None:
    both = leases((2.0, 1.0), (3.0, 2.0))
    assert [both.available(NOW + seconds) for seconds in (0.0, 0.99, 1.0, 1.99, 2.0)] == [5, 5, 3, 3, 0]


def test_one_that_comes_behind_one_that_ends_later_ends_in_its_time() -> None:
    """An advance is such a one."""
    both = leases((1.0, 2.0), (3.0, 1.0))
    assert both.available(NOW) == 4
    assert both.available(NOW + 1.0) == 1


def test_the_one_that_ends_first_is_taken_from_first() -> None:
    both = leases((2.0, 2.0), (3.0, 1.0))
    assert both.take(4.0) == 1
    assert both.available(NOW + 1.0) == 1


def test_no_more_is_taken_than_there_is() -> None:
    both = leases((2.0, 1.0), (3.0, 2.0))
    assert both.take(9.0) == 0
    assert both.available(NOW) == 0


def test_nothing_is_left_of_what_was_cleared() -> None:
    both = leases((2.0, 1.0), (3.0, 2.0))
    both.clear()
    assert both.available(NOW) == 0


@given(st.lists(st.tuples(st.sampled_from(["add", "take", "wait"]), st.integers(0, 9)), max_size=60))
def test_is_as_many_single_tokens_each_with_its_end(steps: list[tuple[str, int]]) -> None:
    found, tokens, now = Leases(), list[float](), NOW
    for kind, number in steps:
        if kind == "add":
            found.add(number, now + number)
            tokens = sorted(tokens + [now + number] * number)
        elif kind == "take":
            found.available(now)
            tokens = tokens[number:]
            assert found.take(number) == len(tokens)
        else:
            now += number / 2
        tokens = [end for end in tokens if end > now]
        assert found.available(now) == len(tokens)
