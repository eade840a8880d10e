"""What an instance would have alone, with a clock that is moved."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.ledger.rates.prospect import GRACE, NEWS, SLACK, Prospect

NOW = 1_000.0
RATE = 10.0
BURST = 20.0


class Instances:
    def __init__(self, instances: int) -> None:
        self.instances = instances


def prospect(instances: int = 2, burst: float = BURST) -> Prospect:
    return Prospect(RATE, burst, Instances(instances))


def told(left: float, instances: int = 2, burst: float = BURST) -> Prospect:
    """One of which the store has just said that it has so much left."""
    found = prospect(instances, burst)
    found.told(left - SLACK * RATE, NOW)
    found.asked(NOW)
    return found


class TestShares:
    def test_those_who_use_it_have_one_each_and_later_all_who_may(self) -> None:
        found = prospect(instances=5)
        found.used_by(2, NOW)
        assert (found.rate(NOW), found.burst(NOW)) == (RATE / 2, BURST / 2)
        assert (found.rate(NOW + NEWS), found.burst(NOW + NEWS)) == (RATE / 5, BURST / 5)

    def test_those_who_used_it_are_not_forgotten_because_fewer_are_known(self) -> None:
        found = prospect(instances=1)
        found.used_by(4, NOW)
        assert found.rate(NOW + NEWS) == RATE / 4

    def test_of_a_small_burst_a_share_is_a_token_all_the_same(self) -> None:
        """Or no message would ever pass."""
        assert prospect(instances=30).burst(NOW) == GRACE
        assert prospect(instances=30, burst=0.5).burst(NOW) == 0.5


class TestMost:
    def test_is_unknown_before_anybody_has_told(self) -> None:
        assert prospect().most(NOW) == inf

    def test_grows_at_the_rate_of_the_whole_bucket(self) -> None:
        found = prospect()
        found.told(3.0, NOW)
        assert found.most(NOW + 1.0) == 3.0 + (1.0 + SLACK) * RATE


class TestAlone:
    @pytest.mark.parametrize(("left", "share"), [(0.0, GRACE), (12.0, 6), (100.0, 10)])
    def test_begins_with_a_share_of_what_was_left(self, left: float, share: float) -> None:
        found = told(left)
        assert found.alone(NOW) == found.in_advance(NOW) == pytest.approx(share)

    def test_begins_with_a_share_of_the_burst_where_nothing_was_told_but_not_in_advance(self) -> None:
        found = prospect()
        found.asked(NOW)
        assert found.alone(NOW) == BURST / 3
        assert found.in_advance(NOW) == GRACE

    def test_grows_from_the_question_at_a_share_of_the_rate_up_to_a_share_of_the_burst(self) -> None:
        found = told(4.0)
        found.asked(NOW + 0.1)  # nothing came since the first one
        assert [found.alone(NOW + seconds) for seconds in (0.0, 1.0, 60.0)] == pytest.approx([2, 7, 10])

    def test_does_not_grow_before_anything_was_asked(self) -> None:
        found = prospect()
        assert found.alone(NOW) == BURST / 3

    def test_grows_from_an_answer_that_gave_nothing_yet(self) -> None:
        found = told(4.0)
        found.begin(4.0, NOW)
        found.put_off(NOW + 0.1)
        assert found.alone(NOW + 0.1) == 4.0
        assert found.alone(NOW + 0.3) == pytest.approx(5.0)

    def test_begins_anew_with_every_answer(self) -> None:
        found = told(4.0)
        found.told(0.0 - SLACK * RATE, NOW + 1.0)
        found.asked(NOW + 1.0)
        assert found.alone(NOW + 1.0) == GRACE

    def test_goes_on_with_what_it_had_when_it_was_alone_last(self) -> None:
        found = told(4.0)
        found.begin(8.0, NOW + 1.0)
        found.asked(NOW + 1.5)
        assert [found.alone(NOW + seconds) for seconds in (1.0, 1.2, 60.0)] == pytest.approx([8, 9, 10])
        found.begin(17.0, NOW + 1.0)  # it had a larger share
        assert (found.alone(NOW + 1.0), found.saved) == (10, 0)
        found.begin(17.0, NOW + 1.0, is_saving=True)
        assert (found.alone(NOW + 1.0), found.in_advance(NOW + 1.0), found.saved) == (17, 10, 17)
        found.answered()
        assert found.alone(NOW + 1.0) == pytest.approx(7)

    @given(st.integers(1, 30), st.floats(0.01, 30.0), st.floats(0.0, 30.0))
    def test_all_together_begin_with_the_burst_at_most(self, instances: int, burst: float, left: float) -> None:
        for found in (told(left, instances, burst), prospect(instances, burst)):
            assert found.alone(NOW) * instances <= burst + 1e-9
            assert found.in_advance(NOW) * instances <= burst + 1e-9
