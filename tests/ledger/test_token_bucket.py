"""Token buckets against exact arithmetic. Nothing here reads a clock."""

from __future__ import annotations

import random
from fractions import Fraction
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.ledger.token_bucket import TokenBucket

NOW = 1000.0


class ExactBucket:
    """The same in fractions: no rounding anywhere."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = Fraction(rate)
        self.burst = Fraction(burst) if rate > 0 else Fraction(0)
        self.level = self.burst
        self.stamp = Fraction(now)

    def at(self, now: float) -> Fraction:
        """The level at a time; the bucket knows of no later time than the one it was spent from last."""
        if Fraction(now) < self.stamp:
            self.stamp = Fraction(now)
        return min(self.burst, self.level + (Fraction(now) - self.stamp) * self.rate)

    def spend(self, cost: float, now: float) -> None:
        self.level = self.at(now) - Fraction(cost)
        self.stamp = Fraction(now)


class TestAtOneInstant:
    def test_a_new_bucket_is_full(self) -> None:
        bucket = TokenBucket(1, 3, NOW)
        assert [bucket.take(1, NOW) for _ in range(4)] == [True, True, True, False]

    def test_whole_tokens_are_exact_however_many(self) -> None:
        bucket = TokenBucket(0.1, 100_000, NOW)
        assert all(bucket.take(1, NOW) for _ in range(100_000))
        assert not bucket.take(1, NOW)
        assert bucket.level == 0

    def test_a_refused_charge_changes_nothing(self) -> None:
        bucket = TokenBucket(1, 3, NOW)
        assert bucket.take(1, NOW)
        for _ in range(100):
            assert not bucket.take(2.5, NOW)
        assert bucket.take(2, NOW)

    def test_asking_takes_nothing(self) -> None:
        bucket = TokenBucket(1, 2, NOW)
        for i in range(100):
            assert bucket.would_pass(2, NOW)
            assert bucket.wait(3, NOW + i) == inf
        assert bucket.take(2, NOW)

    def test_spend_takes_what_would_pass_found(self) -> None:
        bucket = TokenBucket(1, 3, NOW)
        assert bucket.take(3, NOW)
        assert bucket.would_pass(2, NOW + 2.5)
        bucket.spend(2, NOW + 2.5)
        assert (bucket.level, bucket.stamp) == (0.5, NOW + 2.5)

    def test_exactly_enough_is_enough(self) -> None:
        bucket = TokenBucket(1, 1.5, NOW)
        assert bucket.take(1.5, NOW)
        assert not bucket.take(1e-9, NOW)


class TestRefill:
    def test_tokens_come_with_time(self) -> None:
        bucket = TokenBucket(2, 4, NOW)
        assert bucket.take(4, NOW)
        assert not bucket.take(1, NOW + 0.49)
        assert bucket.take(1, NOW + 0.5)
        assert not bucket.take(1, NOW + 0.5)

    def test_refused_charges_do_not_delay_the_refill(self) -> None:
        bucket = TokenBucket(1, 1, NOW)
        assert bucket.take(1, NOW)
        for i in range(1, 64):
            assert not bucket.take(1, NOW + i / 64)
        assert bucket.take(1, NOW + 1)

    def test_never_more_than_the_burst(self) -> None:
        bucket = TokenBucket(10, 3, NOW)
        assert bucket.take(3, NOW)
        assert not bucket.would_pass(3.0001, NOW + 1e9)
        assert bucket.take(3, NOW + 1e9)
        assert not bucket.take(0.5, NOW + 1e9)
        assert not bucket.would_pass(3.25, NOW + 1e9 + 0.35)

    def test_fractional_rates(self) -> None:
        bucket = TokenBucket(0.25, 1, NOW)
        assert bucket.take(1, NOW)
        assert not bucket.take(1, NOW + 3.99)
        assert bucket.take(1, NOW + 4)

    def test_the_rate_holds_over_any_window(self) -> None:
        bucket = TokenBucket(10, 20, NOW)
        passed = sum(bucket.take(1, NOW + i / 1000) for i in range(60_001))
        assert passed == 20 + 10 * 60


class TestNever:
    def test_mistake_a_rate_of_0_divides_by_zero(self) -> None:
        bucket = TokenBucket(0, 5, NOW)
        assert not bucket.take(1, NOW)
        assert not bucket.take(1, NOW + 1e9)
        assert bucket.wait(1, NOW) == inf
        assert bucket.wait(0, NOW) == 0
        assert bucket.full_at() == NOW

    def test_a_cost_above_the_burst_never_passes(self) -> None:
        bucket = TokenBucket(1, 3, NOW)
        assert not bucket.take(3.5, NOW + 1e9)
        assert bucket.wait(3.5, NOW + 1e9) == inf
        assert bucket.take(3, NOW + 1e9)

    def test_a_rate_too_small_to_wait_for_is_never_and_does_not_overflow(self) -> None:
        bucket = TokenBucket(5e-324, 1, NOW)
        assert bucket.take(1, NOW)
        assert bucket.wait(1, NOW) == inf
        assert bucket.full_at() == inf


class TestTimeThatGoesBackwards:
    def test_nothing_is_given_or_taken_for_the_gap(self) -> None:
        bucket = TokenBucket(1, 10, NOW)
        assert bucket.take(7, NOW)
        assert not bucket.would_pass(4, NOW - 500)
        assert bucket.take(3, NOW - 500)
        assert not bucket.take(1, NOW - 500)

    def test_tokens_come_from_the_new_time_on(self) -> None:
        bucket = TokenBucket(1, 10, NOW)
        assert bucket.take(10, NOW)
        assert bucket.wait(1, NOW - 500) == 1
        assert bucket.take(1, NOW - 499)
        assert not bucket.take(1, NOW - 499)

    def test_a_clock_that_jumps_to_and_fro_gives_only_what_its_steps_forward_are_worth(self) -> None:
        bucket = TokenBucket(1, 100, NOW)
        assert bucket.take(100, NOW)
        for _ in range(10):
            assert not bucket.would_pass(11, NOW - 1)
            bucket.would_pass(0, NOW)
        assert bucket.wait(1, NOW - 5) == 1


class TestWait:
    @pytest.mark.parametrize("rate", [0.001, 0.1, 1 / 3, 1.0, 7.0, 10.0, 999.9])
    @pytest.mark.parametrize("cost", [0.5, 1.0, 2.0])
    @pytest.mark.parametrize("now", [0.0, 3.7, 12345.678, 1_000_000.1])
    def test_is_the_time_from_which_on_it_works(self, rate: float, cost: float, now: float) -> None:
        def drained() -> TokenBucket:
            bucket = TokenBucket(rate, 2, now)
            assert bucket.take(2, now)
            return bucket

        wait = drained().wait(cost, now)
        assert wait == pytest.approx(cost / rate)
        assert drained().take(cost, now + wait + 1e-9)
        assert not drained().take(cost, now + wait * (1 - 1e-6) - 1e-8)

    def test_is_0_when_the_tokens_are_there(self) -> None:
        bucket = TokenBucket(1, 2, NOW)
        assert bucket.wait(2, NOW) == 0

    def test_counts_what_came_since_the_last_spending(self) -> None:
        bucket = TokenBucket(1, 2, NOW)
        assert bucket.take(2, NOW)
        assert bucket.wait(2, NOW + 0.5) == 1.5


class TestFullAt:
    def test_of_a_full_bucket_is_its_stamp(self) -> None:
        assert TokenBucket(1, 5, NOW).full_at() == NOW

    def test_of_a_spent_one_is_when_the_last_token_is_back(self) -> None:
        bucket = TokenBucket(2, 5, NOW)
        assert bucket.take(3, NOW)
        assert bucket.full_at() == NOW + 1.5
        assert bucket.take(5, NOW + 1.5)


def test_a_million_steps_do_not_drift() -> None:
    """Against the same steps in fractions: times in ticks of 2^-20 s, so that the reference can count in integers."""
    tick = 1 << 20
    rate = 10.0
    burst = 20 * tick
    choose = random.Random(1)
    bucket = TokenBucket(rate, 20, 0.0)
    level = burst
    ticks = 0
    for _ in range(1_000_000):
        step = choose.randrange(tick // 4)
        ticks += step
        level = min(burst, level + step * 10)
        exact = level >= tick
        assert bucket.take(1.0, ticks / tick) == exact
        if exact:
            level -= tick
    assert Fraction(bucket.level) == Fraction(level, tick) or abs(Fraction(bucket.level) - Fraction(level, tick)) < Fraction(1, 10**9)


def test_times_that_floats_cannot_hold_stay_within_a_billionth() -> None:
    choose = random.Random(2)
    now = 86_400.123
    bucket, exact = TokenBucket(1 / 3, 7, now), ExactBucket(1 / 3, 7, now)
    for _ in range(20_000):
        now += choose.random() * 5
        if bucket.take(1.0, now):
            exact.spend(1.0, now)
        assert abs(bucket.level - exact.level) < 1e-9


amounts = st.integers(0, 40).map(lambda n: n / 8)
steps = st.lists(st.tuples(st.integers(-16, 64).map(lambda n: n / 16), amounts, st.sampled_from(["take", "ask", "wait"])), max_size=40)


@given(rate=st.integers(0, 32).map(lambda n: n / 16), burst=st.integers(8, 80).map(lambda n: n / 8), steps=steps)
@settings(max_examples=200, deadline=None)
def test_any_history_agrees_with_exact_arithmetic(rate: float, burst: float, steps: list[tuple[float, float, str]]) -> None:
    """Values that floats hold exactly, so every answer must be the exact one; time may go backwards."""
    now = NOW
    bucket, exact = TokenBucket(rate, burst, now), ExactBucket(rate, burst, now)
    for elapsed, cost, what in steps:
        now += elapsed
        missing = Fraction(cost) - exact.at(now)
        if what == "ask":
            assert bucket.would_pass(cost, now) == (missing <= 0)
        elif what == "wait":
            never = cost > exact.burst or not rate
            assert bucket.wait(cost, now) == (0.0 if missing <= 0 else inf if never else float(missing / exact.rate))
        else:
            assert bucket.take(cost, now) == (missing <= 0)
            if missing <= 0:
                exact.spend(cost, now)


@given(
    rate=st.floats(0.001, 1e4),
    burst=st.floats(1, 1e4),
    steps=st.lists(st.tuples(st.floats(0, 100), st.floats(0.01, 10)), max_size=40),
)
@settings(max_examples=100, deadline=None)
def test_the_level_stays_between_0_and_the_burst_and_close_to_the_truth(
    rate: float, burst: float, steps: list[tuple[float, float]]
) -> None:
    """Close: a time near 5,000 s is held to 1e-12 s, which is that many tokens times the rate."""
    now = 5000.0
    bucket, exact = TokenBucket(rate, burst, now), ExactBucket(rate, burst, now)
    for elapsed, cost in steps:
        now += elapsed
        if bucket.take(cost, now):
            exact.spend(cost, now)
        else:
            assert exact.at(now) < cost + 1e-6
        assert 0 <= bucket.level <= burst
        assert abs(bucket.level - exact.level) < 1e-9 * max(1.0, rate)


class TestLine:
    """Those who wait: what they are owed, and when it is there."""

    def test_what_is_owed_is_not_there_for_others_and_the_rest_is(self) -> None:
        bucket = TokenBucket(1, 5, NOW)
        bucket.join(1, 3)
        assert [bucket.would_pass(cost, NOW) for cost in (2, 2.5)] == [True, False]
        assert bucket.take(2, NOW)
        assert bucket.wait(1, NOW) == 1

    def test_each_place_is_due_when_it_and_all_before_it_are_there(self) -> None:
        bucket = TokenBucket(2, 4, NOW)
        assert bucket.take(4, NOW)
        for ticket, cost in ((1, 3), (2, 1), (3, 4)):
            bucket.join(ticket, cost)
        assert [bucket.due(cost, NOW, ticket) for ticket, cost in ((1, 3), (2, 1), (3, 4))] == [NOW + 1.5, NOW + 2, NOW + 4]
        assert bucket.due(1, NOW) == NOW + 4.5  # behind them all

    def test_the_order_is_that_of_tickets_not_of_coming(self) -> None:
        bucket = TokenBucket(1, 1, NOW)
        assert bucket.take(1, NOW)
        for ticket in (5, 2, 9):
            bucket.join(ticket, 1)
        assert [bucket.due(1, NOW, ticket) for ticket in (2, 5, 9)] == [NOW + 1, NOW + 2, NOW + 3]

    def test_what_was_there_earlier_was_due_then_and_is_spent_as_of_then(self) -> None:
        bucket = TokenBucket(1, 1, NOW)
        assert bucket.take(1, NOW)
        bucket.join(1, 1)
        when = bucket.due(1, NOW + 1.25, 1)
        assert when == NOW + 1
        bucket.leave(1, 1)
        bucket.spend_due(1, when)
        assert bucket.due(1, NOW + 1.25) == NOW + 2

    def test_a_line_of_more_than_the_burst_is_served_one_by_one(self) -> None:
        bucket = TokenBucket(1, 1, NOW)
        assert bucket.take(1, NOW)
        bucket.join(1, 1)
        bucket.join(2, 1)
        assert bucket.due(1, NOW + 100, 1) == NOW + 1
        assert bucket.due(1, NOW + 100, 2) == NOW + 101  # not before the first has gone
        bucket.leave(1, 1)
        assert bucket.due(1, NOW + 100, 2) == NOW + 1

    def test_who_would_have_come_before_has_what_a_full_bucket_could_not_keep(self) -> None:
        bucket = TokenBucket(4, 1, NOW)
        assert bucket.take(1, NOW)
        assert bucket.due_since(1, NOW + 1, NOW) == NOW + 0.25
        assert bucket.due_since(1, NOW + 1, NOW + 0.125) == NOW + 0.25
        assert bucket.due_since(1, NOW + 1, NOW + 0.5) == NOW + 0.5
        bucket.spend_due(1, NOW + 0.25)
        assert bucket.due_since(1, NOW + 1, NOW + 0.25) == NOW + 0.5
        bucket.join(1, 1)
        assert bucket.due_since(1, NOW + 1, NOW + 0.25) == bucket.due(1, NOW + 1) == NOW + 1.25  # that is another's
        assert bucket.due_since(2, NOW + 1, NOW + 0.25) == inf

    def test_what_is_spent_as_of_before_the_last_spending_is_spent_as_of_that(self) -> None:
        bucket = TokenBucket(4, 4, NOW)
        assert bucket.take(2, NOW + 1)
        bucket.spend_due(1, NOW + 0.5)
        assert (bucket.level, bucket.stamp) == (1, NOW + 1)

    def test_at_best_all_who_are_before_take_theirs_in_time(self) -> None:
        bucket = TokenBucket(1, 1, NOW)
        assert bucket.take(1, NOW)
        bucket.join(1, 1)
        bucket.join(2, 1)
        assert [bucket.earliest(1, ticket) for ticket in (1, 2, None)] == [NOW + 1, NOW + 2, NOW + 3]
        assert bucket.due(1, NOW + 5, 2) == NOW + 6
        assert bucket.earliest(2) == TokenBucket(0, 1, NOW).earliest(1) == inf

    def test_who_is_the_first_now_is_told_when_its_tokens_are_there(self) -> None:
        bucket = TokenBucket(1, 8, NOW)
        assert bucket.take(8, NOW)
        bucket.tell_first(NOW)
        told: list[float] = []
        bucket.join(1, 8)
        bucket.join(2, 2, told.append)
        bucket.tell_first(NOW)
        assert told == []
        bucket.leave(1, 8)
        bucket.tell_first(NOW)
        assert told == [NOW + 2]

    def test_who_leaves_is_owed_nothing_any_more(self) -> None:
        bucket = TokenBucket(1, 2, NOW)
        for ticket in (1, 2, 3):
            bucket.join(ticket, 0.1)
        for ticket in (2, 1, 3):
            bucket.leave(ticket, 0.1)
        assert bucket.owed == 0
        assert bucket.line is None
        assert bucket.take(2, NOW)

    @pytest.mark.parametrize(("rate", "burst", "cost"), [(0, 5, 1), (1, 5, 5.5)])
    def test_never_is_infinite(self, rate: float, burst: float, cost: float) -> None:
        assert TokenBucket(rate, burst, NOW).due(cost, NOW) == inf

    def test_what_costs_nothing_is_never_due_where_nothing_comes_and_somebody_waits(self) -> None:
        bucket = TokenBucket(0, 5, NOW)
        assert bucket.due(0, NOW) == inf
        bucket.join(1, 1)
        assert bucket.wait(0, NOW) == inf

    def test_what_was_always_there_was_due_when_the_bucket_was_last_spent_from(self) -> None:
        bucket = TokenBucket(1, 5, NOW)
        assert bucket.due(1, NOW + 10) == NOW
        assert bucket.take(2, NOW + 1)
        assert bucket.due(3, NOW + 10) == NOW + 1

    def test_nobody_is_behind_himself(self) -> None:
        bucket = TokenBucket(1, 1, NOW)
        assert bucket.take(1, NOW)
        bucket.join(1, 0.5)
        assert bucket.due(0.5, NOW, 1) == NOW + 0.5

    def test_who_stays_in_line_is_owed_his_own(self) -> None:
        bucket = TokenBucket(1, 5, NOW)
        for ticket, cost in ((1, 1), (2, 2)):
            bucket.join(ticket, cost)
        bucket.leave(1, 1)
        assert bucket.owed == 2

    def test_where_nothing_comes_nothing_is_ever_due_however_little_it_costs(self) -> None:
        bucket = TokenBucket(0, 5, NOW)
        assert bucket.due_since(0, NOW + 1, NOW) == inf
        assert bucket.earliest(0) == inf

    def test_who_would_have_come_when_it_was_there_was_due_when_he_would_have_come(self) -> None:
        bucket = TokenBucket(1, 2, NOW)
        assert bucket.take(1, NOW)
        assert bucket.due_since(1, NOW + 3, NOW + 2) == NOW + 2
        assert bucket.due_since(1, NOW, NOW - 2) == NOW - 2  # just there, and not touched since

    def test_who_would_have_come_before_it_was_there_is_due_behind_those_in_line(self) -> None:
        bucket = TokenBucket(1, 4, NOW)
        assert bucket.take(4, NOW)
        bucket.join(1, 1)
        assert bucket.due_since(1, NOW + 3, NOW + 0.5) == NOW + 2

    def test_a_clock_that_steps_back_is_waited_for_no_longer_than_the_tokens(self) -> None:
        bucket = TokenBucket(1, 1, NOW)
        assert bucket.take(1, NOW)
        bucket.join(1, 1)
        assert bucket.due(1, NOW - 50, 1) == NOW - 49


@given(st.lists(st.tuples(st.integers(1, 8), st.booleans()), min_size=1, max_size=30), st.integers(1, 8))
def test_a_line_passes_at_the_rate_and_in_order(waiting: list[tuple[int, bool]], burst: int) -> None:
    """Everybody joins at once; some leave without their tokens; each of the others passes when it says it is due, or later."""
    bucket = TokenBucket(4, 8, NOW)
    assert bucket.take(8, NOW)
    for ticket, (cost, _) in enumerate(waiting):
        bucket.join(ticket, cost)
    spent = Fraction(0)
    now = NOW
    for ticket, (cost, leaves) in enumerate(waiting):
        if not leaves:
            due = bucket.due(cost, now, ticket)
            spent += cost
            assert Fraction(due) == Fraction(NOW) + spent / 4
            now = max(now, due)
        bucket.leave(ticket, cost)
        if not leaves:
            bucket.spend_due(cost, now)
    assert bucket.line is None
