"""A shared bucket as one instance has it, with a clock that is moved and a landlord that says what the test wants."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.ledger.rates.leased_bucket import LATE, LOOK_AGAIN, PAUSE, SPARE, LeasedBucket, Mode
from proxy.ledger.rates.prospect import GRACE, SLACK

NOW = 1_000.0
TIMEOUT = 0.2
PATIENCE = 0.7
LEASE = LATE  # of a bucket whose burst is no small one
SOON = 1.0 / 1024


class Landlord:
    """Remembers what was asked. `is_away`: there is nobody to ask. Answers come in `usual` seconds."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, float]] = []
        self.is_away = False
        self.instances = 2
        self.away_since = inf
        self.usual = inf

    def ask(self, bucket: LeasedBucket, now: float) -> None:
        self.asked.append((bucket.need, bucket.want))
        if self.is_away:
            self.give_up(bucket, now)
        else:
            bucket.asked(now + TIMEOUT, now + PATIENCE, now, self.usual)

    def late(self, bucket: LeasedBucket, now: float) -> None:
        if self.is_away:
            self.give_up(bucket, now)
        else:
            bucket.unanswered()

    def give_up(self, bucket: LeasedBucket, now: float) -> None:
        bucket.go_alone(now)


def shared(rate: float = 10.0, burst: float = 20.0) -> tuple[LeasedBucket, Landlord]:
    landlord = Landlord()
    return LeasedBucket(b"rule:key", rate, burst, landlord), landlord


def drained(rate: float = 10.0, burst: float = 20.0) -> tuple[LeasedBucket, Landlord]:
    """One of which the store has said just now that it is empty."""
    bucket, landlord = shared(rate, burst)
    bucket.lease(0.0, 0.0, NOW - SLACK, NOW - SLACK, -2 * SLACK * rate)
    return bucket, landlord


def passed(bucket: LeasedBucket, times: int, now: float) -> int:
    return sum(bucket.take(1.0, now) for _ in range(times))


