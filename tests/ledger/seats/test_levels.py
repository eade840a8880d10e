"""What is known of shared token buckets, told with a clock that is moved."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.ledger.seats.levels import NOTHING, Levels
from tests.ledger.store_contract import NOW, seat, token

ME, LATER_ME = b"me", b"me later"
CLAIM = token(rate=1.0, burst=10.0)


def test_of_a_key_that_was_never_told_each_instance_has_its_share_of_a_burst() -> None:
    levels = Levels()
    for _ in range(2):
        assert levels.wait_alone(CLAIM, 4, NOW) == 0
        levels.take_alone(CLAIM, 4, NOW)
    assert levels.wait_alone(CLAIM, 4, NOW) == pytest.approx(2.0)  # 0.5 of 2.5 left, 0.25 a second
    assert levels.wait_alone(token(rate=1.0, burst=2.0, key="small"), 4, NOW) == pytest.approx(2.0)  # half a token, and room for one


def test_of_one_that_was_told_it_has_its_share_of_what_was_left() -> None:
    levels = Levels()
    levels.told(CLAIM, 2.0, NOW, ME)
    assert levels.wait_alone(CLAIM, 2, NOW + 1) == 0  # (2 + 1) / 2
    levels.take_alone(CLAIM, 2, NOW + 1)
    assert levels.wait_alone(CLAIM, 2, NOW + 1) == pytest.approx(1.0)


def test_what_is_told_begins_a_new_share() -> None:
    levels = Levels()
    levels.take_alone(CLAIM, 10, NOW)
    levels.told(CLAIM, 8.0, NOW, ME)
    assert levels.wait_alone(CLAIM, 4, NOW) == 0
    levels.told(CLAIM, 0.0, NOW, ME)
    assert levels.wait_alone(CLAIM, 4, NOW) == pytest.approx(4.0)


def test_the_store_is_to_believe_no_more_than_is_known_until_it_has_answered_the_present_id() -> None:
    levels = Levels()
    ask = [seat(), CLAIM]
    assert levels.doubtful(ask, ME, NOW) is NOTHING
    levels.told(CLAIM, 3.0, NOW, ME)
    assert levels.doubtful(ask, ME, NOW + 1) == {}
    assert levels.doubtful(ask, LATER_ME, NOW + 1) == {CLAIM.key: 4.0}
    assert levels.doubtful(ask, LATER_ME, NOW + 100) == {CLAIM.key: 10.0}
    levels.told(CLAIM, 3.0, NOW, LATER_ME)
    assert levels.doubtful(ask, LATER_ME, NOW) == {}


def test_what_was_taken_here_is_gone_from_the_whole() -> None:
    levels = Levels()
    levels.told(CLAIM, 5.0, NOW, ME)
    levels.take_alone(CLAIM, 2, NOW)
    levels.take_alone(CLAIM, 2, NOW)
    levels.take_alone(CLAIM, 2, NOW)  # there is none left of two and a half
    assert levels.doubtful([CLAIM], ME, NOW) == {CLAIM.key: 3.0}


def test_a_rate_of_0_never_and_is_not_remembered() -> None:
    levels = Levels()
    never = token(rate=0, burst=5)
    levels.told(never, 5.0, NOW, ME)
    assert levels.wait_alone(never, 2, NOW) == inf
    assert levels.wait_alone(token(rate=1, burst=0.5), 2, NOW) == inf
    levels.take_alone(never, 2, NOW)
    assert levels.doubtful([never], LATER_ME, NOW) == {}


def test_mistake_memory_tables_that_never_shrink() -> None:
    levels = Levels(limit=100)
    for i in range(1000):
        levels.told(token(f"k{i}", 0.001, 5.0), 0.0, NOW, ME)
    assert len(levels) == 100
    for i in range(200):
        levels.told(token(f"later {i}", 1.0, 5.0), 4.0, NOW + 10_000 + 2 * i, ME)
    assert len(levels) <= 3


def test_the_one_that_was_used_last_is_kept() -> None:
    levels = Levels(limit=2)
    for key in ("a", "b", "a", "c"):
        levels.told(token(key, 0.001, 5.0), 1.0, NOW, ME)
    asks = [token(key, 0.001, 5.0) for key in "abc"]
    assert set(levels.doubtful(asks, LATER_ME, NOW)) == {b"a", b"c"}


@given(
    st.lists(st.tuples(st.sampled_from(["take", "wait", "told"]), st.integers(0, 40), st.integers(0, 80)), max_size=40), st.integers(1, 5)
)
def test_a_share_never_has_more_than_its_part_of_what_was_told_and_of_the_rate(steps: list[tuple[str, int, int]], sharers: int) -> None:
    levels, now, taken, told_at, level = Levels(), NOW, 0, NOW, 10.0
    for what, eighths, told in steps:
        now += eighths / 8
        if what == "told":
            level, told_at, taken = told / 8, now, 0
            levels.told(CLAIM, level, now, ME)
        elif levels.wait_alone(CLAIM, sharers, now) == 0:
            taken += 1
            levels.take_alone(CLAIM, sharers, now)
        assert taken <= (level + now - told_at) / sharers + 1e-9
