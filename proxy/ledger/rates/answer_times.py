"""How long answers take, so that one which is late is noticed long before it is given up.

Pure: times are seconds of the monotonic clock.
"""

from __future__ import annotations

from math import inf
from typing import Final

WINDOW: Final = 10.0  # seconds: what was heard in this and the one before counts
LATE: Final = 2.0  # times the longest of them, and an answer is late
SOON: Final = 0.03  # seconds: it is not before


class AnswerTimes:
    """The longest of the last 10 to 20 seconds in which anything was heard."""

    __slots__ = ("_before", "_began", "_longest")

    def __init__(self) -> None:
        self._began = -inf
        self._longest = self._before = 0.0

    def heard(self, seconds: float, now: float) -> None:
        """An answer took so long."""
        if now - self._began > WINDOW:
            self._began = now
            self._before, self._longest = self._longest, 0.0
        self._longest = max(self._longest, seconds)

    def usual(self) -> float:
        """Seconds after which an answer is late. The first one is to be quick: a store that freezes before it holds up nobody either."""
        return max(SOON, LATE * max(self._longest, self._before))