class TestShared:
    def test_what_is_not_here_is_asked_for_once_and_nobody_knows_until_the_answer(self) -> None:
        bucket, landlord = shared()
        assert not bucket.would_pass(1.0, NOW)
        assert not bucket.would_pass(1.0, NOW + SOON)
        assert landlord.asked == [(1.0, 1.0)]
        assert bucket.known_at(1.0, NOW) == NOW + TIMEOUT

    def test_looks_empty_to_whoever_reads_its_numbers(self) -> None:
        bucket, _ = shared()
        bucket.asked(NOW + TIMEOUT, NOW + PATIENCE, NOW)
        bucket.lease(5.0, 0.0, NOW, NOW)
        assert (bucket.level, bucket.rate) == (0.0, 0.0)

    def test_a_lease_is_spent_and_then_known_to_be_gone_until_it_is_worth_asking(self) -> None:
        bucket, landlord = shared()
        assert not bucket.take(1.0, NOW)
        bucket.lease(2.0, 0.5, NOW, NOW)
        assert passed(bucket, 5, NOW) == 2
        assert bucket.known_at(1.0, NOW) == NOW
        assert bucket.wait(1.0, NOW) == 0.5
        assert len(landlord.asked) == 1
        assert not bucket.would_pass(1.0, NOW + 0.5)
        assert len(landlord.asked) == 2

    def test_a_lease_ends_counted_from_the_question_not_from_the_answer(self) -> None:
        bucket, _ = shared()
        bucket.would_pass(1.0, NOW)
        bucket.lease(2.0, 0.0, NOW, NOW + 0.1)
        assert bucket.take(1.0, NOW + LEASE - SOON)
        assert not bucket.take(1.0, NOW + LEASE)

    def test_an_old_lease_does_not_live_longer_by_a_new_one(self) -> None:
        bucket, _ = shared()
        bucket.lease(2.0, 0.0, NOW, NOW)
        bucket.lease(3.0, 0.0, NOW + 0.1, NOW + 0.1)
        assert bucket.wait(5.0, NOW + 0.1) == 0
        assert bucket.wait(3.0, NOW + LEASE) == 0
        assert bucket.wait(4.0, NOW + LEASE) > 0

    def test_it_is_asked_for_more_before_the_last_token_is_gone(self) -> None:
        bucket, landlord = shared()
        assert not bucket.take(1.0, NOW)
        bucket.lease(8.0, 0.0, NOW, NOW)
        assert passed(bucket, 4, NOW) == 4
        assert landlord.asked == [(1.0, 1.0)]
        assert passed(bucket, 1, NOW) == 1
        assert landlord.asked[1:] == [(0.0, 10.0)]
        assert passed(bucket, 3, NOW) == 3  # what is there goes on to pass

    def test_it_wants_twice_what_was_gone_too_soon_and_no_more_than_was_used_otherwise(self) -> None:
        bucket, landlord = shared()
        assert not bucket.take(1.0, NOW)
        bucket.lease(2.0, 0.0, NOW, NOW)
        assert passed(bucket, 3, NOW) == 2
        assert landlord.asked[-1] == (1.0, 4.0)
        bucket.lease(4.0, 0.0, NOW, NOW)
        assert passed(bucket, 1, NOW) == 1
        later = NOW + 1
        assert not bucket.take(1.0, later)
        assert landlord.asked[-1] == (1.0, 1.0)

    @pytest.mark.parametrize("pause", [0.004, 0.01, 0.025, 0.06, 0.12, 0.2])
    def test_who_uses_it_steadily_is_lent_hardly_more_than_he_uses(self, pause: float) -> None:
        bucket, landlord = shared(rate=300.0, burst=300.0)
        lent, now = 0.0, NOW
        for _ in range(500):
            while not bucket.take(1.0, now):
                lent += bucket.want
                bucket.lease(bucket.want, 0.0, now, now)
            if bucket.is_asking:
                lent += bucket.want
                bucket.lease(bucket.want, 0.0, now, now)
            now += pause
        assert lent <= 1.15 * 500
        assert len(landlord.asked) <= min(500, 16 * 500 * pause) + 5

    def test_who_had_none_while_he_was_not_to_ask_wants_twice_as_much(self) -> None:
        bucket, landlord = shared()
        assert not bucket.take(1.0, NOW)
        bucket.lease(4.0, 0.2, NOW, NOW)
        assert passed(bucket, 4, NOW + 0.1) == 4
        assert not bucket.take(1.0, NOW + 0.1)
        assert not bucket.take(1.0, NOW + 0.2)
        assert landlord.asked[-1] == (1.0, 8.0)

    def test_who_waits_for_each_frame_far_from_the_store_soon_wants_enough_for_a_round_trip(self) -> None:
        bucket, _ = shared(rate=300.0, burst=300.0)
        now, round_trip, said = NOW, 0.15, 0
        while said < 300:
            while bucket.take(1.0, now):
                said += 1
            now += round_trip
            bucket.lease(min(bucket.want, 45.0), 0.0, now - round_trip, now)
        assert now - NOW < 15 * round_trip

    def test_who_was_not_to_ask_and_had_enough_wants_as_much_again(self) -> None:
        bucket, landlord = shared()
        assert not bucket.take(1.0, NOW)
        bucket.lease(8.0, 0.2, NOW, NOW)
        assert passed(bucket, 6, NOW + 0.1) == 6
        assert passed(bucket, 1, NOW + 0.2) == 1
        assert landlord.asked[1:] == [(0.0, 7.0)]

    def test_it_wants_whole_tokens_since_others_are_not_lent(self) -> None:
        bucket, landlord = shared(burst=200.0)
        landlord.usual = 0.03
        assert not bucket.take(1.0, NOW)
        bucket.lease(1.0, 0.0, NOW, NOW, 0.0)
        assert bucket.take(1.0, NOW)
        assert not bucket.take(1.0, NOW + 1)
        assert bucket.take(0.3, NOW + 1.04)  # in advance
        assert bucket.owes > 0
        bucket.unanswered()
        assert not bucket.take(50.0, NOW + 1.05)
        assert landlord.asked[-1][1] == 51.0

    def test_it_never_wants_more_than_the_shared_bucket_holds(self) -> None:
        bucket, landlord = shared(burst=20.0)
        bucket.lease(20.0, 0.1, NOW, NOW)
        assert passed(bucket, 21, NOW) == 20
        assert not bucket.take(1.0, NOW + 0.1)
        assert landlord.asked[-1] == (1.0, 20.0)

    def test_what_costs_more_than_the_burst_is_refused_without_a_question(self) -> None:
        bucket, landlord = shared(burst=20.0)
        assert not bucket.would_pass(21.0, NOW)
        assert bucket.known_at(21.0, NOW) == NOW
        assert bucket.due(21.0, NOW) == bucket.wait(21.0, NOW) == inf
        assert landlord.asked == []

    def test_all_who_wait_are_woken_once_by_the_answer(self) -> None:
        bucket, _ = shared()
        woken: list[str] = []
        bucket.would_pass(1.0, NOW)
        bucket.call_when_known(lambda: woken.append("first"))
        bucket.call_when_known(lambda: woken.append("second"))
        bucket.lease(0.0, 0.1, NOW, NOW)
        bucket.lease(1.0, 0.1, NOW, NOW)
        assert woken == ["first", "second"]


