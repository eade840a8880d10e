"""When the store is told again what has not changed: every own seat once in REFRESH seconds, so that its key does not expire.

It goes with the heartbeats, each time a share of the seats for the time since the last, and rests while there are none. Without memory
that may last for days, so when it has rested for MAX_REST seconds all are told again at once: the last word about a seat is 17 hours
old at most, and its key lives for 24.

Pure: times are seconds of one clock that does not go backwards, passed in.
"""

from __future__ import annotations

from typing import Final

from proxy.ledger.seats.own_seats import OwnSeats, Seat
from proxy.ledger.store import SeatClaim

REFRESH: Final = 8 * 3600.0  # seconds; a third of what a key lives
MAX_REST: Final = 3600.0  # seconds, taken together
MOST_BEATS: Final = 20  # heartbeats that one share makes up for, while something else took long: a thousandth of a round or so


class SlowSweep:
    """`interval`: seconds between heartbeats."""

    def __init__(self, own: OwnSeats, interval: float, now: float) -> None:
        self._own = own
        self._interval = interval
        self._seats: list[Seat] = []  # that are to be told in this round
        self._rate = 0.0  # of them, per second
        self._due = 0.0
        self._last = now
        self._rested = 0.0  # seconds

    def sweep(self, now: float) -> list[SeatClaim]:
        """Mark a share of the own seats. Returns claims whose keys are to be looked at."""
        passed = min(now - self._last, MOST_BEATS * self._interval)
        self._last = now
        if not self._seats:
            self._seats = list(self._own)
            self._rate = len(self._seats) / REFRESH
        self._due = min(self._due + self._rate * passed, len(self._seats))
        claims = []
        while self._due >= 1:
            self._due -= 1
            seat = self._seats.pop()
            if seat.held:
                self._own.mark(seat)
                claims.append(SeatClaim(seat.rule, seat.key, 0, member=seat.member))
        return claims

    def rest(self, now: float) -> None:
        """It is not swept now; if that goes on for too long, mark all."""
        self._rested += now - self._last
        self._last = now
        if self._rested > MAX_REST:
            self._rested = 0.0
            self._own.mark_all()
