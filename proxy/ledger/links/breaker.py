"""A circuit breaker: after some failures in a row nobody waits for the store any more, until one probe has got through.

Pure: the caller says what happened and when, in seconds of its monotonic clock. A success closes it whatever was before, so a late
answer of a request that was given up must not be told to it.
"""

from __future__ import annotations

from typing import Final

FAILURES: Final = 3  # in a row; one slow answer is no outage
PROBE_INTERVAL: Final = 0.5  # seconds between probes while it is open


class Breaker:
    """Closed: requests may go. Open: they fail at once, but for a probe every `interval` seconds."""

    __slots__ = ("_failures", "_interval", "_limit", "_next_probe")

    def __init__(self, failures: int = FAILURES, interval: float = PROBE_INTERVAL) -> None:
        self._limit = failures
        self._interval = interval
        self._failures = 0
        self._next_probe = 0.0

    @property
    def is_open(self) -> bool:
        return self._failures >= self._limit

    def failed(self, now: float) -> bool:
        """A request failed or was not answered in time. True if that opened it."""
        self._failures += 1
        if self._failures != self._limit:
            return False  # open already, a failed probe does not put off the next one
        self._next_probe = now + self._interval
        return True

    def succeeded(self) -> bool:
        """A request was answered in time. True if that closed it."""
        was_open = self.is_open
        self._failures = 0
        return was_open

    def may_probe(self, now: float) -> bool:
        """Is it time for a probe? If so that is the one: the next is due an interval later."""
        if not self.is_open or now < self._next_probe:
            return False
        self._next_probe = now + self._interval
        return True