class TestLine:
    def test_who_waits_looks_again_soon_while_the_answer_is_awaited(self) -> None:
        bucket, _ = shared()
        assert bucket.due(1.0, NOW) == NOW + LOOK_AGAIN
        assert bucket.due(1.0, NOW + TIMEOUT - SOON) == NOW + TIMEOUT

    def test_who_waits_knows_when_it_is_worth_asking(self) -> None:
        bucket, _ = shared()
        bucket.lease(0.0, 0.4, NOW, NOW)
        assert bucket.due(1.0, NOW) == NOW + 0.4

    def test_whoever_asks_first_needs_what_the_first_in_line_needs(self) -> None:
        bucket, landlord = shared()
        bucket.join(1, 15.0)
        assert bucket.due(1.0, NOW, 2) > NOW
        assert landlord.asked == [(15.0, 16.0)]

    def test_what_is_owed_to_those_in_line_is_not_there_for_others(self) -> None:
        bucket, _ = shared()
        bucket.join(1, 2.0)
        bucket.lease(2.0, 0.1, NOW, NOW)
        assert not bucket.would_pass(1.0, NOW)
        assert bucket.due(2.0, NOW, 1) == NOW
        assert bucket.due(1.0, NOW, 2) > NOW
        bucket.leave(1, 2.0)
        bucket.spend_due(2.0, NOW)
        assert not bucket.would_pass(1.0, NOW)


class TestOwned:
    def test_is_a_token_bucket_like_any_other(self) -> None:
        bucket, landlord = shared(rate=10.0, burst=20.0)
        bucket.own(3.0, b"1", NOW)
        assert passed(bucket, 5, NOW) == 3
        assert passed(bucket, 50, NOW + 1) == 10
        assert bucket.wait(1.0, NOW + 1) == 0.1
        assert bucket.due(1.0, NOW + 1) == NOW + 1.1
        assert landlord.asked == []
        assert bucket.known_at(1.0, NOW + 1) == NOW + 1

    def test_leases_of_before_do_not_come_on_top(self) -> None:
        bucket, _ = shared()
        bucket.lease(5.0, 0.0, NOW, NOW)
        bucket.own(3.0, b"1", NOW)
        assert passed(bucket, 10, NOW) == 3
        bucket.share(NOW)
        assert passed(bucket, 10, NOW) == 0

    def test_is_given_back_with_what_it_has_then(self) -> None:
        bucket, _ = shared(rate=10.0)
        bucket.own(3.0, b"1", NOW)
        assert bucket.share(NOW + 0.5) == 8.0
        assert bucket.mode is Mode.SHARED
        assert not bucket.take(1.0, NOW + 0.5)


class TestSmallBurst:
    """Less than a quarter of a second's worth: the bucket fills a little beyond it while it is shared, and its leases end earlier."""

    def test_wants_what_the_shared_bucket_holds_and_leases_end_as_much_earlier(self) -> None:
        bucket, landlord = shared(rate=100.0, burst=20.0)
        bucket.lease(20.0, 0.1, NOW, NOW)
        assert passed(bucket, 21, NOW) == 20
        assert not bucket.take(1.0, NOW + 0.1)
        assert landlord.asked[-1] == (1.0, 20.0 + 100.0 * SPARE)
        bucket.lease(2.0, 0.1, NOW, NOW)
        assert bucket.take(1.0, NOW + LATE - SPARE - SOON)
        assert not bucket.take(1.0, NOW + LATE - SPARE)


