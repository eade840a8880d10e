"""Penalties: how long each lasts, that none is shortened, and that the table stays small."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.ledger.penalties import Penalties

NOW = 1000.0
ANN, BOB, CAT = b"ann", b"bob", b"cat"


def test_a_penalty_keeps_its_key_out_until_its_end_and_no_other_key() -> None:
    penalties = Penalties()
    penalties.impose(ANN, 30.0, NOW)
    assert [penalties.left(ANN, NOW + seconds) for seconds in (0, 10, 29.5, 30, 31)] == [30, 20, 0.5, 0, 0]
    assert penalties.left(BOB, NOW) == 0


def test_a_later_penalty_makes_it_longer_and_never_shorter() -> None:
    penalties = Penalties()
    penalties.impose(ANN, 30.0, NOW)
    penalties.impose(ANN, 5.0, NOW + 1)
    assert penalties.left(ANN, NOW + 1) == 29
    penalties.impose(ANN, 60.0, NOW + 2)
    assert penalties.left(ANN, NOW + 2) == 60


def test_what_is_over_is_forgotten_and_what_was_made_longer_is_not() -> None:
    penalties = Penalties()
    for key in (ANN, BOB, CAT):
        penalties.impose(key, 10.0, NOW)
    penalties.impose(BOB, 20.0, NOW + 1)
    penalties.sweep(NOW + 9)
    assert len(penalties) == 3
    penalties.sweep(NOW + 10)
    assert len(penalties) == 1
    assert penalties.left(BOB, NOW + 10) == 11
    penalties.sweep(NOW + 21)
    assert len(penalties) == 0


def test_a_sweep_looks_at_no_more_than_it_may() -> None:
    penalties = Penalties()
    for number in range(10):
        penalties.impose(b"%d" % number, 1.0, NOW)
    penalties.sweep(NOW + 2, most=4)
    assert len(penalties) == 6


def test_beyond_the_bound_those_go_first_that_end_first() -> None:
    penalties = Penalties(most=2)
    for key, seconds in ((ANN, 20.0), (BOB, 10.0), (CAT, 30.0)):
        penalties.impose(key, seconds, NOW)
    assert [penalties.left(key, NOW) for key in (ANN, BOB, CAT)] == [20, 0, 30]


def test_penalties_of_one_key_over_and_over_take_one_place() -> None:
    penalties = Penalties(most=2)
    penalties.impose(BOB, 1000.0, NOW)
    for second in range(100):
        penalties.impose(ANN, 1.0, NOW + second)
    assert len(penalties) == 2
    penalties.sweep(NOW + 101)
    assert len(penalties) == 1


@given(st.lists(st.tuples(st.sampled_from([ANN, BOB, CAT]), st.integers(1, 9), st.integers(0, 4), st.booleans())))
def test_any_sequence_agrees_with_a_dict_of_ends(steps: list[tuple[bytes, int, int, bool]]) -> None:
    penalties, ends, now = Penalties(), {ANN: 0, BOB: 0, CAT: 0}, 0
    for key, seconds, later, sweeps in steps:
        now += later
        penalties.impose(key, seconds, now)
        ends[key] = max(ends[key], now + seconds)
        if sweeps:
            penalties.sweep(now)
            assert len(penalties) == sum(end > now for end in ends.values())
        assert [penalties.left(one, now) for one in ends] == [max(0, end - now) for end in ends.values()]
