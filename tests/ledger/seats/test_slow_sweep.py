"""What is told again though it has not changed, and when: a heartbeat is 2 s here."""

from __future__ import annotations

import pytest

from proxy.ledger.seats.own_seats import OwnSeats
from proxy.ledger.seats.slow_sweep import MAX_REST, MOST_BEATS, REFRESH, SlowSweep
from proxy.ledger.store import SeatClaim
from tests.ledger.store_contract import member, seat

INTERVAL = 2.0
BEATS = int(REFRESH / INTERVAL)  # of one round


@pytest.fixture
def own() -> OwnSeats:
    return OwnSeats()


def hold(own: OwnSeats, *claims: SeatClaim) -> None:
    """Held, and told."""
    for claim in claims:
        own.take_alone(claim)
    own.told(own.take_marked(len(claims)))


def swept(sweep: SlowSweep, own: OwnSeats, beats: int, since: int = 0) -> list[int]:
    """How many seats each heartbeat told again."""
    found = []
    for beat in range(since, since + beats):
        claims = sweep.sweep((beat + 1) * INTERVAL)
        seats = own.take_marked(10_000)
        assert {(claim.key, claim.member) for claim in claims} == {(one.key, one.member) for one in seats}
        own.told(seats)
        found.append(len(seats))
    return found


def test_every_seat_is_told_once_in_a_round_a_few_at_a_time(own: OwnSeats) -> None:
    hold(own, *(seat(f"k{i}") for i in range(BEATS * 2)), *(member(f"user {i}") for i in range(BEATS)))
    sweep = SlowSweep(own, INTERVAL, 0.0)
    for turn in range(2):
        assert set(swept(sweep, own, BEATS, turn * BEATS)) == {3}


def test_few_seats_are_told_as_seldom(own: OwnSeats) -> None:
    hold(own, seat("one"), seat("other"))
    sweep = SlowSweep(own, INTERVAL, 0.0)
    for turn in range(3):
        assert sum(swept(sweep, own, BEATS, turn * BEATS)) in (1, 2, 3)  # what is due is counted in fractions


def test_who_has_left_is_told_no_more(own: OwnSeats) -> None:
    hold(own, seat("stays"), seat("goes"))
    sweep = SlowSweep(own, INTERVAL, 0.0)
    assert sum(swept(sweep, own, 1)) == 0
    own.leave(seat("goes"))
    own.told(own.take_marked(1))
    again = {claim.key for beat in range(1, 2 * BEATS) for claim in sweep.sweep(beat * INTERVAL)}
    assert again == {seat("stays").key}


def test_a_rest_that_is_too_long_tells_all(own: OwnSeats) -> None:
    hold(own, *(seat(f"k{i}") for i in range(10)))
    sweep = SlowSweep(own, INTERVAL, 0.0)
    sweep.rest(MAX_REST - 1)
    assert own.untold == 0
    sweep.rest(MAX_REST + 1)
    assert own.untold == 10
    own.told(own.take_marked(10))
    sweep.rest(2 * MAX_REST)
    assert own.untold == 0
    sweep.rest(2 * MAX_REST + 2)
    assert own.untold == 10


def test_rests_count_together_and_what_is_swept_between_them_does_not(own: OwnSeats) -> None:
    hold(own, seat())
    sweep = SlowSweep(own, INTERVAL, 0.0)
    now = 0.0
    for _ in range(3):
        now += MAX_REST / 4
        sweep.rest(now)
        now += MAX_REST
        sweep.sweep(now)
    own.told(own.take_marked(1))
    sweep.rest(now + MAX_REST / 8)
    assert own.untold == 0
    sweep.rest(now + MAX_REST / 2)
    assert own.untold == 1


def test_a_heartbeat_that_comes_late_brings_what_is_due_by_then(own: OwnSeats) -> None:
    hold(own, *(seat(f"k{i}") for i in range(BEATS)))
    sweep = SlowSweep(own, INTERVAL, 0.0)
    assert len(sweep.sweep(10 * INTERVAL)) == 10
    assert len(sweep.sweep(10 * INTERVAL)) == 0
    assert len(sweep.sweep(BEATS * INTERVAL)) == MOST_BEATS