class TestNoAnswer:
    """The store is there, but an answer is late."""

    def test_nothing_passes_and_it_is_asked_for_again(self) -> None:
        bucket, landlord = shared(rate=1_000.0)
        assert not bucket.would_pass(1.0, NOW)
        assert not bucket.would_pass(1.0, NOW + TIMEOUT)
        assert bucket.mode is Mode.SHARED
        assert landlord.asked == [(1.0, 1.0), (1.0, 1.0)]
        assert bucket.known_at(1.0, NOW + TIMEOUT) == NOW + TIMEOUT + TIMEOUT

    def test_who_waits_is_woken_to_ask_again(self) -> None:
        bucket, landlord = shared()
        woken: list[str] = []
        assert not bucket.would_pass(1.0, NOW)
        bucket.call_when_known(lambda: woken.append("one"))
        landlord.late(bucket, NOW + TIMEOUT)
        assert woken == ["one"]
        assert not bucket.is_asking

    def test_nobody_waits_longer_than_the_landlord_said_first_and_then_all_are_refused_for_a_while(self) -> None:
        bucket, landlord = shared()
        now = NOW
        assert not bucket.would_pass(1.0, now)
        while now < NOW + PATIENCE:
            assert now < bucket.known_at(1.0, now) <= NOW + PATIENCE
            bucket.call_when_known(lambda: None)
            now = bucket.known_at(1.0, now)
            assert not bucket.would_pass(1.0, now)
        assert bucket.known_at(1.0, now) == now
        bucket.call_when_known(lambda: None)
        landlord.late(bucket, now)
        assert not bucket.would_pass(1.0, now + PAUSE)
        assert bucket.known_at(1.0, now + PAUSE) == now + PAUSE
        bucket.call_when_known(lambda: None)
        landlord.late(bucket, now)
        later = now + PAUSE + SOON
        assert not bucket.would_pass(1.0, later)
        assert bucket.known_at(1.0, later) == later + TIMEOUT

    def test_who_passed_in_advance_takes_no_patience_from_who_comes_later(self) -> None:
        bucket, landlord = shared(rate=1.0, burst=20.0)
        landlord.usual = 0.03
        assert not bucket.would_pass(1.0, NOW)
        bucket.call_when_known(lambda: None)
        assert bucket.take(1.0, NOW + 0.03)
        landlord.late(bucket, NOW + TIMEOUT)
        later = NOW + PATIENCE + 0.2
        assert not bucket.would_pass(1.0, later)
        assert bucket.known_at(1.0, later) == later + TIMEOUT

    def test_a_question_that_failed_long_ago_prolongs_no_wait(self) -> None:
        bucket, landlord = shared()
        assert not bucket.would_pass(1.0, NOW)
        landlord.late(bucket, NOW + TIMEOUT)
        assert not bucket.would_pass(1.0, NOW + TIMEOUT)
        bucket.lease(0.0, 0.0, NOW + TIMEOUT, NOW + TIMEOUT)
        later = NOW + 10.0
        assert not bucket.would_pass(1.0, later)
        bucket.put_off(b"bob:1", later + 0.4, later + 0.1)
        bucket.asked(later + 9.0, later + 0.3 + PATIENCE, later + 0.3)
        assert bucket.known_at(1.0, later + 0.3) == later + PATIENCE

    def test_what_was_asked_for_ahead_of_need_takes_no_patience_from_anybody(self) -> None:
        bucket, landlord = shared()
        assert not bucket.would_pass(1.0, NOW)
        landlord.late(bucket, NOW + TIMEOUT)
        assert not bucket.would_pass(1.0, NOW + PATIENCE)
        assert bucket.known_at(1.0, NOW + PATIENCE) == NOW + PATIENCE + TIMEOUT

    def test_an_answer_ends_the_patience_with_the_question(self) -> None:
        bucket, _ = shared()
        assert not bucket.would_pass(1.0, NOW)
        bucket.lease(1.0, 0.0, NOW, NOW + 0.1)
        assert bucket.take(1.0, NOW + 0.1)
        later = NOW + PATIENCE
        assert not bucket.would_pass(1.0, later)
        assert bucket.known_at(1.0, later) == later + TIMEOUT

    def test_an_owner_elsewhere_is_waited_for_beyond_the_deadline_of_the_question(self) -> None:
        bucket, _ = shared()
        assert not bucket.would_pass(1.0, NOW)
        bucket.put_off(b"bob:1", NOW + 0.4, NOW + 0.1)
        assert not bucket.would_pass(1.0, NOW + TIMEOUT)
        assert bucket.known_at(1.0, NOW + TIMEOUT) == NOW + 0.4


class TestAdvance:
    """An answer is later than answers are: what the bucket had if it were alone passes, and is paid back."""

    USUAL = 0.03

    def late_one(self, rate: float = 10.0, burst: float = 20.0) -> LeasedBucket:
        bucket, landlord = drained(rate, burst)
        landlord.usual = self.USUAL
        assert not bucket.would_pass(1.0, NOW)
        return bucket

    def test_a_frame_waits_until_the_answer_is_late_and_then_passes(self) -> None:
        bucket = self.late_one()
        late = bucket.known_at(1.0, NOW)
        assert late == NOW + self.USUAL
        assert not bucket.take(1.0, late - SOON)
        assert bucket.take(1.0, late)
        assert bucket.mode is Mode.SHARED

    def test_what_it_would_not_have_alone_waits_until_it_would_and_no_longer_than_for_the_answer(self) -> None:
        bucket = self.late_one(rate=10.0)
        late = NOW + self.USUAL
        assert bucket.take(1.0, late)
        then = bucket.known_at(0.5, late)
        assert then == pytest.approx(NOW + 0.1)  # half a token, at half of the rate
        assert not bucket.take(0.5, then - SOON)
        assert bucket.take(0.5, then + 1e-9)
        assert bucket.known_at(5.0, then) == NOW + TIMEOUT

    def test_what_is_owed_to_those_in_line_is_waited_for_first(self) -> None:
        bucket = self.late_one()
        bucket.join(1, 1.0)
        late = NOW + self.USUAL
        assert bucket.known_at(1.0, NOW) > late
        assert not bucket.take(1.0, late)
        assert bucket.due(1.0, late, 1) == late

    @pytest.mark.parametrize("answer", ["lease", "own"])
    def test_it_is_paid_back_from_the_answer_and_once(self, answer: str) -> None:
        bucket = self.late_one()
        late = NOW + self.USUAL
        assert bucket.take(1.0, late)
        if answer == "lease":
            bucket.lease(4.0, 0.1, NOW, late)
        else:
            bucket.own(4.0, b"1", late)
        assert passed(bucket, 10, late) == 3
        if answer == "own":
            bucket.share(late)
        bucket.lease(4.0, 0.1, late, late)
        assert passed(bucket, 10, late) == 4

    def test_what_the_answer_does_not_pay_is_asked_for_and_paid_by_the_next_one(self) -> None:
        bucket, landlord = drained()
        landlord.usual = self.USUAL
        assert not bucket.would_pass(1.0, NOW)
        late = NOW + self.USUAL
        assert bucket.take(1.0, late)
        bucket.lease(0.0, 0.5, NOW, late, -5.0)  # so that it is empty when it asks again
        then = late + 0.5
        assert not bucket.take(1.0, then)
        assert landlord.asked[-1] == (2.0, 2.0)
        assert not bucket.take(1.0, then + self.USUAL)  # the debt stands
        bucket.lease(2.0, 0.1, then, then + 0.1)
        assert passed(bucket, 10, then + 0.1) == 1

    def test_it_is_no_gift_to_a_bucket_that_goes_alone(self) -> None:
        bucket = self.late_one(rate=10.0)
        late = NOW + self.USUAL
        assert bucket.take(1.0, late)
        bucket.go_alone(NOW + TIMEOUT)
        assert bucket.level == pytest.approx(TIMEOUT * 5.0)
        bucket.rejoin(NOW + TIMEOUT)
        assert not bucket.would_pass(2.0, NOW + TIMEOUT)

    def test_an_owner_elsewhere_is_not_waited_for_either(self) -> None:
        bucket = self.late_one()
        bucket.put_off(b"bob:1", NOW + 0.35, NOW + 0.01)
        assert bucket.known_at(1.0, NOW + 0.01) == NOW + self.USUAL
        assert bucket.take(1.0, NOW + self.USUAL)

    def test_of_what_nobody_knows_one_token_passes_and_of_what_was_left_a_share(self) -> None:
        for left, share in ((None, 1), (12.0, 6)):
            bucket, landlord = shared()
            if left is not None:
                bucket.lease(0.0, 0.0, NOW - SLACK, NOW - SLACK, left - 2 * SLACK * 10.0)
            landlord.usual = self.USUAL
            assert not bucket.would_pass(1.0, NOW)
            assert passed(bucket, 20, NOW + self.USUAL) == share

    def test_where_nobody_knows_how_long_answers_take_it_waits(self) -> None:
        bucket, _ = shared()
        assert not bucket.would_pass(1.0, NOW)
        assert not bucket.would_pass(1.0, NOW + TIMEOUT - SOON)
        assert bucket.known_at(1.0, NOW) == NOW + TIMEOUT

    @given(
        st.lists(st.tuples(st.sampled_from(["take", "lease", "own", "late", "alone"]), st.floats(0, 0.2), st.integers(0, 5)), max_size=50)
    )
    def test_never_more_passes_than_was_given_and_what_it_would_have_alone(self, steps: list[tuple[str, float, int]]) -> None:
        bucket, landlord = shared(rate=10.0, burst=5.0)
        landlord.usual = self.USUAL
        share = 5.0 / landlord.instances
        now, total, given_it = NOW, 0.0, share
        for kind, pause, number in steps:
            now += pause
            if kind == "take":
                total += passed(bucket, number, now)
            elif kind == "lease" and bucket.is_asking:
                bucket.lease(float(number), 0.0, now, now, 0.0)
                given_it += number
            elif kind == "late" and bucket.is_asking:
                bucket.unanswered()
            elif kind == "own" and bucket.is_asking:
                bucket.own(float(number), b"1", now)
                bucket.would_pass(0.0, now)
                given_it += number
                total += passed(bucket, number, now)
                bucket.share(now)
            elif kind == "alone" and bucket.mode is Mode.SHARED:
                bucket.go_alone(now)
                bucket.rejoin(now)
                given_it += 5.0  # in each outage, of one that was an owner
            assert total <= given_it + (now - NOW) * 10.0 + 1e-6  # an owner is the only one who used it last


class TestDone:
    """May it be forgotten when nobody uses it?"""

    def test_one_that_the_store_has(self) -> None:
        bucket, _ = shared()
        assert bucket.is_done(NOW)
        bucket.would_pass(1.0, NOW)
        assert not bucket.is_done(NOW)
        bucket.lease(1.0, 0.0, NOW, NOW)
        assert bucket.is_done(NOW)

    def test_not_one_that_is_ours(self) -> None:
        bucket, _ = shared()
        bucket.own(20.0, b"1", NOW)
        assert not bucket.is_done(NOW + 1_000.0)

    def test_one_that_is_alone_when_it_is_full(self) -> None:
        bucket, landlord = shared(rate=10.0, burst=20.0)
        bucket.lease(0.0, 0.0, NOW, NOW, 20.0)
        landlord.give_up(bucket, NOW)
        assert passed(bucket, 5, NOW) == 5
        assert not bucket.is_done(NOW + 1.0 - SOON)
        assert bucket.is_done(NOW + 1.0)

    def test_one_that_owes_when_it_would_be_full_in_any_case(self) -> None:
        bucket, landlord = drained(rate=10.0, burst=20.0)
        landlord.usual = 0.03
        assert not bucket.would_pass(1.0, NOW)
        assert bucket.take(1.0, NOW + 0.03)
        bucket.lease(0.0, 0.1, NOW, NOW + 0.05)
        assert not bucket.is_done(NOW + 2.0)
        assert bucket.is_done(NOW + 2.1)


class TestAbsence:
    def test_is_when_it_was_alone_until_the_store_answers(self) -> None:
        bucket, landlord = shared()
        landlord.away_since = NOW - 1.0
        bucket.go_alone(NOW)
        bucket.rejoin(NOW + 1.0)
        assert bucket.absence == (NOW - 1.0, NOW + 1.0)
        landlord.away_since = NOW + 1.5
        bucket.go_alone(NOW + 2.0)
        bucket.rejoin(NOW + 3.0)
        assert bucket.absence == (NOW - 1.0, NOW + 3.0)
        landlord.away_since = NOW + 600.0
        bucket.go_alone(NOW + 602.0)
        assert bucket.absence == (NOW + 596.0, NOW + 602.0)  # what came between was not for it alone
        bucket.lease(0.0, 0.0, NOW, NOW)
        assert bucket.absence is None


class TestMost:
    def test_is_what_the_store_said_or_what_an_owner_had_when_it_gave_the_bucket_back(self) -> None:
        bucket, _ = shared(rate=10.0)
        assert bucket.most(NOW) == inf
        bucket.lease(0.0, 0.1, NOW, NOW + 0.1, 3.0)
        assert bucket.most(NOW) == 3.0 + SLACK * 10.0
        bucket.own(5.0, b"1", NOW)
        bucket.share(NOW)
        assert bucket.most(NOW) == 5.0 + SLACK * 10.0


class TestAlone:
    def test_it_begins_with_what_the_lease_had_left_and_fills_at_its_share(self) -> None:
        bucket, landlord = drained(rate=10.0)
        bucket.lease(5.0, 0.0, NOW, NOW, 0.0)
        assert passed(bucket, 2, NOW) == 2
        landlord.give_up(bucket, NOW)
        assert passed(bucket, 10, NOW) == 3 + GRACE
        assert passed(bucket, 50, NOW + 1) == 5

    def test_a_lease_that_has_ended_is_not_left(self) -> None:
        bucket, landlord = shared()
        bucket.lease(5.0, 0.0, NOW, NOW, -10.0)
        landlord.give_up(bucket, NOW + LEASE)
        assert passed(bucket, 10, NOW + LEASE) == GRACE

    @pytest.mark.parametrize(("instances", "share"), [(1, 10), (2, 6), (4, 4)])
    def test_one_of_which_nothing_is_known_begins_as_if_there_were_one_more_to_share_it(self, instances: int, share: int) -> None:
        bucket, landlord = shared()
        landlord.instances = instances
        landlord.give_up(bucket, NOW)
        assert passed(bucket, 30, NOW) == share

    @pytest.mark.parametrize(("left", "share"), [(0.0, GRACE), (12.0, 6), (100.0, 10)])
    def test_it_begins_with_a_share_of_what_the_store_said_was_left(self, left: float, share: float) -> None:
        bucket, landlord = shared()
        bucket.lease(0.0, 0.0, NOW, NOW, left)
        landlord.give_up(bucket, NOW)
        assert passed(bucket, 30, NOW) == share

    def test_all_together_never_save_up_more_than_the_burst(self) -> None:
        bucket, landlord = shared(burst=20.0)
        landlord.give_up(bucket, NOW)
        assert passed(bucket, 30, NOW) == 6
        assert passed(bucket, 30, NOW + 1_000.0) == 10
        bucket.rejoin(NOW + 2_000.0)
        assert bucket.burst == 20.0
        bucket.own(20.0, b"1", NOW + 2_000.0)
        assert passed(bucket, 30, NOW + 2_000.0) == 20

    def test_it_may_save_up_for_one_large_frame_and_no_larger_than_the_burst(self) -> None:
        bucket, landlord = shared(rate=10.0, burst=20.0)
        bucket.lease(0.0, 0.0, NOW, NOW, 20.0)
        landlord.give_up(bucket, NOW)
        assert not bucket.take(15.0, NOW)
        assert bucket.wait(15.0, NOW) == 1.0
        assert bucket.due(15.0, NOW) == NOW + 1.0
        assert bucket.take(15.0, NOW + 1.0)
        assert not bucket.take(21.0, NOW + 1_000.0)
        assert bucket.wait(21.0, NOW) == bucket.due(21.0, NOW) == inf

    def test_what_it_saves_up_for_a_large_frame_begins_with_the_frame_and_is_for_nothing_else(self) -> None:
        bucket, landlord = shared(rate=10.0, burst=20.0)
        bucket.lease(0.0, 0.0, NOW, NOW, 20.0)
        landlord.give_up(bucket, NOW)
        later = NOW + 400.0
        assert not bucket.take(20.0, later)  # it has its share, and saves from now on
        assert bucket.wait(20.0, later) == 2.0
        assert passed(bucket, 30, later + 100.0) == 10

    def test_small_frames_that_wait_behind_a_large_one_take_nothing_of_what_it_saves_up(self) -> None:
        bucket, landlord = shared(rate=10.0, burst=20.0)
        bucket.lease(0.0, 0.0, NOW, NOW, 20.0)
        landlord.give_up(bucket, NOW)
        assert bucket.due(20.0, NOW) == NOW + 2.0
        bucket.join(1, 20.0)
        for tenth in range(20):
            assert not bucket.take(1.0, NOW + tenth / 10)
        assert bucket.due(20.0, NOW + 2.0, 1) == NOW + 2.0
        bucket.spend_due(20.0, NOW + 2.0)
        bucket.leave(1, 20.0)
        assert passed(bucket, 30, NOW + 100.0) == 10

    def test_what_is_saved_up_for_a_large_frame_outlives_a_store_that_refuses_again(self) -> None:
        bucket, landlord = shared(rate=10.0, burst=20.0)
        landlord.is_away = True
        bucket.lease(0.0, 0.0, NOW, NOW, 20.0)
        assert not bucket.take(20.0, NOW)
        for second in range(1, 10):
            bucket.rejoin(NOW + second)
            if bucket.take(20.0, NOW + second):
                break
        assert 1 < second <= 4
        bucket.rejoin(NOW + 100.0)
        assert passed(bucket, 30, NOW + 200.0) == 10

    def test_what_was_its_share_when_there_were_fewer_is_not_taken_for_saved_up(self) -> None:
        bucket, landlord = shared(rate=10.0, burst=20.0)
        landlord.instances = 1
        bucket.lease(0.0, 0.0, NOW, NOW, 20.0)
        landlord.give_up(bucket, NOW)
        bucket.rejoin(NOW)
        landlord.instances = 10
        landlord.give_up(bucket, NOW)
        assert (bucket.level, bucket.burst) == (2.0, 2.0)

    def test_what_is_left_beside_a_large_frame_is_a_share_at_most(self) -> None:
        bucket, landlord = shared(rate=10.0, burst=20.0)
        bucket.lease(0.0, 0.0, NOW, NOW, 20.0)
        landlord.give_up(bucket, NOW)
        landlord.is_away = True
        assert not bucket.take(20.0, NOW)
        assert bucket.take(11.0, NOW + 100.0)
        assert passed(bucket, 30, NOW + 100.0) == 9

    def test_where_the_burst_is_less_than_the_instances_it_may_save_up_for_a_message(self) -> None:
        bucket, landlord = shared(rate=10.0, burst=2.0)
        landlord.instances = 5
        landlord.give_up(bucket, NOW)
        assert not bucket.take(1.0, NOW)
        assert passed(bucket, 5, NOW + 1.0) == 1

    @given(st.integers(1, 30), st.floats(0.01, 3.0), st.integers(1, 30))
    def test_all_who_use_it_or_all_instances_begin_with_the_burst_at_most_together(
        self, instances: int, burst: float, sharers: int
    ) -> None:
        total = 0.0
        for _ in range(sharers or instances):
            bucket, landlord = shared(burst=burst)
            bucket.used_by(sharers, NOW)
            landlord.instances = instances
            bucket.go_alone(NOW)
            total += bucket.level
        assert total <= burst + 1e-9

    @pytest.mark.parametrize("instances", [1, 2, 30])
    def test_where_the_burst_has_a_token_for_each_instance_the_first_message_of_an_outage_passes(self, instances: int) -> None:
        bucket, landlord = drained(burst=30.0)
        landlord.instances = instances
        bucket.go_alone(NOW)
        assert passed(bucket, 3, NOW) == 1

    def test_the_only_instance_has_that_token_for_the_frame_that_waited(self) -> None:
        bucket, landlord = drained()
        landlord.instances = 1
        landlord.is_away = True
        assert passed(bucket, 3, NOW) == GRACE
        assert bucket.known_at(1.0, NOW) == NOW

    def test_what_came_while_it_waited_for_an_answer_is_there(self) -> None:
        bucket, landlord = drained(rate=10.0)
        assert not bucket.would_pass(1.0, NOW)
        landlord.is_away = True
        assert bucket.would_pass(1.0, NOW + TIMEOUT)
        assert bucket.mode is Mode.ALONE
        assert passed(bucket, 9, NOW + TIMEOUT) == 2  # one token, and half of two

    def test_what_came_since_the_store_was_lost_is_there_for_who_comes_later(self) -> None:
        bucket, landlord = drained(rate=10.0, burst=20.0)
        landlord.is_away, landlord.away_since = True, NOW
        assert passed(bucket, 30, NOW + 1.0) == 5 + GRACE
        late, landlord = drained(rate=10.0, burst=20.0)
        landlord.is_away, landlord.away_since = True, NOW
        assert passed(late, 30, NOW + 1_000.0) == 10

    def test_what_came_before_it_tried_the_store_again_in_vain_does_not_come_twice(self) -> None:
        bucket, landlord = drained(rate=10.0, burst=20.0)
        landlord.is_away, landlord.away_since = True, NOW
        assert passed(bucket, 30, NOW + 1.0) == 5 + GRACE
        bucket.rejoin(NOW + 1.0)
        landlord.away_since = NOW + 1.2
        assert passed(bucket, 30, NOW + 2.0) == 5

    def test_trying_the_store_in_vain_again_and_again_gives_nothing_on_top(self) -> None:
        bucket, landlord = drained(rate=10.0)
        landlord.is_away = True
        total = 0
        for tenth in range(101):
            now = NOW + tenth / 10
            total += passed(bucket, 10, now)
            bucket.rejoin(now)
        assert total <= GRACE + 10 * 5

    def test_an_owner_that_is_told_late_gets_no_more_than_it_has_alone(self) -> None:
        bucket, landlord = shared()
        landlord.is_away = True
        landlord.instances = 1
        assert passed(bucket, 30, NOW) == 10
        bucket.own(20.0, b"1", NOW)
        assert passed(bucket, 30, NOW) == 0


@given(st.lists(st.tuples(st.sampled_from(["take", "lease", "answer"]), st.floats(0, 0.1), st.integers(0, 9)), max_size=60))
def test_never_more_passes_than_was_leased_and_nothing_that_has_ended(steps: list[tuple[str, float, int]]) -> None:
    """Against a slow model: leases as single tokens, each with its end."""
    bucket, _ = shared(rate=10.0, burst=1_000.0)
    tokens: list[float] = []
    now = NOW
    for kind, pause, number in steps:
        now += pause
        if kind == "lease":
            if not bucket.is_asking:
                bucket.asked(now + 1_000, inf, now)
            bucket.lease(float(number), 0.0, now, now)
            tokens += [now + LEASE] * number
        elif kind == "answer":
            if bucket.is_asking:
                bucket.lease(0.0, 0.0, now, now)
        else:
            if not bucket.is_asking:
                bucket.asked(now + 1_000, inf, now)
            tokens = [end for end in tokens if end > now]
            expected = min(number, len(tokens))
            assert passed(bucket, number, now) == expected
            tokens = tokens[expected:]
